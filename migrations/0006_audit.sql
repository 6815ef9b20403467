-- The audit log: every change of a tenant, member, role, invitation, credential or API key, in the change's own transaction.
-- Owner: src/audit.rs
--
-- Written by triggers: no code path can forget it.

create table audit_log (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    actor_kind text not null check (actor_kind in ('event', 'key', 'user', 'operator', 'system')),
    actor text,
    action text not null,
    target_kind text not null,
    target text not null,
    source text,
    org_id text,
    before jsonb,
    after jsonb,
    event bigint,
    request_id text
);

create index audit_log_by_organization on audit_log (org_id, id);
create index audit_log_by_actor on audit_log (actor, id);
create index audit_log_by_action on audit_log (action, id);
create index audit_log_by_target on audit_log (target_kind, target, id);

comment on table audit_log is 'Who changed what and when; rows are only ever added';
comment on column audit_log.actor_kind is 'event of a provider, API key, end user, operator at the command line, or tenantry itself';
comment on column audit_log.actor is 'Number, key id, user id or name of the actor';
comment on column audit_log.action is 'Such as membership.changed, tenant.created, credential.changed';
comment on column audit_log.target_kind is 'Table of the target, in the singular';
comment on column audit_log.target is 'Id of the target';
comment on column audit_log.before is 'What the changed fields were; absent for something new';
comment on column audit_log.after is 'What they are; absent for something deleted';
comment on column audit_log.event is 'Number of the event that caused it, in webhook_events';
comment on column audit_log.request_id is 'Id of the HTTP request that caused it';

create function audit_is_append_only()
returns trigger
language plpgsql
as $$
begin
    raise exception 'audit_log is append-only' using errcode = 'insufficient_privilege';
end;
$$;

create trigger audit_is_append_only
before update or delete or truncate on audit_log
for each statement execute function audit_is_append_only();

revoke update, delete, truncate on audit_log from public;
revoke update, delete, truncate on audit_log from current_user;

-- Appends one row for a changed row of the table that the trigger is on.
-- Arguments: target kind, name of the id column.
create function append_to_audit()
returns trigger
language plpgsql
as $$
declare
    -- bookkeeping and secrets are not what an auditor asks for
    hidden constant text[] := array['content', 'event', 'digest', 'recorded_at', 'updated_at', 'credential', 'failure', 'blueprint_hash', 'hash', 'previous_hash', 'last_used_at', 'number', 'roles_told'];
    old_row jsonb := case when tg_op = 'INSERT' then '{}' else to_jsonb(old) end;
    new_row jsonb := case when tg_op = 'DELETE' then '{}' else to_jsonb(new) end;
    row_now jsonb := case when tg_op = 'DELETE' then old_row else new_row end;
    of_source text := row_now ->> 'source';
    of_org text := row_now ->> 'org_id';
    actor_kind text := coalesce(nullif(current_setting('tenantry.actor_kind', true), ''), 'system');
    -- a row that does not say which event described it is changed by the one that the transaction names
    cause bigint := case when actor_kind = 'event' then
        coalesce((row_now ->> 'event')::bigint, nullif(current_setting('tenantry.event', true), '')::bigint)
    end;
begin
    old_row := old_row - hidden || coalesce(nullif(old_row -> 'content', 'null'), '{}');
    new_row := new_row - hidden || coalesce(nullif(new_row -> 'content', 'null'), '{}');
    if old_row = new_row then
        return null;
    end if;
    -- what belongs to a tenant belongs to its organization
    if row_now ? 'tenant_id' then
        select source, org_id into of_source, of_org from tenants where id = (row_now ->> 'tenant_id')::uuid;
    end if;
    -- of an update only what changed
    insert into audit_log (actor_kind, actor, action, target_kind, target, source, org_id, before, after, event, request_id)
    select
        actor_kind,
        coalesce(cause::text, nullif(current_setting('tenantry.actor', true), '')),
        tg_argv[0] || case tg_op when 'INSERT' then '.created' when 'DELETE' then '.deleted' else '.changed' end,
        tg_argv[0],
        coalesce(row_now ->> tg_argv[1], ''),
        of_source,
        of_org,
        case when tg_op <> 'INSERT' then
            coalesce((select jsonb_object_agg(key, value) from jsonb_each(old_row) where new_row -> key is distinct from value), '{}')
        end,
        case when tg_op <> 'DELETE' then
            coalesce((select jsonb_object_agg(key, value) from jsonb_each(new_row) where old_row -> key is distinct from value and value <> 'null'), '{}')
        end,
        cause,
        nullif(current_setting('tenantry.request_id', true), '');
    return null;
end;
$$;

create trigger audit after insert or update or delete on organizations
for each row execute function append_to_audit('organization', 'org_id');
create trigger audit after insert or update or delete on users
for each row execute function append_to_audit('user', 'user_id');
create trigger audit after insert or update or delete on memberships
for each row execute function append_to_audit('membership', 'membership_id');
create trigger audit after insert or update or delete on invitations
for each row execute function append_to_audit('invitation', 'id');
create trigger audit after insert or update or delete on roles
for each row execute function append_to_audit('role', 'role_id');
create trigger audit after insert or update or delete on permissions
for each row execute function append_to_audit('permission', 'permission_id');
create trigger audit after insert or update or delete on directory_users
for each row execute function append_to_audit('directory_user', 'directory_user_id');
create trigger audit after insert or update or delete on staff_assignments
for each row execute function append_to_audit('staff_assignment', 'user_id');
create trigger audit after insert or update or delete on tenants
for each row execute function append_to_audit('tenant', 'id');
create trigger audit after insert or update or delete on tenant_hosts
for each row execute function append_to_audit('tenant_host', 'host');

-- A credential's change is told, never its value.
create function append_credential_to_audit()
returns trigger
language plpgsql
as $$
begin
    insert into audit_log (actor_kind, actor, action, target_kind, target, source, org_id, event, request_id)
    select
        coalesce(nullif(current_setting('tenantry.actor_kind', true), ''), 'system'),
        coalesce(nullif(current_setting('tenantry.actor', true), ''), nullif(current_setting('tenantry.event', true), '')),
        case tg_op when 'INSERT' then 'credential.created' else 'credential.changed' end,
        'credential',
        new.username,
        new.source,
        new.org_id,
        nullif(current_setting('tenantry.event', true), '')::bigint,
        nullif(current_setting('tenantry.request_id', true), '');
    return null;
end;
$$;

create trigger audit_credential_created after insert on tenants
for each row execute function append_credential_to_audit();
create trigger audit_credential_changed after update of credential on tenants
for each row when (old.credential is distinct from new.credential)
execute function append_credential_to_audit();
