-- No set-up wizard appears.

select
    format('onboarding step %s is not complete', expected.step) as problem
from unnest(array['workspace', 'pipeline', 'members', 'tour']) as expected (step)
left join onboarding
    on onboarding.step = expected.step
where onboarding.completed_at is null;
