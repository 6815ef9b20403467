-- Returns what is missing; no row means ready.

select
    format('role %s is missing', expected.slug) as problem
from unnest(array['admin', 'manager', 'member', 'viewer']) as expected (slug)
left join roles
    on roles.slug = expected.slug
where roles.slug is null

union all

select
    format('setting %s is missing', expected.key)
from unnest(array['organization.name', 'organization.id', 'tenant.url']) as expected (key)
left join settings
    on settings.key = expected.key
where settings.key is null;
