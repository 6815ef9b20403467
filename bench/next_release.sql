-- The additive migration that the whole fleet gets: a column with its index, and a table.
-- Every turn of the measurement is a release of its own: {release} makes its names new.

alter table deals
    add column forecast_{release} text not null default 'pipeline'
    constraint deals_forecast_{release}_check check (forecast_{release} in ('pipeline', 'best_case', 'commit', 'omitted'));

create index deals_forecast_{release}_idx
    on deals (forecast_{release});

create table deal_moves_{release} (
    id bigint generated always as identity primary key,
    deal_id uuid not null references deals (id) on delete cascade,
    stage_id uuid not null references stages (id) on delete cascade,
    moved_by uuid references users (id) on delete set null,
    moved_at timestamptz not null default now()
);

create index deal_moves_{release}_deal_idx
    on deal_moves_{release} (deal_id, moved_at desc);
