-- The control database of the service.

create table tenants (
    id uuid primary key default gen_random_uuid(),
    org_id text not null unique,
    initialize boolean not null default false,
    name varchar(255) not null,
    url varchar(255) not null unique,
    database varchar(255) not null,
    username varchar(255) not null,
    alembic_version varchar(50) not null default ''
);

create table webhook_idempotency (
    webhook_id text primary key,
    event_type text not null,
    status text not null check (status in ('processing', 'completed', 'failed')),
    error text,
    created_at timestamptz not null default now(),
    processed_at timestamptz
);

create table provisioning_jobs (
    id bigint generated always as identity primary key,
    webhook_id text not null references webhook_idempotency (webhook_id),
    org_id text not null,
    org_name text not null,
    status text not null default 'queued' check (status in ('queued', 'running', 'done', 'dead')),
    attempts integer not null default 0,
    run_after timestamptz not null default now(),
    locked_until timestamptz,
    last_error text,
    created_at timestamptz not null default now()
);

create index provisioning_jobs_due_idx on provisioning_jobs (run_after, id) where status in ('queued', 'running');

create table audit_log (
    id bigint generated always as identity primary key,
    org_id text not null,
    action text not null,
    created_at timestamptz not null default now()
);
