-- Whom the tenant sells to.

create table companies (
    id uuid primary key default gen_random_uuid(),
    name text not null,
    domain text,
    industry text,
    employee_count integer,
    phone text,
    address jsonb not null default '{}',
    owner_id uuid references users (id) on delete set null,
    custom_fields jsonb not null default '{}',
    archived_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint companies_employee_count_check check (employee_count >= 0),
    constraint companies_address_check check (jsonb_typeof(address) = 'object'),
    constraint companies_custom_fields_check check (jsonb_typeof(custom_fields) = 'object')
);

comment on table companies is
    'Organizations the tenant deals with.';
comment on column companies.domain is
    'Host name of the web site, lower-case, without www; joins incoming mail to a company.';
comment on column companies.custom_fields is
    'Values of the fields that field_metadata marks as custom, by their name.';
comment on column companies.archived_at is
    'Set when hidden from lists; nothing is deleted.';

create unique index companies_domain_idx
    on companies (lower(domain))
    where archived_at is null;
-- Names have no limit, an index entry has: the beginning is enough to sort and search by.
create index companies_name_idx
    on companies (lower(left(name, 200)));
create index companies_owner_idx
    on companies (owner_id);

create trigger companies_set_updated_at
    before update on companies
    for each row
    when (old.* is distinct from new.*)
    execute function set_updated_at();

create table contacts (
    id uuid primary key default gen_random_uuid(),
    company_id uuid references companies (id) on delete set null,
    given_name text not null default '',
    family_name text not null default '',
    job_title text,
    phone text,
    owner_id uuid references users (id) on delete set null,
    custom_fields jsonb not null default '{}',
    archived_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint contacts_custom_fields_check check (jsonb_typeof(custom_fields) = 'object')
);

comment on table contacts is
    'People the tenant deals with.';
comment on column contacts.company_id is
    'Null for a person without a company.';
comment on column contacts.custom_fields is
    'Values of the fields that field_metadata marks as custom, by their name.';
comment on column contacts.archived_at is
    'Set when hidden from lists; nothing is deleted.';

create index contacts_company_idx
    on contacts (company_id);
create index contacts_owner_idx
    on contacts (owner_id);
create index contacts_name_idx
    on contacts (lower(left(family_name, 200)), lower(left(given_name, 200)));

create trigger contacts_set_updated_at
    before update on contacts
    for each row
    when (old.* is distinct from new.*)
    execute function set_updated_at();

create table contact_emails (
    id uuid primary key default gen_random_uuid(),
    contact_id uuid not null references contacts (id) on delete cascade,
    address text not null,
    label text not null default 'work',
    is_primary boolean not null default false,
    bounced_at timestamptz,
    created_at timestamptz not null default now(),
    constraint contact_emails_address_check check (position('@' in address) > 1)
);

comment on table contact_emails is
    'Addresses of a contact, at most one of them primary.';
comment on column contact_emails.bounced_at is
    'Set when a mail came back: nothing is sent there any more.';

create unique index contact_emails_address_idx
    on contact_emails (contact_id, lower(address));
create unique index contact_emails_primary_idx
    on contact_emails (contact_id)
    where is_primary;
create index contact_emails_lookup_idx
    on contact_emails (lower(address));
