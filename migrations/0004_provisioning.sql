-- What provisioning has done: steps of each tenant, templates of each blueprint.
-- Owner: src/provisioning/

create table provisioning_steps (
    tenant_id uuid not null references tenants (id) on delete cascade,
    step text not null,
    state text not null check (state in ('running', 'done', 'failed')),
    attempts integer not null default 1,
    started_at timestamptz not null default now(),
    finished_at timestamptz,
    duration_ms double precision,
    error_code text,
    error text,
    primary key (tenant_id, step)
);

comment on table provisioning_steps is 'The checkpoint of each step of each tenant: a retry begins after the last done one';
comment on column provisioning_steps.duration_ms is 'How long the attempt that succeeded took';

create table templates (
    cluster text not null,
    hash text not null,
    database text not null,
    version text not null,
    migrations jsonb not null,
    fingerprint text not null,
    sealed_at timestamptz not null default now(),
    primary key (cluster, hash)
);

comment on table templates is 'Sealed template databases: one per cluster and blueprint hash';
comment on column templates.hash is 'Hash of migrations and shared seed';
comment on column templates.version is 'Schema version that a clone starts with';
comment on column templates.migrations is 'Name and SHA-256 of each migration applied, in order: an edited one is refused';
comment on column templates.fingerprint is 'Structure of the template as one hash; every tenant is compared with it';
