-- Four roles, what can be allowed, and who is allowed what.

insert into roles (slug, name, description, position, is_system)
values
    ('admin', 'Administrator', 'Everything, members and settings included', 1, true),
    ('manager', 'Manager', 'All records, pipelines and exports', 2, true),
    ('member', 'Member', 'Reads and edits records', 3, true),
    ('viewer', 'Viewer', 'Reads records', 4, true)
on conflict (slug) do update
set
    name = excluded.name,
    description = excluded.description,
    is_system = excluded.is_system;

insert into permissions (slug, resource, action, description)
select
    resource || '.' || action,
    resource,
    action,
    initcap(action) || ' ' || resource
from unnest(array['companies', 'contacts', 'deals', 'activities', 'notes', 'tasks']) as resource
cross join unnest(array['read', 'write', 'delete']) as action
on conflict (slug) do update
set description = excluded.description;

insert into permissions (slug, resource, action, description)
values
    ('pipelines.manage', 'pipelines', 'manage', 'Add, change and archive pipelines and stages'),
    ('settings.read', 'settings', 'read', 'Read settings'),
    ('settings.manage', 'settings', 'manage', 'Change settings'),
    ('members.read', 'members', 'read', 'See who belongs to the organization'),
    ('members.manage', 'members', 'manage', 'Invite and remove members, change their roles'),
    ('exports.create', 'exports', 'create', 'Take records out in bulk')
on conflict (slug) do update
set description = excluded.description;

insert into role_permissions (role_slug, permission_slug)
select
    'admin',
    slug
from permissions
on conflict (role_slug, permission_slug) do nothing;

insert into role_permissions (role_slug, permission_slug)
select
    'manager',
    slug
from permissions
where slug not in ('settings.manage', 'members.manage')
on conflict (role_slug, permission_slug) do nothing;

insert into role_permissions (role_slug, permission_slug)
select
    'member',
    slug
from permissions
where action in ('read', 'write')
on conflict (role_slug, permission_slug) do nothing;

insert into role_permissions (role_slug, permission_slug)
select
    'viewer',
    slug
from permissions
where action = 'read'
    and resource not in ('settings', 'members')
on conflict (role_slug, permission_slug) do nothing;
