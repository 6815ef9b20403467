-- Whoever left can do nothing here any more.

select
    format('user %s was removed and still has role %s', users.id, user_roles.role_slug) as problem
from users
join user_roles
    on user_roles.user_id = users.id
where users.removed_at is not null;
