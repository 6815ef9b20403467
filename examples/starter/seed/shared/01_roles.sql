-- The same for every tenant.

insert into roles (slug, name)
values
    ('admin', 'Administrator'),
    ('manager', 'Manager'),
    ('member', 'Member'),
    ('viewer', 'Viewer')
on conflict (slug) do update
set name = excluded.name;
