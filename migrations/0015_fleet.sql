-- Fleet runs: one migration over all tenants, in waves, with a result per tenant.
-- Owner: src/fleet/ (fleet_runs, fleet_targets); tenants.labels: src/tenants/

alter table tenants
    add column labels jsonb not null default '{}' check (jsonb_typeof(labels) = 'object');

comment on column tenants.labels is 'What operators tell tenants apart by: an object of texts, such as {"tier": "free"}';

create table fleet_runs (
    id uuid primary key,
    state text not null default 'preparing'
        check (state in ('preparing', 'running', 'paused', 'done', 'failed', 'aborted')),
    wanted_version text,
    blueprint_hash text,
    version text,
    is_dry boolean not null,
    waves jsonb not null check (jsonb_typeof(waves) = 'array'),
    current_wave integer not null default 1,
    concurrency integer not null check (concurrency between 1 and 256),
    max_failures jsonb check (jsonb_typeof(max_failures) = 'string'),
    forgiven integer not null default 0,
    selection jsonb not null,
    rehearsals jsonb not null default '[]',
    failure jsonb,
    created_by text not null,
    created_at timestamptz not null default now(),
    prepared_at timestamptz,
    finished_at timestamptz,
    check ((state in ('done', 'failed', 'aborted')) = (finished_at is not null)),
    check (prepared_at is null or (blueprint_hash is not null and version is not null))
);

-- A run that begins while another has not ended would migrate the same databases.
create unique index fleet_runs_one_unfinished on fleet_runs ((true))
    where state in ('preparing', 'running', 'paused');
create index fleet_runs_by_creation on fleet_runs (created_at, id);

comment on table fleet_runs is 'One migration over many tenants each';
comment on column fleet_runs.state is 'preparing → running → done | failed | aborted; preparing, running ⇄ paused; a failed one can be resumed';
comment on column fleet_runs.wanted_version is 'The version that was asked for; null for the blueprint''s newest';
comment on column fleet_runs.blueprint_hash is 'Hash of the blueprint that tenants are brought to; null until a replica has settled it';
comment on column fleet_runs.version is 'Schema version of that blueprint';
comment on column fleet_runs.is_dry is 'Only throw-away clones are migrated';
comment on column fleet_runs.waves is 'How far each wave goes: a count of tenants, or a share such as "10%"';
comment on column fleet_runs.current_wave is 'Counted from 1';
comment on column fleet_runs.concurrency is 'At most so many databases at once, over all replicas';
comment on column fleet_runs.max_failures is 'More failures than this (a count, or a share of all targets) stop the run; null for any number';
comment on column fleet_runs.forgiven is 'Failures that an operator knew of when the run was resumed: they stop it no more';
comment on column fleet_runs.selection is 'Which tenants: labels that they have, ids that they may have';
comment on column fleet_runs.rehearsals is 'What became of the throw-away clones';
comment on column fleet_runs.failure is 'Why it stopped: code, cause, fix';
comment on column fleet_runs.created_by is 'Who began it';
comment on column fleet_runs.prepared_at is 'When templates and pools were there and the targets were set: no tenant is touched before';

create trigger audit after insert or update or delete on fleet_runs
for each row execute function append_to_audit('fleet_run', 'id');

create table fleet_targets (
    run uuid not null references fleet_runs (id) on delete cascade,
    tenant uuid not null,
    id uuid not null default gen_random_uuid(),
    wave integer not null,
    state text not null default 'pending' check (state in ('pending', 'running', 'done', 'skipped', 'failed')),
    attempt integer not null default 0,
    priority integer not null default 0,
    run_at timestamptz not null default now(),
    from_version text not null,
    to_version text,
    applied integer,
    duration_ms double precision,
    error_code text,
    error text,
    fix text,
    blocker jsonb,
    held_by bigint,
    held_attempt integer,
    started_at timestamptz,
    finished_at timestamptz,
    primary key (run, tenant),
    check ((state = 'running') = (held_by is not null and held_attempt is not null)),
    check ((state in ('done', 'skipped', 'failed')) = (finished_at is not null))
) with (
    -- taken and recorded: each row is changed twice
    fillfactor = 70
);

create index fleet_targets_pending on fleet_targets (run, wave, priority desc, tenant)
    where state = 'pending';
create index fleet_targets_running on fleet_targets (run)
    where state = 'running';

comment on table fleet_targets is 'What became of each tenant in each fleet run';
comment on column fleet_targets.tenant is 'No foreign key: the row tells of a tenant also when that is gone';
comment on column fleet_targets.id is 'What sessions in its database are named by, so that they can be ended when their process is lost';
comment on column fleet_targets.attempt is 'How often it was begun';
comment on column fleet_targets.priority is 'The highest goes first within its wave';
comment on column fleet_targets.run_at is 'When the next attempt is due';
comment on column fleet_targets.from_version is 'What the tenant was on when it became a target';
comment on column fleet_targets.to_version is 'What its database is on now, as far as that was looked at';
comment on column fleet_targets.applied is 'Migrations that the successful attempt applied';
comment on column fleet_targets.duration_ms is 'How long the last attempt took';
comment on column fleet_targets.error_code is 'Stable code of the last error, or the reason why it was skipped';
comment on column fleet_targets.blocker is 'Who held the lock that was waited for: pid, age of its query, application, state';
comment on column fleet_targets.held_by is 'Job that migrates it';
comment on column fleet_targets.held_attempt is 'Attempt of that job: one that was lost is taken over by another';
