insert into roles (slug, title)
values ('admin', 'Administrator'),
       ('member', 'Member')
on conflict (slug) do update
set title = excluded.title;
