insert into roles (slug)
values ('admin'),
       ('member')
on conflict do nothing;
