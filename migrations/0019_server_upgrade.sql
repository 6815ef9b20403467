-- What a tenant's database is compared with, so that its server may be upgraded meanwhile: without names that an
-- upgrade gives anew, in words that an upgrade leaves, and with the server's version, as another one has other words.
-- Owner: src/provisioning/

alter table templates
    add column compared text[],
    add column compared_fingerprint text,
    add column server_major integer;

comment on column templates.compared is 'Like structure: what a tenant''s database must have';
comment on column templates.compared_fingerprint is 'Hash of compared; null where an older version of tenantry built the template';
comment on column templates.server_major is 'Major version of the server that it was built on';
comment on column templates.structure is 'For versions of tenantry before this migration, as are details, fingerprint and full_fingerprint';
