-- What this tenant is called, and how it likes things.

create table settings (
    key text primary key,
    value jsonb not null
);

comment on table settings is
    'One row per setting of this tenant.';
