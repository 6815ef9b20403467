-- What a template's fingerprint is made of, so that what differs in a tenant can be named.
-- Owner: src/provisioning/

alter table templates add column structure text[];

comment on column templates.structure is 'The lines that the fingerprint is the hash of; null where an older version of tenantry built the template';
