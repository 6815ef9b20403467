-- The people of this tenant, and the one rule that every table shares.
-- Users are never deleted (see removed_at): columns that only say who did something need no index of their own.

create function set_updated_at()
returns trigger
language plpgsql
as $$
begin
    new.updated_at := now();
    return new;
end;
$$;

comment on function set_updated_at() is
    'Trigger: stamps updated_at whenever a row really changes.';

create table users (
    id uuid primary key default gen_random_uuid(),
    external_id text not null unique,
    email text,
    display_name text not null default '',
    avatar_url text,
    role text not null default 'member',
    locale text,
    last_seen_at timestamptz,
    removed_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

comment on table users is
    'People of this tenant, kept in step with the identity provider.';
comment on column users.external_id is
    'The identity provider''s id of the user; the key that synchronisation writes by.';
comment on column users.email is
    'Null when the provider knows none. Not unique: a user deleted and created again at the provider has two ids for one address.';
comment on column users.role is
    'Slug of the role that the provider gave; more roles are in user_roles.';
comment on column users.removed_at is
    'Set when the membership ended. The row stays, because notes and history name it.';

create index users_email_idx
    on users (lower(email));
create index users_present_idx
    on users (display_name, id)
    where removed_at is null;

create trigger users_set_updated_at
    before update on users
    for each row
    when (old.* is distinct from new.*)
    execute function set_updated_at();
