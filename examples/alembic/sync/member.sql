insert into users (external_id, email, display_name, role)
values (
    current_setting('tenantry.user_id'),
    nullif(current_setting('tenantry.email'), ''),
    current_setting('tenantry.display_name'),
    current_setting('tenantry.role')
)
on conflict (external_id) do update
set email = excluded.email,
    display_name = excluded.display_name,
    role = excluded.role,
    removed_at = null;
