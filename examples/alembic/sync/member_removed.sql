update users
set removed_at = now()
where external_id = current_setting('tenantry.user_id')
  and removed_at is null;
