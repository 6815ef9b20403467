-- Not a member any more. The row stays, because notes and history name it; what it could do goes.

update users
set removed_at = coalesce(removed_at, now())
where external_id = current_setting('tenantry.user_id');

delete from user_roles
using users
where users.id = user_roles.user_id
    and users.external_id = current_setting('tenantry.user_id');
