-- Who this tenant is. Provisioning owns these values: a second run brings them up to date.

insert into settings (key, value, description, is_managed)
values
    (
        'organization.name',
        to_jsonb(current_setting('tenantry.organization_name')),
        'Name at the identity provider, exactly as it is there',
        true
    ),
    (
        'organization.id',
        to_jsonb(current_setting('tenantry.organization_id')),
        'Id at the identity provider',
        true
    ),
    (
        'workspace.tenant_id',
        to_jsonb(current_setting('tenantry.tenant_id')),
        'Id of this tenant',
        true
    ),
    (
        'workspace.url',
        to_jsonb(current_setting('tenantry.tenant_url')),
        'Host that this tenant is reached at',
        true
    )
on conflict (key) do update
set
    value = excluded.value,
    description = excluded.description,
    is_managed = excluded.is_managed;

-- The name on the screen, which the tenant may change: never empty, although an organization's may be.
insert into settings (key, value, description)
values (
    'workspace.name',
    to_jsonb(
        coalesce(
            nullif(btrim(current_setting('tenantry.organization_name')), ''),
            current_setting('tenantry.tenant_url')
        )
    ),
    'Name shown in the interface'
)
on conflict (key) do nothing;
