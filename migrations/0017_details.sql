-- What older versions did not compare: options of functions, views and sequences, bounds of partitions, rules, types.
-- Owner: src/provisioning/

alter table templates add column details text[], add column full_fingerprint text;

comment on column templates.structure is 'The lines that fingerprint is the hash of; null where an older version of tenantry built the template';
comment on column templates.details is 'The further lines that full_fingerprint is about; null where an older version of tenantry built the template';
comment on column templates.fingerprint is 'Hash of structure, for older versions of tenantry, which compare nothing else';
comment on column templates.full_fingerprint is 'Hash of structure and details together, sorted: what a tenant''s database must have';
