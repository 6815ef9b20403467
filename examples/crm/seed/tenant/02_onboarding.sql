-- Everything the set-up wizard would ask is already known, so that it never appears.

insert into onboarding (step, position, title, completed_at)
values
    ('workspace', 1, 'Name the workspace', now()),
    ('pipeline', 2, 'Choose a pipeline', now()),
    ('members', 3, 'Invite members', now()),
    ('tour', 4, 'Take the tour', now())
on conflict (step) do update
set completed_at = coalesce(onboarding.completed_at, excluded.completed_at);
