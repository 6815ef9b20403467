-- Every role and permission is there, and nobody is locked out.

select
    format('role %s is missing', expected.slug) as problem
from unnest(array['admin', 'manager', 'member', 'viewer']) as expected (slug)
left join roles
    on roles.slug = expected.slug
where roles.slug is null

union all

select
    format('%s permissions instead of at least 24', count(*))
from permissions
having count(*) < 24

union all

select
    format('role admin lacks permission %s', permissions.slug)
from permissions
where not exists (
    select
    from role_permissions
    where role_permissions.role_slug = 'admin'
        and role_permissions.permission_slug = permissions.slug
)

union all

select
    format('role %s has %s permissions instead of at least %s', expected.slug, count(role_permissions), expected.permissions)
from (
    values
        ('manager', 22),
        ('member', 14),
        ('viewer', 6)
) as expected (slug, permissions)
left join role_permissions
    on role_permissions.role_slug = expected.slug
group by expected.slug, expected.permissions
having count(role_permissions) < expected.permissions;
