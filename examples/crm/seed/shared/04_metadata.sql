-- The objects, their fields, and the lists that every tenant starts with.

insert into object_metadata (name, table_name, label, label_plural, icon, position, is_system)
values
    ('company', 'companies', 'Company', 'Companies', 'building', 1, true),
    ('contact', 'contacts', 'Contact', 'Contacts', 'person', 2, true),
    ('deal', 'deals', 'Deal', 'Deals', 'handshake', 3, true),
    ('activity', 'activities', 'Activity', 'Activities', 'pulse', 4, true),
    ('note', 'notes', 'Note', 'Notes', 'pencil', 5, true),
    ('task', 'tasks', 'Task', 'Tasks', 'check', 6, true)
on conflict (name) do nothing;

insert into field_metadata (object_name, name, label, kind, position, is_required, options)
values
    ('company', 'name', 'Name', 'text', 1, true, '[]'),
    ('company', 'domain', 'Web site', 'text', 2, false, '[]'),
    ('company', 'industry', 'Industry', 'text', 3, false, '[]'),
    ('company', 'employee_count', 'Employees', 'number', 4, false, '[]'),
    ('company', 'phone', 'Phone', 'phone', 5, false, '[]'),
    ('company', 'owner_id', 'Owner', 'reference', 6, false, '[]'),
    ('contact', 'given_name', 'Given name', 'text', 1, false, '[]'),
    ('contact', 'family_name', 'Family name', 'text', 2, false, '[]'),
    ('contact', 'job_title', 'Job title', 'text', 3, false, '[]'),
    ('contact', 'phone', 'Phone', 'phone', 4, false, '[]'),
    ('contact', 'company_id', 'Company', 'reference', 5, false, '[]'),
    ('contact', 'owner_id', 'Owner', 'reference', 6, false, '[]'),
    ('deal', 'title', 'Title', 'text', 1, true, '[]'),
    ('deal', 'stage_id', 'Stage', 'reference', 2, true, '[]'),
    ('deal', 'amount', 'Amount', 'money', 3, false, '[]'),
    ('deal', 'currency', 'Currency', 'text', 4, true, '[]'),
    ('deal', 'expected_close_on', 'Expected close', 'date', 5, false, '[]'),
    ('deal', 'company_id', 'Company', 'reference', 6, false, '[]'),
    ('deal', 'owner_id', 'Owner', 'reference', 7, false, '[]'),
    ('activity', 'kind', 'Kind', 'choice', 1, true, '["call", "email", "meeting", "other"]'),
    ('activity', 'subject', 'Subject', 'text', 2, false, '[]'),
    ('activity', 'happened_at', 'When', 'time', 3, true, '[]'),
    ('activity', 'duration_minutes', 'Minutes', 'number', 4, false, '[]'),
    ('note', 'body', 'Text', 'text', 1, true, '[]'),
    ('note', 'is_pinned', 'Pinned', 'boolean', 2, false, '[]'),
    ('task', 'title', 'Title', 'text', 1, true, '[]'),
    ('task', 'due_at', 'Due', 'time', 2, false, '[]'),
    ('task', 'priority', 'Priority', 'choice', 3, false, '[-1, 0, 1]'),
    ('task', 'assignee_id', 'Assignee', 'reference', 4, false, '[]')
on conflict (object_name, name) do nothing;

insert into saved_views (slug, object_name, name, filters, sort, columns)
values
    (
        'all-companies', 'company', 'All companies',
        '[]', '[{"by": "name"}]', array['name', 'domain', 'owner_id']
    ),
    (
        'all-contacts', 'contact', 'All contacts',
        '[]', '[{"by": "family_name"}]', array['given_name', 'family_name', 'company_id']
    ),
    (
        'open-deals', 'deal', 'Open deals',
        '[{"field": "closed_at", "is": null}]', '[{"by": "expected_close_on"}]',
        array['title', 'stage_id', 'amount', 'owner_id']
    ),
    (
        'open-tasks', 'task', 'Open tasks',
        '[{"field": "completed_at", "is": null}]', '[{"by": "due_at"}]',
        array['title', 'due_at', 'assignee_id']
    )
on conflict (slug) do nothing;
