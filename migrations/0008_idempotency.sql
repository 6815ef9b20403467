-- Idempotency keys: a request that is sent again does nothing again, and is answered as the first time.
-- Owner: src/idempotency.rs

create table idempotency_keys (
    principal text not null,
    key text not null,
    fingerprint bytea not null,
    status integer,
    body jsonb,
    created_at timestamptz not null default now(),
    primary key (principal, key)
);

-- The oldest are deleted in batches.
create index idempotency_keys_by_age on idempotency_keys (created_at);

comment on table idempotency_keys is 'Answers of requests that changed something, by the key that the client gave; each was written in the transaction of its change';
comment on column idempotency_keys.principal is 'Whose key it is: two principals may use the same one';
comment on column idempotency_keys.key is 'The client''s key';
comment on column idempotency_keys.fingerprint is 'SHA-256 over method, path, query and body: the same key for another request is refused';
comment on column idempotency_keys.status is 'HTTP status of the answer; null only inside the transaction that is making it';
comment on column idempotency_keys.body is 'The answer; null only inside the transaction that is making it';
comment on column idempotency_keys.created_at is 'When the request was first made';
