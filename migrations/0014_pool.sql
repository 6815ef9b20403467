-- The warm pool: databases that are ready before anybody asks for them.
-- Owner: src/provisioning/pool/

create table pool_databases (
    id uuid primary key,
    cluster text not null,
    hash text not null,
    database text not null,
    state text not null default 'building'
        check (state in ('building', 'ready', 'claimed', 'dropping')),
    -- no foreign key: a row whose tenant is gone is found and mended, and never keeps anybody from deleting one
    tenant_id uuid unique,
    created_at timestamptz not null default now(),
    ready_at timestamptz,
    claimed_at timestamptz,
    unique (cluster, database),
    check ((state = 'claimed') = (tenant_id is not null))
);

create index pool_databases_to_claim on pool_databases (cluster, hash, ready_at, id) where state = 'ready';

comment on table pool_databases is 'Clones of sealed templates that wait for a tenant; a row is there before its database, and goes when that has become a tenant''s, or was dropped';
comment on column pool_databases.hash is 'Hash of the blueprint whose template was cloned: only a tenant of this blueprint gets it';
comment on column pool_databases.database is 'Name on the cluster until it is handed over';
comment on column pool_databases.state is 'building → ready → claimed; building, ready, or claimed by nobody any more → dropping';
comment on column pool_databases.tenant_id is 'Whose it is to be: the claim. One tenant claims one at most';
