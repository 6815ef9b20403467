-- Every setting has a value, and the values that name the tenant name this one.

select
    format('setting %s is missing', expected.key) as problem
from unnest(
    array[
        'locale.language', 'locale.timezone', 'locale.currency', 'locale.week_start',
        'deals.rotting_days', 'deals.require_amount', 'tasks.reminder_minutes', 'mail.signature',
        'members.default_role',
        'organization.name', 'organization.id',
        'workspace.name', 'workspace.tenant_id', 'workspace.url'
    ]
) as expected (key)
left join settings
    on settings.key = expected.key
where settings.key is null

union all

select
    format('setting %s is %s instead of %L', settings.key, settings.value, expected.value)
from (
    values
        ('organization.id', current_setting('tenantry.organization_id', true)),
        ('workspace.tenant_id', current_setting('tenantry.tenant_id', true)),
        ('workspace.url', current_setting('tenantry.tenant_url', true))
) as expected (key, value)
join settings
    on settings.key = expected.key
-- by hand, without the parameters, there is nothing to compare with
where nullif(expected.value, '') is not null
    and settings.value <> to_jsonb(expected.value)

union all

select
    'setting members.default_role is not a role'
from settings
left join roles
    on to_jsonb(roles.slug) = settings.value
where settings.key = 'members.default_role'
    and roles.slug is null;
