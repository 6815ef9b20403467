-- How often a process was lost with a database, which is not how often it was tried.
-- Owner: src/fleet/

alter table fleet_targets add column lost integer not null default 0;

comment on column fleet_targets.lost is 'How often the process that migrated it was lost: such attempts are a part of all';
