-- Outgoing notifications: what happened to tenants and members, told to configured URLs.
-- Owner: src/notifications/
--
-- The outbox is written in the transaction of the change, by triggers where a row changes state and by
-- src/notifications/outbox.rs for members, whose status no row holds. Both end in notify_endpoints().

create table notification_endpoints (
    name text primary key,
    digest text not null,
    types text[],
    disabled_at timestamptz,
    disabled_reason text,
    removed_at timestamptz,
    created_at timestamptz not null default now()
);

comment on table notification_endpoints is 'Who is told: [notifications] of the configuration as of the last start';
comment on column notification_endpoints.name is 'As in [notifications.<name>]';
comment on column notification_endpoints.digest is 'SHA-256 of the URL, which may be a secret: another one enables the endpoint again';
comment on column notification_endpoints.types is 'Types that it is told of; null for all';
comment on column notification_endpoints.disabled_at is 'When it was disabled: what is to be told waits until it is enabled';
comment on column notification_endpoints.disabled_reason is 'Why it was disabled';
comment on column notification_endpoints.removed_at is 'Since when the configuration does not name it any more: nothing new is kept for it';

create trigger audit after insert or update or delete on notification_endpoints
for each row execute function append_to_audit('notification_endpoint', 'name');

create table notifications (
    number bigint generated always as identity primary key,
    id uuid not null unique default gen_random_uuid(),
    type text not null,
    tenant_id uuid not null,
    data jsonb not null,
    created_at timestamptz not null default clock_timestamp()
);

create index notifications_by_tenant on notifications (tenant_id, number);
create index notifications_by_age on notifications (created_at);

comment on table notifications is 'The outbox: one row per change that somebody is told of';
comment on column notifications.number is 'Of one tenant in the order of the commits';
comment on column notifications.id is 'The same on every attempt at every endpoint: webhook-id';
comment on column notifications.tenant_id is 'No foreign key: its lock on the tenant would be one more that a change waits for';
comment on column notifications.type is 'Such as tenant.ready';
comment on column notifications.data is 'What is told, as it was at the change; never a credential';
comment on column notifications.created_at is 'When it happened; of one tenant never decreasing with the number';

create table notification_deliveries (
    number bigint not null references notifications (number) on delete cascade,
    endpoint text not null,
    tenant_id uuid not null,
    state text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
    tries integer not null default 0,
    attempts integer not null default 0,
    run_at timestamptz not null default now(),
    finished_at timestamptz,
    primary key (number, endpoint),
    check ((state = 'pending') = (finished_at is null))
) with (
    -- each attempt changes the row
    fillfactor = 80
);

-- The head of each line: the oldest that is to be told.
create index notification_deliveries_pending on notification_deliveries (endpoint, tenant_id, number)
    where state = 'pending';
create index notification_deliveries_failed on notification_deliveries (finished_at)
    where state = 'failed';

comment on table notification_deliveries is 'What each endpoint was told, or is to be told';
comment on column notification_deliveries.tenant_id is 'The tenant of the notification: of one tenant an endpoint is told in order';
comment on column notification_deliveries.state is 'pending → delivered | failed; a replay leads back to pending';
comment on column notification_deliveries.tries is 'Attempts of this round: how far the retry schedule has got';
comment on column notification_deliveries.attempts is 'All attempts that were made';
comment on column notification_deliveries.run_at is 'When the next attempt is due';
comment on column notification_deliveries.finished_at is 'When it was delivered, or given up';

create table notification_attempts (
    number bigint not null,
    endpoint text not null,
    attempt integer not null,
    started_at timestamptz not null,
    duration_ms double precision not null,
    status integer,
    error_code text,
    error text,
    answer text,
    primary key (number, endpoint, attempt),
    foreign key (number, endpoint) references notification_deliveries (number, endpoint) on delete cascade
);

comment on table notification_attempts is 'Every attempt whose end was recorded';
comment on column notification_attempts.status is 'HTTP status, where there was an answer';
comment on column notification_attempts.error_code is 'Stable code, explained in docs/errors.md; null where it was delivered';
comment on column notification_attempts.answer is 'Beginning of the body of a refusal';

create table announced_members (
    source text not null,
    org_id text not null,
    user_id text not null,
    status text not null check (status in ('active', 'removed')),
    announced_at timestamptz not null default now(),
    primary key (source, org_id, user_id)
);

comment on table announced_members is 'What was last told of each member, or was so when somebody began to listen; empty while nobody listens';

-- One at a time per tenant, until the end of the transaction: notifications of a tenant are numbered in the
-- order in which they commit. Taken last: whoever waits here is waited for by nobody.
create function lock_notifications(of_tenant uuid)
returns void
language sql
as $$
    select pg_advisory_xact_lock(hashtextextended('notifications:' || of_tenant::text, 0));
$$;

-- Sees to it that a job tells the endpoint what is outstanding of the tenant. One that waits for its next
-- attempt goes on waiting, because what is new comes after what it waits for, unless it is to be at once.
create function rouse_delivery(to_endpoint text, of_tenant uuid, at_once boolean)
returns void
language sql
as $$
    insert into jobs (kind, payload, concurrency_key, unique_key, max_attempts)
    values (
        'deliver_notifications',
        jsonb_build_object('kind', 'deliver_notifications', 'endpoint', to_endpoint, 'tenant', of_tenant),
        -- at most eight of an endpoint at a time, so that one that hangs leaves room for others
        'notifications/' || to_endpoint || '/' || (hashtextextended(of_tenant::text, 0) & 7),
        'notify:' || to_endpoint || ':' || of_tenant::text,
        -- a notification has its own schedule: the job goes on until there is nothing to tell
        1000000
    )
    on conflict (unique_key) where unique_key is not null and state in ('available', 'running') do update
    set run_at = case when at_once then least(jobs.run_at, now()) else jobs.run_at end,
        roused_with = case when jobs.state = 'running' then excluded.max_attempts end
    where at_once or jobs.state = 'running';
$$;

comment on function rouse_delivery is 'As queue::rouse does: the job''s row is locked until the caller commits, so that its handler sees what the caller wrote';

-- Puts a notification into the outbox, for every endpoint that wants its type. Nobody does: nothing is written.
create function notify_endpoints(of_type text, of_tenant uuid, told jsonb)
returns void
language plpgsql
as $$
declare
    new_number bigint;
    listener text;
begin
    if not exists (
        select
        from notification_endpoints
        where removed_at is null
          and (types is null or of_type = any(types))
    ) then
        return;
    end if;
    perform lock_notifications(of_tenant);
    insert into notifications (type, tenant_id, data)
    values (of_type, of_tenant, told)
    returning number into new_number;
    for listener in
        select name
        from notification_endpoints
        where removed_at is null
          and (types is null or of_type = any(types))
        order by name
    loop
        insert into notification_deliveries (number, endpoint, tenant_id)
        values (new_number, listener, of_tenant);
        perform rouse_delivery(listener, of_tenant, false);
    end loop;
end;
$$;

-- A tenant as it is told. No credential, and of a failure only what stands in docs/errors.md.
create function told_of_tenant(tenant tenants)
returns jsonb
language sql
stable
as $$
    select jsonb_build_object(
        'id', tenant.id,
        'source', tenant.source,
        'org_id', tenant.org_id,
        'name', tenant.name,
        'url', tenant.url,
        'state', tenant.state,
        'failure', case
            when tenant.state = 'failed' then
                jsonb_build_object('step', tenant.failure -> 'step', 'code', tenant.failure -> 'code')
        end
    );
$$;

create function notify_of_tenant()
returns trigger
language plpgsql
as $$
begin
    perform notify_endpoints(
        case
            when new.state = 'ready' and old.state = 'suspended' then 'tenant.resumed'
            else 'tenant.' || new.state
        end,
        new.id,
        jsonb_build_object('tenant', told_of_tenant(new))
    );
    return null;
end;
$$;

-- Deferred: at the commit the transaction has every other lock that it takes.
create constraint trigger notify_of_tenant after update of state on tenants
deferrable initially deferred
for each row when (old.state is distinct from new.state and new.state in ('ready', 'failed', 'suspended', 'archived'))
execute function notify_of_tenant();

-- A registration's tenant is ready.
create function notify_of_registration()
returns trigger
language plpgsql
as $$
begin
    perform notify_endpoints(
        'registration.completed',
        tenant.id,
        jsonb_build_object(
            'registration', jsonb_build_object('id', new.id, 'external_id', new.external_id, 'state', new.state),
            'tenant', told_of_tenant(tenant)
        )
    )
    from tenants tenant
    where tenant.id = new.tenant_id;
    return null;
end;
$$;

create constraint trigger notify_of_registration after update of state on registrations
deferrable initially deferred
for each row when (old.state is distinct from new.state and new.state = 'ready')
execute function notify_of_registration();

-- One that joined a tenant which was ready already.
create constraint trigger notify_of_new_registration after insert on registrations
deferrable initially deferred
for each row when (new.state = 'ready')
execute function notify_of_registration();
