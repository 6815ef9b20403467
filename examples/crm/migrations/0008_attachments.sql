-- Labels and files.

create table tags (
    id uuid primary key default gen_random_uuid(),
    name text not null,
    color text not null default '#64748b',
    created_at timestamptz not null default now(),
    constraint tags_name_check check (char_length(name) between 1 and 100),
    constraint tags_color_check check (color ~ '^#[0-9a-f]{6}$')
);

comment on table tags is
    'Labels for companies, contacts and deals.';

create unique index tags_name_idx
    on tags (lower(name));

create table taggings (
    id bigint generated always as identity primary key,
    tag_id uuid not null references tags (id) on delete cascade,
    company_id uuid references companies (id) on delete cascade,
    contact_id uuid references contacts (id) on delete cascade,
    deal_id uuid references deals (id) on delete cascade,
    constraint taggings_about_check check (num_nonnulls(company_id, contact_id, deal_id) = 1)
);

comment on table taggings is
    'Which tag is on which company, contact or deal: exactly one of the three a row.';

create unique index taggings_company_idx
    on taggings (company_id, tag_id)
    where company_id is not null;
create unique index taggings_contact_idx
    on taggings (contact_id, tag_id)
    where contact_id is not null;
create unique index taggings_deal_idx
    on taggings (deal_id, tag_id)
    where deal_id is not null;
create index taggings_tag_idx
    on taggings (tag_id);

create table attachments (
    id uuid primary key default gen_random_uuid(),
    file_name text not null,
    content_type text not null default 'application/octet-stream',
    size_bytes bigint not null,
    storage_key text not null unique,
    sha256 bytea not null,
    company_id uuid references companies (id) on delete set null,
    deal_id uuid references deals (id) on delete set null,
    uploaded_by uuid references users (id) on delete set null,
    created_at timestamptz not null default now(),
    constraint attachments_size_check check (size_bytes >= 0),
    constraint attachments_sha256_check check (octet_length(sha256) = 32),
    constraint attachments_about_check check (num_nonnulls(company_id, deal_id) <= 1)
);

comment on table attachments is
    'Files, whose contents are in an object store.';
comment on column attachments.storage_key is
    'Where the object store has the contents.';
comment on column attachments.sha256 is
    'Digest of the contents, to notice a changed or truncated file.';
comment on column attachments.deal_id is
    'At most one of company and deal is set; none once the thing it belonged to is gone, and the file is to be cleared away.';

create index attachments_company_idx
    on attachments (company_id)
    where company_id is not null;
create index attachments_deal_idx
    on attachments (deal_id)
    where deal_id is not null;
