-- What happened, what was thought about it, and what is to be done.

create table activities (
    id uuid primary key default gen_random_uuid(),
    kind text not null,
    subject text not null default '',
    happened_at timestamptz not null default now(),
    duration_minutes integer,
    company_id uuid references companies (id) on delete cascade,
    contact_id uuid references contacts (id) on delete cascade,
    deal_id uuid references deals (id) on delete cascade,
    user_id uuid references users (id) on delete set null,
    details jsonb not null default '{}',
    created_at timestamptz not null default now(),
    constraint activities_kind_check check (kind in ('call', 'email', 'meeting', 'other')),
    constraint activities_duration_check check (duration_minutes >= 0),
    constraint activities_about_check check (num_nonnulls(company_id, contact_id, deal_id) > 0)
);

comment on table activities is
    'Calls, mails and meetings, each about at least one company, contact or deal.';
comment on column activities.user_id is
    'Who took part on our side; null when that user is gone.';
comment on column activities.details is
    'What only this kind has, such as the message id of a mail.';

create index activities_company_idx
    on activities (company_id, happened_at desc)
    where company_id is not null;
create index activities_contact_idx
    on activities (contact_id, happened_at desc)
    where contact_id is not null;
create index activities_deal_idx
    on activities (deal_id, happened_at desc)
    where deal_id is not null;

create table notes (
    id uuid primary key default gen_random_uuid(),
    body text not null,
    company_id uuid references companies (id) on delete cascade,
    contact_id uuid references contacts (id) on delete cascade,
    deal_id uuid references deals (id) on delete cascade,
    author_id uuid references users (id) on delete set null,
    is_pinned boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint notes_about_check check (num_nonnulls(company_id, contact_id, deal_id) = 1)
);

comment on table notes is
    'Free text about exactly one company, contact or deal.';
comment on column notes.is_pinned is
    'Pinned notes are shown before the newer ones.';

create index notes_company_idx
    on notes (company_id)
    where company_id is not null;
create index notes_contact_idx
    on notes (contact_id)
    where contact_id is not null;
create index notes_deal_idx
    on notes (deal_id)
    where deal_id is not null;

create trigger notes_set_updated_at
    before update on notes
    for each row
    when (old.* is distinct from new.*)
    execute function set_updated_at();

create table tasks (
    id uuid primary key default gen_random_uuid(),
    title text not null,
    due_at timestamptz,
    priority smallint not null default 0,
    assignee_id uuid references users (id) on delete set null,
    company_id uuid references companies (id) on delete cascade,
    deal_id uuid references deals (id) on delete cascade,
    completed_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint tasks_priority_check check (priority between -1 and 1)
);

comment on table tasks is
    'Things to do, about a company, a deal, or nothing in particular.';
comment on column tasks.priority is
    '-1 low, 0 normal, 1 high.';

create index tasks_open_idx
    on tasks (assignee_id, due_at)
    where completed_at is null;
create index tasks_company_idx
    on tasks (company_id)
    where company_id is not null;
create index tasks_deal_idx
    on tasks (deal_id)
    where deal_id is not null;

create trigger tasks_set_updated_at
    before update on tasks
    for each row
    when (old.* is distinct from new.*)
    execute function set_updated_at();
