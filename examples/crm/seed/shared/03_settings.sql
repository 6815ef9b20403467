-- Defaults. A value that the tenant has changed stays.

insert into settings (key, value, description)
values
    ('locale.language', '"en"', 'Language of the interface'),
    ('locale.timezone', '"UTC"', 'Time zone of dates without one'),
    ('locale.currency', '"USD"', 'Currency of new deals'),
    ('locale.week_start', '"monday"', 'First day of the week in calendars'),
    ('deals.rotting_days', '30', 'Days in one stage after which a deal is marked'),
    ('deals.require_amount', 'false', 'Whether a deal needs an amount before it is won'),
    ('tasks.reminder_minutes', '15', 'Minutes before the due time to remind'),
    ('mail.signature', '""', 'Text below outgoing mail'),
    ('members.default_role', '"member"', 'Role of somebody who joins without one')
on conflict (key) do update
set description = excluded.description;
