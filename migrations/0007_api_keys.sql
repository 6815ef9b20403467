-- API keys of operators and applications: which there are, what they may do, never their text.
-- Owner: src/api_keys/

create table api_keys (
    id text primary key check (id ~ '^[0-9A-Za-z]{8}$'),
    name text not null,
    scopes text[] not null check (cardinality(scopes) > 0),
    hash bytea not null check (octet_length(hash) = 32),
    previous_hash bytea check (octet_length(previous_hash) = 32),
    previous_until timestamptz,
    created_by text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz,
    check (previous_hash is null or previous_until is not null)
);

comment on table api_keys is 'API keys; a key is known by its id, and only a hash of it is kept';
comment on column api_keys.id is 'Second part of the key, and no secret: tnt_<id>_…';
comment on column api_keys.name is 'What the key is for, in its creator''s words';
comment on column api_keys.scopes is 'What the key may do; src/api_keys/scope.rs lists the scopes';
comment on column api_keys.hash is 'SHA-256 of the whole key, which has 190 random bits: no salt, no slow hash';
comment on column api_keys.previous_hash is 'The same of the key before the last rotation, where it was given an overlap';
comment on column api_keys.previous_until is 'Until when the key before the last rotation works, or worked';
comment on column api_keys.created_by is 'Name or id of whoever made the key';
comment on column api_keys.created_at is 'When the key was made; a rotation leaves it';
comment on column api_keys.expires_at is 'From when on the key is refused; absent for a key that does not expire';
comment on column api_keys.last_used_at is 'Last use, to about a minute';
comment on column api_keys.revoked_at is 'When the key was revoked, for good';

create trigger audit after insert or update or delete on api_keys
for each row execute function append_to_audit('api_key', 'id');

-- Tells every replica which key it must look at again.
create function notify_of_api_key()
returns trigger
language plpgsql
as $$
begin
    perform pg_notify('tenantry_changed', 'key:' || case when tg_op = 'DELETE' then old.id else new.id end);
    return null;
end;
$$;

create trigger notify_of_new_or_gone after insert or delete on api_keys
for each row execute function notify_of_api_key();
-- a use changes nothing that anybody remembers
create trigger notify_of_change after update on api_keys
for each row when (to_jsonb(old) - 'last_used_at' is distinct from to_jsonb(new) - 'last_used_at')
execute function notify_of_api_key();
