insert into projects (title)
select 'Getting started at ' || current_setting('tenantry.organization_name')
where not exists (select from projects);
