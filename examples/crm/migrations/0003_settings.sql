-- What the tenant is called, how it likes things, and how far its set-up is.

create table settings (
    key text primary key,
    value jsonb not null,
    description text not null default '',
    is_managed boolean not null default false,
    updated_by uuid references users (id) on delete set null,
    updated_at timestamptz not null default now(),
    constraint settings_key_check check (key ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$')
);

comment on table settings is
    'One row per setting of this tenant.';
comment on column settings.key is
    'Group and name joined by a dot, such as locale.timezone.';
comment on column settings.is_managed is
    'True when provisioning owns the value: the application shows it and does not edit it.';

create trigger settings_set_updated_at
    before update on settings
    for each row
    when (old.* is distinct from new.*)
    execute function set_updated_at();

create table onboarding (
    step text primary key,
    position integer not null,
    title text not null,
    completed_at timestamptz,
    completed_by uuid references users (id) on delete set null
);

comment on table onboarding is
    'Steps of the set-up wizard, which appears while one of them is not complete.';
comment on column onboarding.completed_by is
    'Null when provisioning completed the step.';
