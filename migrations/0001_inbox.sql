-- The inbox: every event once, recorded before its sender is answered.
-- Owner: src/inbox/

create table webhook_events (
    id bigint generated always as identity primary key,
    source text not null,
    event_id text not null,
    event_type text not null,
    organization_id text,
    body bytea not null,
    body_sha256 bytea not null,
    state text not null
        check (state in ('received', 'waiting', 'processed', 'ignored', 'failed', 'conflict')),
    reason text,
    waiting_for text[],
    deliveries integer not null default 1,
    occurred_at timestamptz,
    received_at timestamptz not null default now(),
    last_delivered_at timestamptz not null default now(),
    settled_at timestamptz
) with (
    -- duplicates count on the row: leave room on the page, so that no index is touched
    fillfactor = 80
);

-- "Once per (source, event id)": this index is the promise. A conflicting body lies beside it.
create unique index webhook_events_once
    on webhook_events (source, event_id)
    where state <> 'conflict';

create unique index webhook_events_conflicts_once
    on webhook_events (source, event_id, body_sha256)
    where state = 'conflict';

create index webhook_events_by_state on webhook_events (state, id);
create index webhook_events_waiting on webhook_events using gin (waiting_for) where waiting_for is not null;
create index webhook_events_by_organization on webhook_events (organization_id, source, id);

-- A new state leaves the page, so each index costs an event two entries. This one is worth them: without
-- it the list of a rare type, or of one that never came, reads the whole table with its bodies.
create index webhook_events_by_type on webhook_events (event_type, id);

comment on table webhook_events is 'One row per event that any sender delivered; the idempotency of webhooks';
comment on column webhook_events.id is 'Our number of the event, in order of receipt';
comment on column webhook_events.source is 'Name of the configured source, as in POST /webhooks/{source}';
comment on column webhook_events.event_id is 'The sender''s id; "sha256:…" of the body where the sender''s id is missing or unusable';
comment on column webhook_events.event_type is 'The sender''s type, such as organization.created';
comment on column webhook_events.organization_id is 'The sender''s organization the event is about, where it names one';
comment on column webhook_events.body is 'The bytes as signed';
comment on column webhook_events.body_sha256 is 'Tells a duplicate from a conflict: the same id with another body';
comment on column webhook_events.state is 'received → processed | waiting | ignored | failed; waiting → processed | failed; conflict rows are kept and never processed';
comment on column webhook_events.reason is 'Why the event was ignored, failed or is in conflict';
comment on column webhook_events.waiting_for is 'Objects that the event names and nobody has described yet, such as user:user_1; kept when it failed for that, so that it is settled should they come';
comment on column webhook_events.deliveries is 'How often the sender delivered it: 1 and its duplicates';
comment on column webhook_events.occurred_at is 'When the sender says that it happened';
comment on column webhook_events.received_at is 'When the first delivery was recorded';
comment on column webhook_events.last_delivered_at is 'When the last delivery was recorded';
comment on column webhook_events.settled_at is 'When the event left the state received';
