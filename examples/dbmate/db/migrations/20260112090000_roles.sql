-- migrate:up
create table roles (
    slug text primary key
);
alter table users add column role text references roles;

-- migrate:down
alter table users drop column role;
drop table roles;
