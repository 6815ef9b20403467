-- Organizations as their provider describes them (owner: src/identity/), and our tenants (owner: src/tenants/).

create table organizations (
    source text not null,
    org_id text not null,
    content jsonb,
    updated_at timestamptz,
    digest text collate "C",
    deleted_at timestamptz,
    event bigint,
    recorded_at timestamptz not null default now(),
    name text generated always as (content ->> 'name') stored,
    external_id text generated always as (content ->> 'external_id') stored,
    metadata jsonb generated always as (content -> 'metadata') stored,
    created_by text generated always as (content ->> 'created_by') stored,
    primary key (source, org_id)
);

create index organizations_by_id on organizations (org_id);

comment on table organizations is 'The newest that each provider said of each organization; deleted ones stay as tombstones';
comment on column organizations.content is 'The newest description; null where only the deletion is known';
comment on column organizations.digest is 'Of the content: decides between two descriptions of the same moment';
comment on column organizations.event is 'Number of the event that changed the row last; null where the provider''s API told it';
comment on column organizations.created_by is 'The user who created it, where the provider says so';
comment on column organizations.updated_at is 'The provider''s own time of the newest description: older ones change nothing';
comment on column organizations.deleted_at is 'The tombstone: a deleted organization never comes back';

-- Applications read this table directly. The first nine columns are a contract: name, type and order stay.
create table tenants (
    id uuid primary key,
    org_id text not null,
    initialize boolean not null,
    name varchar(255) not null,
    url varchar(255) not null unique,
    database varchar(255) not null,
    read_only_database varchar(255) not null,
    username varchar(255) not null,
    alembic_version varchar(50) not null,
    source text not null,
    state text not null default 'pending'
        check (state in ('pending', 'provisioning', 'ready', 'failed', 'suspended', 'archived', 'deleted')),
    cluster text,
    credential bytea not null,
    blueprint_hash text,
    failure jsonb,
    requested_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    ready_at timestamptz,
    -- this constraint is the "exactly once"
    unique (source, org_id),
    unique (database),
    unique (username),
    foreign key (source, org_id) references organizations (source, org_id),
    check (state <> 'ready' or initialize)
);

create index tenants_by_cluster on tenants (cluster) where cluster is not null and state <> 'deleted';
create index tenants_by_organization on tenants (org_id);
create index tenants_by_state on tenants (state, created_at);
create index tenants_by_creation on tenants (created_at, id);

comment on table tenants is 'One tenant per organization: its database, its login role and its state';
comment on column tenants.org_id is 'The provider''s organization id';
comment on column tenants.initialize is 'True only from activation on: before that nothing may be routed to the tenant';
comment on column tenants.name is 'The organization''s name, cut to 255 characters';
comment on column tenants.url is 'The tenant''s host name; never changes once given';
comment on column tenants.database is 'Database name on the tenant''s cluster';
comment on column tenants.read_only_database is 'Database name for read-only use';
comment on column tenants.username is 'The login role, with DML rights only';
comment on column tenants.alembic_version is 'Schema version of the tenant''s database, whatever the migrator';
comment on column tenants.source is 'Name of the source that named the organization';
comment on column tenants.state is 'pending → provisioning → ready | failed; ready ⇄ suspended; → archived → deleted';
comment on column tenants.cluster is 'Postgres cluster that holds the database; null until placed';
comment on column tenants.credential is 'The role''s password, sealed: version, key id, nonce, ciphertext; bound to this tenant';
comment on column tenants.blueprint_hash is 'Hash of the blueprint whose template the database was cloned from';
comment on column tenants.failure is 'Why the last attempt failed: step, code, cause, fix';
comment on column tenants.requested_at is 'When the event that asked for the tenant was received';

create table tenant_hosts (
    host text primary key check (host = lower(host)),
    tenant_id uuid not null references tenants (id),
    created_at timestamptz not null default now()
);

create index tenant_hosts_by_tenant on tenant_hosts (tenant_id, host);

comment on table tenant_hosts is 'Hosts of a tenant beside its url, such as the customer''s own domain; none of them is any tenant''s url';
comment on column tenant_hosts.host is 'Lower-case, without port and trailing dot';
comment on column tenant_hosts.created_at is 'When the tenant got it';
