-- Who may do what.

create table roles (
    slug text primary key,
    name text not null,
    description text not null default '',
    position integer not null,
    is_system boolean not null default false,
    created_at timestamptz not null default now(),
    constraint roles_slug_check check (slug ~ '^[a-z][a-z0-9_-]*$')
);

comment on table roles is
    'Named sets of permissions.';
comment on column roles.slug is
    'The name used by the identity provider and in code; never shown.';
comment on column roles.position is
    'Order in lists, the most powerful first.';
comment on column roles.is_system is
    'True for the roles that every tenant has: they cannot be deleted in the application.';

create table permissions (
    slug text primary key,
    resource text not null,
    action text not null,
    description text not null default '',
    constraint permissions_slug_check check (slug = resource || '.' || action)
);

comment on table permissions is
    'Everything that can be allowed, one row per resource and action.';
comment on column permissions.slug is
    'Resource and action joined by a dot, such as deals.write.';

create table role_permissions (
    role_slug text not null references roles (slug) on update cascade on delete cascade,
    permission_slug text not null references permissions (slug) on update cascade on delete cascade,
    primary key (role_slug, permission_slug)
);

comment on table role_permissions is
    'Which permissions a role carries.';

create table user_roles (
    user_id uuid not null references users (id) on delete cascade,
    role_slug text not null references roles (slug) on update cascade on delete restrict,
    granted_by uuid references users (id) on delete set null,
    granted_at timestamptz not null default now(),
    primary key (user_id, role_slug)
);

comment on table user_roles is
    'Roles that a user has in addition to users.role.';
comment on column user_roles.granted_by is
    'Null when the system granted it, or when that user is gone.';

alter table users
    add constraint users_role_fkey
    foreign key (role) references roles (slug) on update cascade on delete restrict;

create function user_permissions(of_user uuid)
returns table (permission_slug text)
language sql
stable
as $$
    select distinct rp.permission_slug
    from users u
    left join user_roles ur
        on ur.user_id = u.id
    join role_permissions rp
        on rp.role_slug in (u.role, ur.role_slug)
    where u.id = of_user
        and u.removed_at is null;
$$;

comment on function user_permissions(uuid) is
    'Every permission of a user, through the main role and the additional ones; none once removed.';
