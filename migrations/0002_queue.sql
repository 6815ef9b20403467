-- The queue: durable jobs, claimed with SKIP LOCKED, kept by a lease, fenced by the attempt.
-- Owner: src/queue/

create table jobs (
    id bigint generated always as identity primary key,
    kind text not null,
    payload jsonb not null,
    concurrency_key text,
    unique_key text,
    is_batched boolean not null default false,
    state text not null default 'available'
        check (state in ('available', 'running', 'completed', 'dead', 'cancelled')),
    run_at timestamptz not null default now(),
    attempt integer not null default 0,
    max_attempts integer not null,
    roused_with integer,
    lease_expires_at timestamptz,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    check ((state = 'running') = (lease_expires_at is not null))
) with (
    -- dead tuples are the enemy of a queue: room for in-page updates, and vacuum early
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

create index jobs_available on jobs (run_at, id) where state = 'available' and not is_batched;
create index jobs_batched on jobs (run_at, id) where state = 'available' and is_batched;
create index jobs_by_concurrency_key on jobs (concurrency_key, id) where concurrency_key is not null and state in ('available', 'running');
create index jobs_by_lease on jobs (lease_expires_at) where state = 'running';
-- None by kind: a new state is never an in-page update, so that each index costs a job three entries.
create index jobs_by_state on jobs (state, id);

create index jobs_given_up_by_unique_key on jobs (unique_key, id)
    where unique_key is not null and state in ('dead', 'cancelled');

-- A replay lays the dead jobs of its event to rest.
create index jobs_dead_by_event on jobs ((payload ->> 'event'))
    where state = 'dead' and kind = 'process_event';

-- One organization at a time. The claim already sees to it; this index makes it impossible to be wrong.
create unique index jobs_one_running_per_key on jobs (concurrency_key)
    where concurrency_key is not null and state = 'running';

-- At most one live job for a thing, such as "provision tenant X".
create unique index jobs_one_live_per_unique_key on jobs (unique_key)
    where unique_key is not null and state in ('available', 'running');

comment on table jobs is 'Durable work; any number of replicas share it';
comment on column jobs.kind is 'What to do; src/queue/job.rs lists the kinds';
comment on column jobs.payload is 'The data of the kind; never a secret';
comment on column jobs.concurrency_key is 'Jobs of one key run one at a time, oldest first: "<source>:<organization id>"';
comment on column jobs.unique_key is 'At most one available or running job of one key';
comment on column jobs.is_batched is 'Done together with others in one transaction; false once that failed, or for a job that needs a lease';
comment on column jobs.run_at is 'Not before; a retry moves it into the future';
comment on column jobs.attempt is 'The fence: each claim adds one, and whoever holds an older number writes nothing';
comment on column jobs.max_attempts is 'After this many attempts the job is dead';
comment on column jobs.roused_with is 'Attempts of a job that was asked for while this one ran: should this one fail, it begins anew with so many';
comment on column jobs.lease_expires_at is 'Until when the running attempt owns the job; the heartbeat moves it';
comment on column jobs.state is 'available → running → completed | dead; available, dead → cancelled by an operator; dead, cancelled → available again';
comment on column jobs.finished_at is 'When the job was completed, died or was cancelled';

create table job_attempts (
    job_id bigint not null references jobs (id) on delete cascade,
    attempt integer not null,
    worker text not null,
    started_at timestamptz not null default now(),
    finished_at timestamptz,
    outcome text
        check (outcome in ('completed', 'retried', 'discarded', 'released', 'lost')),
    error_code text,
    error text,
    primary key (job_id, attempt)
);

comment on table job_attempts is 'Every attempt of every job, with its error';
comment on column job_attempts.worker is 'Host, process and start of the worker that made the attempt';
comment on column job_attempts.outcome is 'completed; retried later; discarded for good; released by a shutdown; lost with its worker';
comment on column job_attempts.error_code is 'Stable code, explained in docs/errors.md';
comment on column job_attempts.error is 'The error with its whole chain of causes';
