-- Roles, and the people of this tenant.

create table roles (
    slug text primary key,
    name text not null
);

comment on table roles is
    'What a user may be.';

create table users (
    id uuid primary key default gen_random_uuid(),
    external_id text not null unique,
    email text,
    display_name text not null default '',
    role text not null default 'member' references roles (slug) on update cascade,
    removed_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

comment on table users is
    'People of this tenant, kept in step with the identity provider.';
comment on column users.external_id is
    'The identity provider''s id of the user; the key that synchronisation writes by.';
comment on column users.removed_at is
    'Set when the membership ended; the row stays.';

create index users_email_idx
    on users (lower(email));
create index users_role_idx
    on users (role);
