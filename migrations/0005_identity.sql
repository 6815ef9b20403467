-- What the identity providers said of their users, memberships, invitations, roles and directories.
-- Owner: src/identity/ (and src/members/ for what is decided here: removals, assignments, syncs)
--
-- Every table is a set of registers: `content` is the newest description by the provider's own
-- `updated_at` (of two of the same moment the one with the greater digest), `deleted_at` the earliest
-- deletion. Joining is commutative, associative and idempotent: order and repetition do not matter.
-- What is shown is computed from the registers (see the view members), never stored beside them.

create table users (
    source text not null,
    user_id text not null,
    content jsonb,
    updated_at timestamptz,
    digest text collate "C",
    deleted_at timestamptz,
    event bigint,
    recorded_at timestamptz not null default now(),
    email text generated always as (content ->> 'email') stored,
    first_name text generated always as (content ->> 'first_name') stored,
    last_name text generated always as (content ->> 'last_name') stored,
    external_id text generated always as (content ->> 'external_id') stored,
    primary key (source, user_id)
);

create index users_by_email on users (source, lower(email)) where email is not null;

comment on table users is 'Users as their provider last described them; two may share an e-mail address';
comment on column users.content is 'The newest description; null where only the deletion is known';
comment on column users.updated_at is 'The provider''s own time of the description: older ones change nothing';
comment on column users.digest is 'Of the content: decides between two descriptions of the same moment';
comment on column users.deleted_at is 'The tombstone: nothing undoes it';
comment on column users.event is 'Number of the event that changed the row last; null where the provider''s API told it';
comment on column users.recorded_at is 'When the row was changed last';

create table memberships (
    source text not null,
    membership_id text not null,
    content jsonb,
    updated_at timestamptz,
    digest text collate "C",
    deleted_at timestamptz,
    event bigint,
    recorded_at timestamptz not null default now(),
    org_id text generated always as (content ->> 'organization_id') stored,
    user_id text generated always as (content ->> 'user_id') stored,
    status text generated always as (content ->> 'status') stored,
    role text generated always as (content ->> 'role') stored,
    -- decided here, not by the provider
    removed_at timestamptz,
    removed_by text,
    restored_at timestamptz,
    role_set text,
    role_set_at timestamptz,
    roles_told text[],
    primary key (source, membership_id)
);

create index memberships_by_organization on memberships (source, org_id, user_id);
create index memberships_by_user on memberships (source, user_id);

comment on table memberships is 'Who belongs to which organization, as the provider last said it, and removals and roles decided here';
comment on column memberships.status is 'active, pending or inactive as the provider says; gone where it ended and may begin again';
comment on column memberships.role is 'Slug of the role, without a provider''s prefix';
comment on column memberships.removed_at is 'Soft removal made here; the provider''s word does not undo it';
comment on column memberships.removed_by is 'Who removed it here';
comment on column memberships.restored_at is 'When a removal was taken back here: counts until a description that the provider wrote later';
comment on column memberships.role_set is 'Slug of the role decided here: counts until a description that the provider wrote later, or until the provider was told';
comment on column memberships.role_set_at is 'When the role was decided here';
comment on column memberships.roles_told is 'The role that the provider had at the decision and those that it was told since it answered last: a description that names one of these is no later word';

-- A provider's description overrules a decision when it was both received and written after it (a delivery may
-- be late, and clocks differ), and names none of the roles that the provider had then or was told since.
create function role_in_force(membership memberships) returns text
language sql
stable
return case
    when membership.role_set_at >= least(membership.recorded_at, membership.updated_at)
      or membership.role = any(membership.roles_told) then membership.role_set
end;

comment on function role_in_force is 'The role that was decided here, where the provider has not overruled it';

create table invitations (
    id uuid primary key default gen_random_uuid(),
    number bigint generated always as identity,
    source text not null,
    invitation_id text,
    content jsonb,
    updated_at timestamptz,
    digest text collate "C",
    deleted_at timestamptz,
    event bigint,
    recorded_at timestamptz not null default now(),
    org_id text generated always as (content ->> 'organization_id') stored,
    email text generated always as (content ->> 'email') stored,
    state text generated always as (content ->> 'state') stored,
    inviter_user_id text generated always as (content ->> 'inviter_user_id') stored,
    accepted_user_id text generated always as (content ->> 'accepted_user_id') stored,
    -- the newest role that any description told: an acceptance may leave it out
    role text,
    role_at timestamptz,
    -- given here
    customer_id text,
    requested_by text,
    requested_at timestamptz,
    failure text,
    revoke_requested_at timestamptz,
    resend_requested_at timestamptz,
    unique (source, invitation_id)
);

create index invitations_by_organization on invitations (source, org_id, lower(email));
create index invitations_by_accepted_user on invitations (source, accepted_user_id) where accepted_user_id is not null;

comment on table invitations is 'Invitations as the provider last described them, and those asked for here';
comment on column invitations.id is 'Our id of the invitation';
comment on column invitations.number is 'In the order in which invitations became known here: lists are cut into pages by it';
comment on column invitations.invitation_id is 'The provider''s id; null until an invitation asked for here was sent';
comment on column invitations.state is 'requested (here, not sent yet), pending, accepted, revoked, expired';
comment on column invitations.role is 'Slug of the promised role: kept when a later description leaves it out';
comment on column invitations.role_at is 'The provider''s time of the description that told the role';
comment on column invitations.customer_id is 'The application''s customer that the invited person is for';
comment on column invitations.failure is 'Why it could not be sent';
comment on column invitations.revoke_requested_at is 'When it was taken back here: it shows as revoked at once, unless it was accepted before the provider heard of it';
comment on column invitations.resend_requested_at is 'When somebody asked last for it to be sent again';

create table roles (
    source text not null,
    role_id text not null,
    content jsonb,
    updated_at timestamptz,
    digest text collate "C",
    deleted_at timestamptz,
    event bigint,
    recorded_at timestamptz not null default now(),
    org_id text generated always as (content ->> 'organization_id') stored,
    slug text generated always as (content ->> 'slug') stored,
    name text generated always as (content ->> 'name') stored,
    description text generated always as (content ->> 'description') stored,
    is_gone boolean generated always as ((content -> 'is_gone')::boolean) stored,
    primary key (source, role_id)
);

comment on table roles is 'Roles as the provider last described them';
comment on column roles.org_id is 'The organization whose own role it is; null for a role of all';
comment on column roles.is_gone is 'Deleted; the slug may be used again, so this is no tombstone';

create view role_permissions as
select
    roles.source,
    roles.role_id,
    roles.org_id,
    roles.slug,
    permission.slug as permission
from roles
cross join lateral jsonb_array_elements_text(roles.content -> 'permissions') as permission (slug)
where not roles.is_gone
  and roles.deleted_at is null;

comment on view role_permissions is 'Which permissions each role carries';

create table permissions (
    source text not null,
    permission_id text not null,
    content jsonb,
    updated_at timestamptz,
    digest text collate "C",
    deleted_at timestamptz,
    event bigint,
    recorded_at timestamptz not null default now(),
    slug text generated always as (content ->> 'slug') stored,
    name text generated always as (content ->> 'name') stored,
    primary key (source, permission_id)
);

comment on table permissions is 'Permissions that roles may carry, as the provider last described them';

create table organization_domains (
    source text not null,
    domain_id text not null,
    content jsonb,
    updated_at timestamptz,
    digest text collate "C",
    deleted_at timestamptz,
    event bigint,
    recorded_at timestamptz not null default now(),
    org_id text generated always as (content ->> 'organization_id') stored,
    domain text generated always as (content ->> 'domain') stored,
    state text generated always as (content ->> 'state') stored,
    primary key (source, domain_id)
);

create index organization_domains_by_organization on organization_domains (source, org_id);

comment on table organization_domains is 'E-mail domains of organizations';
comment on column organization_domains.state is 'The provider''s word for how far its verification is, such as verified';

create table directory_users (
    source text not null,
    directory_user_id text not null,
    content jsonb,
    updated_at timestamptz,
    digest text collate "C",
    deleted_at timestamptz,
    event bigint,
    recorded_at timestamptz not null default now(),
    org_id text generated always as (content ->> 'organization_id') stored,
    email text generated always as (content ->> 'email') stored,
    state text generated always as (content ->> 'state') stored,
    role text generated always as (content ->> 'role') stored,
    primary key (source, directory_user_id)
);

create index directory_users_by_email on directory_users (source, org_id, lower(email));

comment on table directory_users is 'Users of the organizations'' own directories (SCIM)';
comment on column directory_users.state is 'active, suspended or inactive: only an active one lets the member of this e-mail address in';

create table directory_groups (
    source text not null,
    directory_group_id text not null,
    content jsonb,
    updated_at timestamptz,
    digest text collate "C",
    deleted_at timestamptz,
    event bigint,
    recorded_at timestamptz not null default now(),
    org_id text generated always as (content ->> 'organization_id') stored,
    name text generated always as (content ->> 'name') stored,
    primary key (source, directory_group_id)
);

comment on table directory_groups is 'Groups of the organizations'' own directories';

create table directory_group_members (
    source text not null,
    group_member_id text not null,
    content jsonb,
    updated_at timestamptz,
    digest text collate "C",
    deleted_at timestamptz,
    event bigint,
    recorded_at timestamptz not null default now(),
    directory_group_id text generated always as (content ->> 'group_id') stored,
    directory_user_id text generated always as (content ->> 'directory_user_id') stored,
    is_gone boolean generated always as ((content -> 'is_gone')::boolean) stored,
    primary key (source, group_member_id)
);

comment on table directory_group_members is 'Who is, or was, in which directory group';

create table staff_assignments (
    source text not null,
    org_id text not null,
    user_id text not null,
    customer_id text not null,
    assigned_by text not null,
    assigned_at timestamptz not null default now(),
    primary key (source, org_id, user_id, customer_id)
);

comment on table staff_assignments is 'Which member looks after which of the application''s customers; a removal ends them for good';

create table member_syncs (
    source text not null,
    org_id text not null,
    user_id text not null,
    digest text not null,
    status text not null check (status in ('active', 'removed')),
    role text,
    note text,
    synced_at timestamptz not null default now(),
    primary key (source, org_id, user_id)
);

comment on table member_syncs is 'What each tenant''s database was last told of each member: whoever differs from it is told again';
comment on column member_syncs.digest is 'Of the member and of the blueprint''s sync scripts; empty while nobody knows what the database has';
comment on column member_syncs.role is 'The role as the tenant''s database got it';
comment on column member_syncs.note is 'What was changed on the way, such as an unknown role that became the default one; or why the member is not synced';

-- One row per organization and user: everything that is known of the member, computed.
create view members as
select distinct on (membership.source, membership.org_id, membership.user_id)
    membership.source,
    membership.org_id,
    membership.user_id,
    membership.membership_id,
    case
        when organization.deleted_at is not null
          or person.deleted_at is not null
          or not directory.lets_in then 'removed'
        else own.status
    end as status,
    coalesce(role_in_force(membership), membership.role, accepted.role) as role,
    organization.created_by is not distinct from membership.user_id as is_creator,
    accepted.customer_id,
    told.email,
    told.first_name,
    told.last_name,
    coalesce(nullif(concat_ws(' ', told.first_name, told.last_name), ''), told.email, membership.user_id) as display_name,
    person.external_id,
    person.content is not null as is_user_known,
    membership.removed_at,
    membership.removed_by,
    membership.restored_at,
    membership.updated_at
from memberships membership
-- the membership by itself: what the provider says of it and what was decided here
cross join lateral (
    select case
        when membership.deleted_at is not null
          or membership.removed_at is not null
          or membership.status = 'gone'
          -- restored here: in force until the provider says otherwise in a word that is received and written later
          or (membership.status = 'inactive'
              and coalesce(membership.restored_at < least(membership.recorded_at, membership.updated_at), true)) then 'removed'
        when membership.status = 'pending' then 'invited'
        else 'active'
    end as status
) as own
left join organizations organization
    on organization.source = membership.source
    and organization.org_id = membership.org_id
left join users person
    on person.source = membership.source
    and person.user_id = membership.user_id
-- the user's own description counts as a whole; what the membership tells of the user stands in for it
cross join lateral (
    select person.email, person.first_name, person.last_name
    where person.content is not null
    union all
    select membership.content ->> 'email', membership.content ->> 'first_name', membership.content ->> 'last_name'
    where person.content is null
) as told
left join lateral (
    select
        invitation.role,
        coalesce(invitation.customer_id, invitation.content ->> 'customer_id') as customer_id
    from invitations invitation
    where invitation.source = membership.source
      and invitation.org_id = membership.org_id
      and invitation.state = 'accepted'
      and (invitation.accepted_user_id = membership.user_id
           or (invitation.accepted_user_id is null and lower(invitation.email) = lower(told.email)))
    order by invitation.updated_at desc, invitation.invitation_id desc
    limit 1
) as accepted on true
-- a directory decides only about people it knows, and one active entry is enough
cross join lateral (
    select coalesce(bool_or(entry.state = 'active' and entry.deleted_at is null), true) as lets_in
    from directory_users entry
    where entry.source = membership.source
      and entry.org_id = membership.org_id
      and lower(entry.email) = lower(told.email)
) as directory
where membership.content is not null
-- of several memberships of one user the one in force counts, then one that may come into force, then the newest
order by
    membership.source,
    membership.org_id,
    membership.user_id,
    array_position(array['active', 'invited', 'removed'], own.status),
    membership.updated_at desc,
    membership.membership_id desc;

comment on view members is 'Every member of every organization: status, role and name, computed from what the provider said and what was decided here';
comment on column members.status is 'active, removed or invited';

-- Invitations as they stand now: no provider sends an event when one expires.
create view standing_invitations as
select
    invitation.id,
    invitation.source,
    invitation.org_id,
    invitation.invitation_id,
    invitation.email,
    case
        when invitation.deleted_at is not null then 'revoked'
        -- taken back here: who accepted before the provider heard of it is in
        when invitation.revoke_requested_at is not null and invitation.state in ('requested', 'pending') then 'revoked'
        when invitation.failure is not null then 'failed'
        when invitation.state = 'pending'
          and (invitation.content ->> 'expires_at')::timestamptz < now() then 'expired'
        else invitation.state
    end as state,
    invitation.role,
    invitation.customer_id,
    invitation.failure,
    coalesce(invitation.updated_at, invitation.requested_at) as updated_at,
    invitation.number,
    invitation.requested_by,
    (invitation.content ->> 'expires_at')::timestamptz as expires_at
from invitations invitation;

comment on view standing_invitations is 'Invitations as they stand now';
comment on column standing_invitations.state is 'requested, pending, accepted, revoked, expired or failed';
