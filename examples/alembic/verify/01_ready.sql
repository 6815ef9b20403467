select 'role ' || wanted || ' is missing' as problem
from unnest(array['admin', 'member']) as wanted
where not exists (select from roles where slug = wanted)
union all
select 'there is no project'
where not exists (select from projects);
