-- Registrations: somebody signs up for a new organization. Each follows its tenant, and keeps what happened to it.
-- Owner: src/registrations/

create table registrations (
    id uuid primary key,
    source text not null,
    external_id text not null,
    name text not null,
    slug text,
    domain text,
    email text not null,
    given_name text,
    family_name text,
    email_key text not null,
    organization_key text not null,
    name_key text not null,
    made_by text not null,
    credential text not null,
    at_provider boolean not null,
    waits_for_user boolean not null,
    org_id text,
    tenant_id uuid references tenants (id) on delete set null,
    is_tenant_ours boolean not null,
    state text not null default 'accepted'
        check (state in ('accepted', 'provisioning', 'ready', 'failed', 'abandoning', 'abandoned')),
    step text,
    steps_done integer not null default 0,
    waits_for jsonb,
    created_at timestamptz not null default now(),
    may_take interval not null,
    deadline_at timestamptz not null,
    delayed_at timestamptz,
    ended_at timestamptz,
    superseded_at timestamptz,
    last_event integer not null default 1
) with (
    -- every step changes the row: leave room on the page, so that no index is touched
    fillfactor = 60
);

-- The loop is impossible: the same person asks for the same organization once.
create unique index registrations_once on registrations (source, email_key, organization_key)
    where state not in ('abandoning', 'abandoned') and superseded_at is null;

-- The provider's organization is recognised by it.
create unique index registrations_by_external_id on registrations (source, external_id)
    where state not in ('abandoning', 'abandoned') and superseded_at is null;

create index registrations_by_tenant on registrations (tenant_id) where tenant_id is not null;
create index registrations_by_deadline on registrations (deadline_at)
    where delayed_at is null and ended_at is null;
create index registrations_open on registrations (state)
    where state in ('accepted', 'provisioning', 'failed', 'abandoning');

comment on table registrations is 'Sign-ups: who asked for which organization, and how far it is';
comment on column registrations.source is 'Name of the source whose provider knows the organization, or will';
comment on column registrations.external_id is 'What the provider calls external_id of the organization: the client''s own, else this registration''s id';
comment on column registrations.slug is 'The slug that was asked for: the first label of the tenant''s host';
comment on column registrations.domain is 'E-mail domain of the organization, as the client says it';
comment on column registrations.email_key is 'The e-mail address as it is compared';
comment on column registrations.organization_key is 'What makes two requests of one person ask for the same organization: external id, slug or name';
comment on column registrations.name_key is 'What the organization''s name looks like: the same for a request that leaves slug and external id out';
comment on column registrations.made_by is 'Principal whose API key asked for it';
comment on column registrations.credential is 'The status token: whoever has it may read the status, and nothing else; by this name the audit log leaves it out';
comment on column registrations.at_provider is 'Whether the organization and its first administrator are made at the provider, before the tenant';
comment on column registrations.waits_for_user is 'Whether whoever signs up is still to be made a member, or invited: it is not ready before that';
comment on column registrations.org_id is 'The provider''s organization id, once known';
comment on column registrations.tenant_id is 'The tenant; null when it was given up';
comment on column registrations.is_tenant_ours is 'Whether the tenant was made for this registration, or was there before';
comment on column registrations.state is 'accepted → provisioning → ready | failed; accepted, provisioning, failed → abandoning → abandoned';
comment on column registrations.step is 'The step that runs';
comment on column registrations.steps_done is 'Steps that are done';
comment on column registrations.waits_for is 'Why the step that failed last is tried again: step, code, cause, fix';
comment on column registrations.may_take is 'How long it may take, from when it was asked for or was tried again';
comment on column registrations.deadline_at is 'When it should be ready; later it is delayed, and the work goes on';
comment on column registrations.delayed_at is 'When it was seen to be late';
comment on column registrations.ended_at is 'When it became ready, failed or abandoned';
comment on column registrations.superseded_at is 'When its organization had been deleted and somebody registered it anew: this one is past';
comment on column registrations.last_event is 'Number of the newest row in registration_events';

create table registration_events (
    registration_id uuid not null references registrations (id) on delete cascade,
    number integer not null,
    kind text not null,
    data jsonb not null,
    at timestamptz not null default now(),
    primary key (registration_id, number)
);

-- The oldest are deleted in batches.
create index registration_events_by_age on registration_events (at);

comment on table registration_events is 'What happened to a registration, in order: the stream that a sign-up form follows';
comment on column registration_events.number is 'From 1, without gaps: whoever saw a number has seen all before it';
comment on column registration_events.kind is 'accepted, step, waiting, delayed, ready, failed, retried, abandoning, abandoned';

-- What is told of a registration is what its row says: every change that somebody can see is an event.
-- The row's lock makes the numbers be seen in their order.
create function number_registration_event()
returns trigger
language plpgsql
as $$
begin
    new.last_event := old.last_event + 1;
    return new;
end;
$$;

create function append_registration_event()
returns trigger
language plpgsql
as $$
begin
    insert into registration_events (registration_id, number, kind, data)
    values (
        new.id,
        new.last_event,
        case
            when tg_op = 'INSERT' then new.state
            when old.state = 'failed' and new.state = 'accepted' then 'retried'
            when old.state <> new.state and new.state <> 'provisioning' then new.state
            when old.delayed_at is null and new.delayed_at is not null then 'delayed'
            when new.waits_for is distinct from old.waits_for and new.waits_for is not null then 'waiting'
            else 'step'
        end,
        jsonb_strip_nulls(jsonb_build_object(
            'state', new.state,
            'step', new.step,
            'steps_done', new.steps_done,
            'is_delayed', new.delayed_at is not null,
            'code', new.waits_for ->> 'code'
        ))
    );
    return null;
end;
$$;

create trigger append_first_event after insert on registrations
for each row execute function append_registration_event();
create trigger number_event before update on registrations
for each row when (
    (old.state, old.step, old.steps_done, old.waits_for, old.delayed_at)
        is distinct from (new.state, new.step, new.steps_done, new.waits_for, new.delayed_at)
)
execute function number_registration_event();
create trigger append_event after update on registrations
for each row when (old.last_event is distinct from new.last_event)
execute function append_registration_event();

-- A registration follows its tenant's state.
create function registration_follows_tenant()
returns trigger
language plpgsql
as $$
declare
    goes_to text := case
        when new.state = 'ready' then 'ready'
        -- a deleted organization suspends what never was ready
        when new.state = 'failed' or (new.state = 'suspended' and not new.initialize) then 'failed'
        when old.state = 'failed' and new.state in ('pending', 'provisioning') then 'accepted'
        else 'as it was'
    end;
begin
    update registrations
    set state = case goes_to when 'as it was' then state else goes_to end,
        step = case goes_to when 'as it was' then step end,
        -- tried again, it has as long as at first
        deadline_at = case goes_to when 'accepted' then now() + may_take else deadline_at end,
        delayed_at = case when goes_to <> 'accepted' then delayed_at end,
        waits_for = case
            when goes_to = 'failed' and new.state = 'suspended' then jsonb_build_object(
                'step', '',
                'code', 'organization_deleted',
                'cause', 'the organization was deleted at the provider',
                'fix', 'register another one'
            )
            -- also while it is made: that it takes another attempt, and why
            when goes_to in ('failed', 'as it was') then new.failure
        end,
        ended_at = case when goes_to in ('ready', 'failed') then now() end
    where tenant_id = new.id
      and case
          -- given up: what keeps it from being undone is told
          when new.state = 'archived' then state = 'abandoning'
          when goes_to = 'ready' and waits_for_user then false
          else state in ('accepted', 'provisioning', 'failed')
      end;
    return null;
end;
$$;

create trigger registration_follows_tenant after update on tenants
for each row when (old.state is distinct from new.state or old.failure is distinct from new.failure)
execute function registration_follows_tenant();

-- A registration follows its tenant's steps. The last one is recorded after the tenant became ready.
create function registration_follows_step()
returns trigger
language plpgsql
as $$
begin
    update registrations
    set state = 'provisioning',
        step = new.step,
        steps_done = (
            select count(*)
            from provisioning_steps
            where tenant_id = new.tenant_id
              and provisioning_steps.state = 'done'
        ),
        waits_for = case when new.state = 'failed' then waits_for end
    where tenant_id = new.tenant_id
      and state in ('accepted', 'provisioning');
    return null;
end;
$$;

create trigger registration_follows_step after insert or update of state on provisioning_steps
for each row execute function registration_follows_step();

-- What an auditor asks for; the steps on the way are in registration_events.
create trigger audit_made after insert or delete on registrations
for each row execute function append_to_audit('registration', 'id');
create trigger audit_changed after update on registrations
for each row when ((old.state, old.org_id, old.tenant_id) is distinct from (new.state, new.org_id, new.tenant_id))
execute function append_to_audit('registration', 'id');

comment on column idempotency_keys.status is 'HTTP status of the answer; null inside the transaction that is making it, and while whoever asked first still waits for a better one';

-- The organization that an application registers may be known already.
create index organizations_by_external_id on organizations (source, external_id) where external_id is not null;

-- Hosts that look alike are one: what a tenant's host looks like.
alter table tenants add column host_skeleton text;
create index tenants_by_host_skeleton on tenants (host_skeleton) where host_skeleton is not null;
comment on column tenants.host_skeleton is 'What the url looks like (Unicode TS 39): no two tenants have hosts that look alike';

-- A tenant that was begun before its organization was known keeps what its seeds were told.
alter table tenants add column seeded_as text;
comment on column tenants.seeded_as is 'The organization id that seeds and verify queries are told, where it is not org_id: the tenant was begun before the provider''s id was known';
