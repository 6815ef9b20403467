-- This tenant's own rows. An organization's name may be empty, long, or in any script.

insert into settings (key, value)
values
    ('organization.name', to_jsonb(current_setting('tenantry.organization_name'))),
    ('organization.id', to_jsonb(current_setting('tenantry.organization_id'))),
    ('tenant.url', to_jsonb(current_setting('tenantry.tenant_url')))
on conflict (key) do update
set value = excluded.value;
