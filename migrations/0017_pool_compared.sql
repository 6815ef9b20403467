-- Which databases of the pool were compared with their template when they were made.
-- Owner: src/provisioning/

alter table pool_databases add column is_compared boolean not null default false;

comment on column pool_databases.is_compared is 'Its structure was found to be its template''s, and nobody could connect since; false where an older version of tenantry made it';
