-- What the tenant sells, stage by stage.

create table pipelines (
    id uuid primary key default gen_random_uuid(),
    slug text not null unique,
    name text not null,
    position integer not null,
    is_default boolean not null default false,
    archived_at timestamptz,
    created_at timestamptz not null default now()
);

comment on table pipelines is
    'Ways in which a deal goes from its first to its last stage.';
comment on column pipelines.slug is
    'Name in code and in seeds; stays when the pipeline is renamed.';
comment on column pipelines.is_default is
    'True for the one pipeline that new deals start in.';

create unique index pipelines_default_idx
    on pipelines (is_default)
    where is_default;

create table stages (
    id uuid primary key default gen_random_uuid(),
    pipeline_id uuid not null references pipelines (id) on delete cascade,
    slug text not null,
    name text not null,
    position integer not null,
    kind text not null default 'open',
    probability smallint not null default 0,
    created_at timestamptz not null default now(),
    constraint stages_kind_check check (kind in ('open', 'won', 'lost')),
    constraint stages_probability_check check (probability between 0 and 100),
    constraint stages_slug_key unique (pipeline_id, slug),
    -- deferred: two stages can swap their places in one transaction
    constraint stages_position_key unique (pipeline_id, position) deferrable initially deferred,
    -- what the foreign key of deals points at
    constraint stages_pipeline_key unique (pipeline_id, id)
);

comment on table stages is
    'Stages of a pipeline, in order.';
comment on column stages.kind is
    'open while the deal goes on; won or lost closes it.';
comment on column stages.probability is
    'Per cent of the deals in this stage that are expected to be won.';

create table deals (
    id uuid primary key default gen_random_uuid(),
    pipeline_id uuid not null,
    stage_id uuid not null,
    company_id uuid references companies (id) on delete set null,
    owner_id uuid references users (id) on delete set null,
    title text not null,
    amount numeric(18, 2),
    currency text not null default 'USD',
    expected_close_on date,
    stage_entered_at timestamptz not null default now(),
    closed_at timestamptz,
    custom_fields jsonb not null default '{}',
    updated_by uuid references users (id) on delete set null,
    archived_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint deals_currency_check check (currency ~ '^[A-Z]{3}$'),
    constraint deals_amount_check check (amount >= 0),
    constraint deals_custom_fields_check check (jsonb_typeof(custom_fields) = 'object'),
    -- both columns at once: a deal cannot be in a stage of another pipeline
    constraint deals_stage_fkey
        foreign key (pipeline_id, stage_id) references stages (pipeline_id, id) on delete restrict
);

comment on table deals is
    'Chances to sell something, each in one stage of one pipeline.';
comment on column deals.stage_entered_at is
    'When the deal came into its present stage; set by trigger.';
comment on column deals.closed_at is
    'When the deal came into a won or lost stage, null while open; set by trigger.';
comment on column deals.updated_by is
    'Who changed the deal last; copied into deal_stage_history when the stage changed.';
comment on column deals.custom_fields is
    'Values of the fields that field_metadata marks as custom, by their name.';

create index deals_stage_idx
    on deals (pipeline_id, stage_id);
create index deals_company_idx
    on deals (company_id);
create index deals_owner_idx
    on deals (owner_id);
create index deals_forecast_idx
    on deals (expected_close_on)
    where closed_at is null;

create table deal_contacts (
    deal_id uuid not null references deals (id) on delete cascade,
    contact_id uuid not null references contacts (id) on delete cascade,
    part text not null default 'other',
    added_at timestamptz not null default now(),
    primary key (deal_id, contact_id),
    constraint deal_contacts_part_check check (part in ('decides', 'advises', 'uses', 'other'))
);

comment on table deal_contacts is
    'The people of the other side in a deal.';
comment on column deal_contacts.part is
    'What the contact does in the decision.';

create index deal_contacts_contact_idx
    on deal_contacts (contact_id);

create table deal_stage_history (
    id bigint generated always as identity primary key,
    deal_id uuid not null references deals (id) on delete cascade,
    from_stage_id uuid references stages (id) on delete set null,
    to_stage_id uuid references stages (id) on delete set null,
    changed_by uuid references users (id) on delete set null,
    changed_at timestamptz not null default now()
);

comment on table deal_stage_history is
    'Every stage a deal was in; written by trigger, never by hand.';
comment on column deal_stage_history.from_stage_id is
    'Null for the first stage of a deal, or when that stage is gone.';
comment on column deal_stage_history.to_stage_id is
    'Null only when that stage is gone.';

create index deal_stage_history_deal_idx
    on deal_stage_history (deal_id, changed_at);

create function stamp_deal_stage()
returns trigger
language plpgsql
as $$
declare
    stage_kind text;
begin
    select kind
    into stage_kind
    from stages
    where id = new.stage_id;

    new.stage_entered_at := now();
    new.closed_at := case when stage_kind in ('won', 'lost') then now() end;
    return new;
end;
$$;

comment on function stamp_deal_stage() is
    'Trigger: keeps stage_entered_at and closed_at true to the stage.';

create function record_deal_stage()
returns trigger
language plpgsql
as $$
begin
    insert into deal_stage_history (deal_id, from_stage_id, to_stage_id, changed_by)
    values (
        new.id,
        case when tg_op = 'UPDATE' then old.stage_id end,
        new.stage_id,
        new.updated_by
    );
    return null;
end;
$$;

comment on function record_deal_stage() is
    'Trigger: adds a line to deal_stage_history.';

create trigger deals_stamp_first_stage
    before insert on deals
    for each row
    execute function stamp_deal_stage();

create trigger deals_stamp_stage
    before update on deals
    for each row
    when (old.stage_id is distinct from new.stage_id)
    execute function stamp_deal_stage();

create trigger deals_record_first_stage
    after insert on deals
    for each row
    execute function record_deal_stage();

create trigger deals_record_stage
    after update on deals
    for each row
    when (old.stage_id is distinct from new.stage_id)
    execute function record_deal_stage();

create trigger deals_set_updated_at
    before update on deals
    for each row
    when (old.* is distinct from new.*)
    execute function set_updated_at();
