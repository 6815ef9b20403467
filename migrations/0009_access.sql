-- Who may do what: the blueprint's part of it, and the word that goes to every replica when anything of it changes.
-- Owner: src/members/permissions.rs (blueprint_permissions), src/auth/changes.rs (the channel tenantry_changed)

create table blueprint_permissions (
    role text not null,
    permission text not null,
    primary key (role, permission)
);

comment on table blueprint_permissions is 'What the blueprint lets a role do, beside what the provider does: [roles] of blueprint.toml as of the last start.';
comment on column blueprint_permissions.role is 'Slug of the role.';
comment on column blueprint_permissions.permission is 'Slug of the permission.';

-- Tells every replica what it must not remember any longer. Equal words of one transaction are sent once.
-- Argument: organization, user, source, host or all.
create function tell_changed()
returns trigger
language plpgsql
as $$
declare
    changed record;
begin
    if tg_op = 'DELETE' then
        changed := old;
    else
        changed := new;
    end if;
    -- branches, because a record has only the columns of its own table
    if tg_argv[0] = 'organization' then
        perform pg_notify('tenantry_changed', 'organization:' || changed.source || ':' || coalesce(changed.org_id, ''));
        if tg_op = 'UPDATE' and old.org_id is distinct from new.org_id then
            perform pg_notify('tenantry_changed', 'organization:' || old.source || ':' || coalesce(old.org_id, ''));
        end if;
    elsif tg_argv[0] = 'user' then
        perform pg_notify('tenantry_changed', 'user:' || changed.source || ':' || changed.user_id);
    elsif tg_argv[0] = 'source' then
        perform pg_notify('tenantry_changed', 'source:' || changed.source);
    elsif tg_argv[0] = 'url' then
        perform pg_notify('tenantry_changed', 'host:' || changed.url);
        if tg_op = 'UPDATE' and old.url is distinct from new.url then
            perform pg_notify('tenantry_changed', 'host:' || old.url);
        end if;
    elsif tg_argv[0] = 'host' then
        perform pg_notify('tenantry_changed', 'host:' || changed.host);
        if tg_op = 'UPDATE' and old.host is distinct from new.host then
            perform pg_notify('tenantry_changed', 'host:' || old.host);
        end if;
    else
        perform pg_notify('tenantry_changed', 'all');
    end if;
    return null;
end;
$$;

comment on function tell_changed is 'Sends on the channel tenantry_changed which remembered things are out of date.';

create trigger tell_changed after insert or update or delete on organizations
for each row execute function tell_changed('organization');
create trigger tell_changed after insert or update or delete on memberships
for each row execute function tell_changed('organization');
create trigger tell_changed after insert or update or delete on invitations
for each row execute function tell_changed('organization');
create trigger tell_changed after insert or update or delete on directory_users
for each row execute function tell_changed('organization');
create trigger tell_changed after insert or update or delete on tenants
for each row execute function tell_changed('organization');
create trigger tell_host_changed after insert or delete or update of url on tenants
for each row execute function tell_changed('url');
create trigger tell_host_changed after insert or update or delete on tenant_hosts
for each row execute function tell_changed('host');
create trigger tell_changed after insert or update or delete on users
for each row execute function tell_changed('user');
create trigger tell_changed after insert or update or delete on roles
for each row execute function tell_changed('source');
create trigger tell_changed after insert or update or delete on blueprint_permissions
for each row execute function tell_changed('all');

create trigger audit after insert or update or delete on blueprint_permissions
for each row execute function append_to_audit('blueprint_permission', 'role');
