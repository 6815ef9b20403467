-- What a tenant's database is compared with, so that its server may be upgraded meanwhile: without names that an
-- upgrade gives anew, and with the server's version, as another one words things otherwise.
-- Owner: src/provisioning/

alter table templates
    add column compared text[],
    add column compared_fingerprint text,
    add column server_major integer;

-- Where nothing is left out it is what was compared before; else the template is built anew.
update templates
set compared = (select array_agg(line order by line collate "C") from unnest(structure || details) line),
    compared_fingerprint = full_fingerprint
where full_fingerprint is not null
  and not exists (
      select
      from unnest(structure || details) line
      where line like E'constraint\t%\tdefinition=NOT NULL%'
  );

comment on column templates.compared is 'The lines of structure that a tenant''s database must have';
comment on column templates.compared_fingerprint is 'Hash of compared; null where an older version of tenantry built the template';
comment on column templates.server_major is 'Major version of the server that it was built on';
comment on column templates.structure is 'For versions of tenantry before this migration, as are details, fingerprint and full_fingerprint';
