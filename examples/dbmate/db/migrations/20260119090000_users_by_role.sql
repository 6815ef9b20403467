-- migrate:up transaction:false
create index concurrently if not exists users_by_role on users (role);

-- migrate:down
drop index users_by_role;
