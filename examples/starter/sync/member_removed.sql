-- Not a member any more. May run for somebody who never had a row.

update users
set
    removed_at = now(),
    updated_at = now()
where external_id = current_setting('tenantry.user_id')
    and removed_at is null;
