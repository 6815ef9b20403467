//! Why a call of a provider's API did not do what was asked.
//!
//! Guarantees that no error holds the API key, an e-mail address or a URL, neither in its text nor in its `Debug`; that what
//! the provider wrote is one line of at most 200 characters; and that each error says whether trying again can help.

use std::time::Duration;

use crate::webhooks::SourceKind;

/// Why a call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source has no API that is known here.
    #[error("source kind {} has no API that can be called", .0.name())]
    NoApi(SourceKind),
    /// The URL of the API cannot be used.
    #[error("the API URL {0}")]
    BadUrl(&'static str),
    /// The API key cannot be used.
    #[error("the API key {0}")]
    BadKey(&'static str),
    /// TLS or the HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Setup(#[source] reqwest::Error),
    /// The provider's API has no such operation.
    #[error("{doing}: the API of {} cannot do that", .kind.name())]
    Unsupported {
        /// What was attempted.
        doing: String,
        /// Whose API.
        kind: SourceKind,
    },
    /// An id that no object of a provider can have; nothing was sent.
    #[error("{doing}: the id cannot be one of the provider's")]
    BadId {
        /// What was attempted.
        doing: String,
    },
    /// 401 or 403: the provider does not accept the key, or not for this.
    #[error("{doing}: the provider does not accept the API key ({status}): {message}{request}")]
    Unauthorized {
        /// What was attempted.
        doing: String,
        /// The HTTP status.
        status: u16,
        /// What the provider says.
        message: String,
        /// The provider's id of the request in brackets; empty without one.
        request: String,
    },
    /// 429, or a call that was not sent because an earlier one was answered so.
    #[error("{doing}: the provider limits the rate; again in {} s", .retry_after.as_secs_f64().ceil())]
    RateLimited {
        /// What was attempted.
        doing: String,
        /// How long nothing will be sent.
        retry_after: Duration,
    },
    /// The provider understood and refused.
    #[error("{doing}: the provider refused with {code} ({status}): {message}{request}")]
    Refused {
        /// What was attempted.
        doing: String,
        /// The HTTP status.
        status: u16,
        /// The provider's code; `none` when it gave none.
        code: String,
        /// What the provider says.
        message: String,
        /// What it means here, where that is known.
        reason: Option<Refusal>,
        /// The provider's id of the request in brackets; empty without one.
        request: String,
    },
    /// No answer, no whole answer, or 5xx: whether the call had an effect is not known.
    #[error("{doing}: the provider's API is not available: {problem}{request}")]
    Unavailable {
        /// What was attempted.
        doing: String,
        /// What happened instead of an answer.
        problem: String,
        /// The provider's id of the request in brackets; empty without one.
        request: String,
        /// Why, where it is the network's doing.
        source: Option<reqwest::Error>,
    },
    /// An answer of success that makes no sense; the call may have had its effect.
    #[error("{doing}: the provider's answer cannot be read: {problem}{request}")]
    Unreadable {
        /// What was attempted.
        doing: String,
        /// What is wrong with it; nothing of its content.
        problem: String,
        /// The provider's id of the request in brackets; empty without one.
        request: String,
    },
}

impl Error {
    /// The stable code for responses, logs and attempts; of a refusal, that of its [`Refusal`].
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoApi(_) | Self::Unsupported { .. } => "provider_unsupported",
            Self::BadUrl(_) | Self::BadKey(_) | Self::Setup(_) => "provider_settings_invalid",
            Self::BadId { .. } => "provider_id_invalid",
            Self::Unauthorized { .. } => "provider_unauthorized",
            Self::RateLimited { .. } => "provider_rate_limited",
            Self::Refused { reason: None, .. } => "provider_refused",
            Self::Refused {
                reason: Some(reason),
                ..
            } => reason.code(),
            Self::Unavailable { .. } => "provider_unavailable",
            Self::Unreadable { .. } => "provider_unreadable",
        }
    }

    /// Whether the same call may succeed later without anybody doing anything.
    ///
    /// An unreadable answer counts: it is more often a proxy's passing page than a new format.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Unavailable { .. } | Self::Unreadable { .. } => true,
            Self::NoApi(_)
            | Self::BadUrl(_)
            | Self::BadKey(_)
            | Self::Setup(_)
            | Self::Unsupported { .. }
            | Self::BadId { .. }
            | Self::Unauthorized { .. }
            | Self::Refused { .. } => false,
        }
    }

    /// How long to wait at least, where the provider says so.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// What a refusal means here; `None` also for every other error.
    pub const fn reason(&self) -> Option<Refusal> {
        match self {
            Self::Refused { reason, .. } => *reason,
            _ => None,
        }
    }
}

/// What a provider's refusal means, in our own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// An invitation of this e-mail address to this organization is pending.
    AlreadyInvited,
    /// The user belongs to the organization.
    AlreadyMember,
    /// The invitation was accepted, was revoked, or has expired.
    InvitationNotPending,
    /// The membership is that of somebody who has not accepted the invitation yet.
    MembershipPending,
    /// The role does not exist there.
    InvalidRole,
    /// The address is none, or mail cannot be delivered to it.
    EmailRefused,
    /// The organization, or the inviting user, may not invite.
    MayNotInvite,
    /// The organization has as many members and invitations as it may have.
    MemberLimit,
    /// A directory or enterprise connection manages the membership.
    ManagedByDirectory,
    /// Somebody with the most rights has to stay.
    LastAdmin,
    /// Another organization has the external id.
    ExternalIdTaken,
    /// The external id is too long, or has characters that the provider does not take.
    ExternalIdRefused,
    /// Another organization has the name, or the slug that stands for the external id.
    NameTaken,
    /// The name is empty, too long, or has in it what the provider does not take, such as a URL.
    NameRefused,
    /// Another organization has the domain.
    DomainTaken,
    /// The domain is none, or one that nobody may have, such as that of a public mail service.
    DomainRefused,
    /// There are as many organizations as the provider's plan allows.
    OrganizationLimit,
    /// Organizations are switched off at the provider.
    OrganizationsDisabled,
    /// Slugs of organizations are switched off at the provider.
    SlugsDisabled,
    /// 404: the provider does not know the organization, user, membership or invitation.
    NotFound,
}

impl Refusal {
    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::AlreadyInvited => "already_invited",
            Self::AlreadyMember => "already_member",
            Self::InvitationNotPending => "invitation_not_pending",
            Self::MembershipPending => "membership_pending",
            Self::InvalidRole => "invalid_role",
            Self::EmailRefused => "email_refused",
            Self::MayNotInvite => "may_not_invite",
            Self::MemberLimit => "member_limit",
            Self::ManagedByDirectory => "managed_by_directory",
            Self::LastAdmin => "last_admin",
            Self::ExternalIdTaken => "external_id_taken",
            Self::ExternalIdRefused => "external_id_refused",
            Self::NameTaken => "organization_name_taken",
            Self::NameRefused => "organization_name_refused",
            Self::DomainTaken => "domain_taken",
            Self::DomainRefused => "domain_refused",
            Self::OrganizationLimit => "organization_limit",
            Self::OrganizationsDisabled => "organizations_disabled",
            Self::SlugsDisabled => "organization_slugs_disabled",
            Self::NotFound => "provider_not_found",
        }
    }

    /// Reads a provider's code and the field that it is about.
    ///
    /// Sources: `spec/open-api-spec.yaml` of `workos/openapi-spec` and <https://clerk.com/docs/errors/backend-api>.
    pub(super) fn of(status: u16, code: &str, field: Option<&str>) -> Option<Self> {
        match (code, field) {
            (
                "email_already_invited_to_organization"
                | "email_already_invited"
                | "organization_invitation_not_unique",
                _,
            ) => Some(Self::AlreadyInvited),
            (
                "user_already_organization_member"
                | "organization_membership_already_exists"
                | "already_a_member_in_organization",
                _,
            ) => Some(Self::AlreadyMember),
            (
                "invite_not_pending"
                | "organization_invitation_not_pending"
                | "organization_invitation_already_accepted"
                | "organization_invitation_revoked_code",
                _,
            ) => Some(Self::InvitationNotPending),
            (
                "cannot_deactivate_pending_organization_membership"
                | "cannot_reactivate_pending_organization_membership",
                _,
            ) => Some(Self::MembershipPending),
            ("invalid_role", _) | (_, Some("role" | "role_slug")) => Some(Self::InvalidRole),
            ("email_domain_not_deliverable" | "invalid_email", _)
            | (_, Some("email" | "email_address")) => Some(Self::EmailRefused),
            (
                "organization_blocked_from_sending_invites"
                | "invitations_not_supported_in_organization"
                | "not_an_admin_in_organization"
                | "not_a_member_in_organization",
                _,
            ) => Some(Self::MayNotInvite),
            ("organization_membership_quota_exceeded", _) => Some(Self::MemberLimit),
            (
                "organization_membership_managed_by_scim"
                | "organization_membership_enterprise_connection_cannot_remove",
                _,
            ) => Some(Self::ManagedByDirectory),
            ("organization_minimum_permissions_needed", _) => Some(Self::LastAdmin),
            _ => Self::of_organization(code, field)
                .or_else(|| (status == 404).then_some(Self::NotFound)),
        }
    }

    /// What is said when an organization is to be created.
    ///
    /// `organization_domain_already_used` and `organization_slugs_disabled` are in neither document; applications report them.
    fn of_organization(code: &str, field: Option<&str>) -> Option<Self> {
        match (code, field) {
            ("external_id_already_used", _) => Some(Self::ExternalIdTaken),
            ("organization_slugs_disabled", _) => Some(Self::SlugsDisabled),
            ("organization_not_enabled_in_instance", _) => Some(Self::OrganizationsDisabled),
            ("organization_quota_exceeded", _) => Some(Self::OrganizationLimit),
            (
                "organization_domain_already_used"
                | "organization_domain_already_exists"
                | "domain_already_exists",
                _,
            ) => Some(Self::DomainTaken),
            ("organization_domain_common" | "organization_domain_blocked", _) => {
                Some(Self::DomainRefused)
            }
            (_, Some(field)) if field.starts_with("domain") => Some(Self::DomainRefused),
            (
                "form_identifier_exists" | "form_already_exists" | "duplicate_record",
                Some("name" | "slug"),
            ) => Some(Self::NameTaken),
            (_, Some("name")) => Some(Self::NameRefused),
            (_, Some("external_id")) => Some(Self::ExternalIdRefused),
            _ => None,
        }
    }
}
