-- Retention: what is over goes when its time is over, and the queue is fast however much is kept.
-- Owners: src/inbox/ (webhook_events), src/queue/ (jobs, job_attempts)

-- Only what is settled may be without its body. Existing rows have theirs, so that nobody needs to look at
-- them; and a release that knows nothing of this is refused when it makes such an event "received" again.
alter table webhook_events
    alter column body drop not null,
    add constraint webhook_events_body_while_needed
        check (body is not null or state in ('processed', 'ignored', 'conflict')) not valid;

comment on column webhook_events.body is 'The bytes as signed; null when they were pruned, after retention.event_bodies_days. The row stays: it is what makes an event count once';

-- An event enters when it is settled, at the end of the index, and leaves with its body.
create index webhook_events_with_body on webhook_events (settled_at)
    where body is not null and state in ('processed', 'ignored', 'conflict');

-- A table that is never emptied: a fifth of it, the default, would be far too late.
alter table webhook_events set (
    autovacuum_vacuum_scale_factor = 0.02,
    toast.autovacuum_vacuum_scale_factor = 0.02
);

-- Completed jobs are nearly all that there are, and nobody looks for them by state: they leave this index, and
-- enter one by age instead. A job's end costs as many entries as before.
drop index jobs_by_state;
create index jobs_by_state on jobs (state, id) where state <> 'completed';
create index jobs_finished on jobs (finished_at) where state in ('completed', 'cancelled');

-- When the scheduled job succeeded last, for its metric.
create index jobs_pruned on jobs (finished_at) where kind = 'prune' and state = 'completed';

-- How many jobs are available or running changes within a second, and figures from a quiet moment say that none
-- are: then every index of live jobs looks equally good, and a claim reads all of them for each of its
-- candidates. Without figures of this column the planner expects many, whatever happens: it takes the index
-- that fits. Changing the type to what it is forgets the figures that are there.
alter table jobs
    alter column state type text,
    alter column state set statistics 0;

-- Each attempt is updated once, when it ends: room on the page, so that no index is touched; and what goes
-- with its job is cleaned up in small pieces.
alter table job_attempts set (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);
