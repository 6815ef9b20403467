//! What follows from a registration: tenant and job, in the caller's transaction.
//!
//! Guarantees: a person who asks for the same organization again gets the same registration, also when
//! both ask in the same instant; an organization that is known by the external id keeps its tenant;
//! whoever belongs to a ready tenant is told so, and nothing is made.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Refusal, retry_tenant};
use crate::{
    audit::Actor,
    config::{self, Config},
    identity, members,
    queue::{self, NewJob},
    registrations::{
        self, NewRegistration, Row, State, StatusToken, Stored,
        form::{FieldProblem, Form},
    },
    secrets::{self, Keyring},
    tenants::{self, NewTenant, Tenant, TenantId, TenantState, naming},
};

/// Source of organizations where none is configured: no provider will ever tell of them.
const NO_SOURCE: &str = "tenantry";

/// Further slugs that are offered for one that is taken.
const SUGGESTIONS: usize = 3;

/// Why somebody cannot be registered. Then nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum NotRegistered {
    /// The control database cannot be used, or the tenant is not in a state in which it can be tried again.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The tenant's row cannot be made.
    #[error("the tenant cannot be recorded")]
    Tenant(#[source] tenants::Error),
    /// No random token can be made.
    #[error("no status token can be made")]
    Secrets(#[from] secrets::Error),
    /// A field cannot be used here.
    #[error("the form cannot be used")]
    Fields(Vec<FieldProblem>),
    /// The host of the slug is another tenant's, or looks like it.
    #[error("the slug is taken")]
    SlugTaken {
        /// Slugs that are free.
        suggestions: Vec<String>,
    },
    /// The external id stands for somebody else's registration.
    #[error("somebody else registered the organization with this external id")]
    ExternalIdTaken,
    /// The person registered it, and not with this form.
    #[error("the person registered this organization already, in another way")]
    RegisteredElsewhere,
    /// The person belongs to a ready tenant.
    #[error("the person belongs to a tenant that is ready")]
    AlreadyMember {
        /// Its host, where whoever asks may know it.
        url: Option<String>,
    },
    /// The organization has a tenant that cannot become ready.
    #[error("the organization's tenant is {}", state.name())]
    TenantUnavailable {
        /// How it is.
        state: TenantState,
    },
}

impl From<sqlx::Error> for NotRegistered {
    fn from(error: sqlx::Error) -> Self {
        Self::Refused(error.into())
    }
}

impl From<queue::Error> for NotRegistered {
    fn from(error: queue::Error) -> Self {
        Self::Refused(error.into())
    }
}

/// Where registrations are carried out.
#[derive(Debug, Clone)]
pub struct RegistrationDesk {
    /// Names of the sources, and whether their provider is called first.
    sources: BTreeMap<String, bool>,
    names: config::Tenants,
    keyring: Arc<Keyring>,
    deadline: Duration,
    max_attempts: i32,
}

/// What somebody asks for.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The form.
    pub form: &'a Form,
    /// Principal that asks.
    pub made_by: &'a str,
    /// For the audit log.
    pub actor: &'a Actor,
    /// Whether it is anybody, with a form: they join nothing, and learn nothing of others' registrations.
    pub is_form: bool,
}

impl RegistrationDesk {
    /// The desk of this configuration.
    pub fn new(config: &Config, keyring: &Arc<Keyring>) -> Self {
        let sources = config.sources.iter();
        Self {
            sources: sources
                .map(|(name, source)| (name.clone(), source.can_be_called()))
                .collect(),
            names: config.tenants.clone(),
            keyring: Arc::clone(keyring),
            deadline: Duration::from_secs(config.registrations.deadline_s),
            max_attempts: config.queue.max_attempts,
        }
    }

    /// Registers somebody, or finds what they registered before.
    pub async fn register(
        &self,
        tx: &mut PgConnection,
        asking: Asking<'_>,
    ) -> Result<Row, NotRegistered> {
        let form = asking.form;
        let (source, at_provider) = self.source_of(asking)?;
        registrations::lock_person(tx, &source, &form.email_key).await?;
        if let Some(external_id) = &form.external_id {
            registrations::lock_external_id(tx, &source, external_id).await?;
        }
        if let Some(same) = registrations::find_same(tx, &source, form).await? {
            if !identity::is_deleted(tx, same.organization()).await? {
                return self.go_on(tx, asking, same).await;
            }
            // what was registered is gone at the provider: this is another organization
            registrations::mark_superseded(tx, same.id).await?;
        }
        if let Some(external_id) = &form.external_id
            && registrations::find_by_external_id(tx, &source, external_id)
                .await?
                .is_some()
        {
            return Err(NotRegistered::ExternalIdTaken);
        }
        if let Some(url) = members::find_ready_tenant(tx, &source, &form.email_key).await? {
            return Err(NotRegistered::AlreadyMember { url: Some(url) });
        }
        let known = match &form.external_id {
            Some(external_id) => self.find_known(tx, asking, (&source, external_id)).await?,
            None => None,
        };
        match known {
            Some(tenant) => self.join(tx, asking, &tenant, at_provider).await,
            None => self.begin(tx, asking, (&source, at_provider)).await,
        }
    }

    /// The source, and whether its provider is called first.
    fn source_of(&self, asking: Asking<'_>) -> Result<(String, bool), NotRegistered> {
        let problem = |pointer, code, detail: &str| {
            let detail = detail.to_owned();
            Err(NotRegistered::Fields(vec![FieldProblem {
                pointer,
                code,
                detail,
            }]))
        };
        if asking.form.external_id.is_some() && asking.is_form {
            let detail = "cannot be given by a form: whoever names an organization joins it";
            return problem("#/organization/external_id", "not_from_a_form", detail);
        }
        let chosen = |(name, at_provider): (&String, &bool)| Ok((name.clone(), *at_provider));
        if let Some(name) = &asking.form.source {
            return match self.sources.get_key_value(name) {
                Some(source) => chosen(source),
                None => problem(
                    "#/source",
                    "source_unknown",
                    "is none of the configured sources",
                ),
            };
        }
        // where one provider can be called, it is the one that is meant
        let callable = self.sources.iter().filter(|(_, at_provider)| **at_provider);
        let mut candidates: Vec<_> = callable.collect();
        if candidates.is_empty() {
            candidates = self.sources.iter().collect();
        }
        match candidates[..] {
            [] => Ok((NO_SOURCE.to_owned(), false)),
            [source] => chosen(source),
            _ => problem(
                "#/source",
                "required",
                "has to say which of the configured sources is meant",
            ),
        }
    }

    /// The tenant of the organization that the provider told of with this external id.
    async fn find_known(
        &self,
        tx: &mut PgConnection,
        asking: Asking<'_>,
        (source, external_id): (&str, &str),
    ) -> Result<Option<Tenant>, NotRegistered> {
        let Some(org_id) = identity::find_by_external_id(tx, source, external_id).await? else {
            return Ok(None);
        };
        let seen = tenants::find_of_organization(tx, source, &org_id).await?;
        if let Some(failed) = seen.filter(|tenant| tenant.state == TenantState::Failed) {
            // its job is locked before the tenant
            self.retry(tx, &failed, asking.actor).await?;
        }
        // it may become ready in this instant, and tells only the registrations that it sees
        Ok(tenants::hold_of_organization(tx, source, &org_id).await?)
    }

    /// Tries a failed tenant again, unless somebody else did in this moment.
    async fn retry(
        &self,
        tx: &mut PgConnection,
        tenant: &Tenant,
        actor: &Actor,
    ) -> Result<(), NotRegistered> {
        match retry_tenant(tx, tenant, self.max_attempts, actor).await {
            Ok(()) | Err(Refusal::TenantWrongState { .. }) => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// A registration of an organization that has its tenant already.
    async fn join(
        &self,
        tx: &mut PgConnection,
        asking: Asking<'_>,
        tenant: &Tenant,
        at_provider: bool,
    ) -> Result<Row, NotRegistered> {
        let state = match tenant.state {
            // whoever signs up is still to be invited
            TenantState::Ready if at_provider => State::Accepted,
            TenantState::Ready => State::Ready,
            TenantState::Pending | TenantState::Provisioning | TenantState::Failed => {
                State::Accepted
            }
            state @ (TenantState::Suspended | TenantState::Archived | TenantState::Deleted) => {
                return Err(NotRegistered::TenantUnavailable { state });
            }
        };
        let id = Uuid::now_v7();
        let new = NewRegistration {
            id,
            source: &tenant.source,
            external_id: asking.form.external_id.as_deref().unwrap_or_default(),
            form: asking.form,
            made_by: asking.made_by,
            token: &new_token()?,
            at_provider,
            org_id: Some(&tenant.org_id),
            tenant: tenant.id,
            is_tenant_ours: false,
            state,
            deadline: self.deadline,
        };
        let made = registrations::insert(tx, &new).await?;
        if at_provider {
            queue::enqueue(tx, &self.job((&tenant.source, &tenant.org_id), id)).await?;
        }
        Ok(made)
    }

    /// A registration with a tenant of its own.
    async fn begin(
        &self,
        tx: &mut PgConnection,
        asking: Asking<'_>,
        (source, at_provider): (&str, bool),
    ) -> Result<Row, NotRegistered> {
        let (id, form) = (Uuid::now_v7(), asking.form);
        let org_id = identity::own_organization(id);
        identity::insert_own_organization(tx, (source, &org_id), &form.name).await?;
        let tenant = self.new_tenant(tx, form, (source, &org_id)).await?;
        let external_id = form.external_id.clone().unwrap_or_else(|| id.to_string());
        let new = NewRegistration {
            id,
            source,
            external_id: &external_id,
            form,
            made_by: asking.made_by,
            token: &new_token()?,
            at_provider,
            org_id: None,
            tenant,
            is_tenant_ours: true,
            state: State::Accepted,
            deadline: self.deadline,
        };
        let made = registrations::insert(tx, &new).await?;
        let job = if at_provider {
            self.job((source, &org_id), id)
        } else {
            NewJob::provision_tenant(tenant.0, (source, &org_id), self.max_attempts)
        };
        queue::enqueue(tx, &job).await?;
        Ok(made)
    }

    async fn new_tenant(
        &self,
        tx: &mut PgConnection,
        form: &Form,
        (source, org_id): (&str, &str),
    ) -> Result<TenantId, NotRegistered> {
        let new = NewTenant {
            source,
            org_id,
            name: &form.name,
            slug: form.slug.as_deref(),
            requested_at: DateTime::<Utc>::from(std::time::SystemTime::now()),
        };
        match tenants::insert(tx, &new, &self.names, &self.keyring).await {
            Ok(Some(tenant)) => Ok(tenant),
            // its organization's id was made a moment ago
            Ok(None) => Err(NotRegistered::Tenant(tenants::Error::NoFreeName(
                org_id.to_owned(),
            ))),
            Err(tenants::Error::SlugTaken) => Err(NotRegistered::SlugTaken {
                suggestions: self
                    .suggest(tx, form.slug.as_deref().unwrap_or_default())
                    .await?,
            }),
            Err(tenants::Error::Sql(error)) => Err(error.into()),
            Err(error) => Err(NotRegistered::Tenant(error)),
        }
    }

    /// Free slugs that are like this one.
    async fn suggest(&self, tx: &mut PgConnection, slug: &str) -> sqlx::Result<Vec<String>> {
        let endings = ["hq", "app", "team", "2", "3", "4", "5"];
        let number = rand::random_range(100..1000).to_string();
        let endings = endings.into_iter().chain([number.as_str()]);
        let slugs: Vec<String> = endings
            .map(|ending| format!("{slug}-{ending}"))
            .filter(|slug| naming::is_slug(slug))
            .collect();
        let hosts: Vec<String> = slugs
            .iter()
            .map(|slug| naming::host(&self.names, slug))
            .collect();
        let asked: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let taken = tenants::find_taken(tx, &asked).await?;
        let free = slugs.into_iter().zip(&hosts);
        let free = free.filter(|(_, host)| !taken.contains(host));
        Ok(free.map(|(slug, _)| slug).take(SUGGESTIONS).collect())
    }

    /// The same registration once more; one that failed is put back to work: whoever signs up again wants it.
    async fn go_on(
        &self,
        tx: &mut PgConnection,
        asking: Asking<'_>,
        same: Stored,
    ) -> Result<Row, NotRegistered> {
        if asking.is_form && same.made_by != asking.made_by {
            return Err(NotRegistered::RegisteredElsewhere);
        }
        if same.state == State::Failed {
            self.try_again(tx, &same, asking.actor).await?;
        }
        find_again(tx, same.id).await
    }

    async fn try_again(
        &self,
        tx: &mut PgConnection,
        failed: &Stored,
        actor: &Actor,
    ) -> Result<(), NotRegistered> {
        let Some(tenant) = find_tenant(tx, failed).await? else {
            return Ok(());
        };
        match tenant.state {
            TenantState::Failed => self.retry(tx, &tenant, actor).await?,
            TenantState::Suspended | TenantState::Archived | TenantState::Deleted => {
                let state = tenant.state;
                return Err(NotRegistered::TenantUnavailable { state });
            }
            // only what the provider was to do has failed
            TenantState::Pending | TenantState::Provisioning | TenantState::Ready => {
                if failed.at_provider {
                    revive(tx, &self.job(tenant.key(), failed.id)).await?;
                }
            }
        }
        registrations::mark_retried(tx, failed.id).await?;
        Ok(())
    }

    fn job(&self, organization: (&str, &str), registration: Uuid) -> NewJob {
        NewJob::register_organization(registration, organization, self.max_attempts)
    }
}

/// A registration of this transaction, as it is by now.
async fn find_again(tx: &mut PgConnection, id: Uuid) -> Result<Row, NotRegistered> {
    let found = registrations::find(tx, id).await?;
    found.ok_or_else(|| sqlx::Error::RowNotFound.into())
}

async fn find_tenant(tx: &mut PgConnection, registration: &Stored) -> sqlx::Result<Option<Tenant>> {
    match registration.tenant_id {
        Some(tenant) => tenants::find(tx, tenant).await,
        None => Ok(None),
    }
}

/// The job goes on where it was given up, with its history; a new one only where it was pruned.
async fn revive(tx: &mut PgConnection, job: &NewJob) -> Result<(), queue::Error> {
    if !queue::revive(tx, job).await? {
        queue::enqueue(tx, job).await?;
    }
    Ok(())
}

/// A text that nobody guesses: 256 random bits.
fn new_token() -> Result<StatusToken, secrets::Error> {
    Ok(StatusToken(format!("rst_{}", secrets::random_token()?)))
}
