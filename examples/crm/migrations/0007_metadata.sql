-- What the application knows about its own objects: it draws lists and forms from these rows.

create table object_metadata (
    name text primary key,
    table_name text not null,
    label text not null,
    label_plural text not null,
    icon text not null default 'circle',
    position integer not null,
    is_system boolean not null default false
);

comment on table object_metadata is
    'The objects that have lists and forms.';
comment on column object_metadata.table_name is
    'The table that holds the rows of the object.';
comment on column object_metadata.is_system is
    'True for the objects that every tenant has.';

create table field_metadata (
    object_name text not null references object_metadata (name) on update cascade on delete cascade,
    name text not null,
    label text not null,
    kind text not null,
    position integer not null,
    is_required boolean not null default false,
    is_custom boolean not null default false,
    options jsonb not null default '[]',
    primary key (object_name, name),
    constraint field_metadata_kind_check
        check (kind in ('text', 'number', 'money', 'boolean', 'date', 'time', 'choice', 'email', 'phone', 'reference')),
    constraint field_metadata_options_check check (jsonb_typeof(options) = 'array')
);

comment on table field_metadata is
    'The fields of an object, in the order of its form.';
comment on column field_metadata.name is
    'The column of the object''s table, or the key in custom_fields when is_custom.';
comment on column field_metadata.options is
    'The values to choose from; empty unless kind is choice.';

create table saved_views (
    id uuid primary key default gen_random_uuid(),
    slug text unique,
    object_name text not null references object_metadata (name) on update cascade on delete cascade,
    name text not null,
    owner_id uuid references users (id) on delete cascade,
    filters jsonb not null default '[]',
    sort jsonb not null default '[]',
    columns text[] not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint saved_views_filters_check check (jsonb_typeof(filters) = 'array'),
    constraint saved_views_sort_check check (jsonb_typeof(sort) = 'array')
);

comment on table saved_views is
    'Named lists: filters, order and columns.';
comment on column saved_views.slug is
    'Set for the views that every tenant has; null for those that users save.';
comment on column saved_views.owner_id is
    'Null for a view that everybody sees.';

create index saved_views_object_idx
    on saved_views (object_name);

create trigger saved_views_set_updated_at
    before update on saved_views
    for each row
    when (old.* is distinct from new.*)
    execute function set_updated_at();
