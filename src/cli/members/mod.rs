//! `tenantry members ls|counts|invitations|assignments|remove|restore|set-role|sync|invite|revoke-invitation|resend-invitation|assign|unassign`.

mod manage;
mod show;

use serde_json::json;
use uuid::Uuid;

use super::{
    Exit, Failure, Globals,
    access::{self, Access},
    tenants,
};
use crate::{
    actions::MemberDesk,
    audit::Actor,
    causes::chain,
    members::{self, Error, Invitation, Member, Organization, Promise, Status},
    tenants::Tenant,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the members of a tenant's organization
    Ls {
        #[command(flatten)]
        of: Of,
        /// Only members of this status
        #[arg(long, value_parser = parse_status)]
        status: Option<Status>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Count them by status and role
    Counts {
        #[command(flatten)]
        of: Of,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List the invitations
    Invitations {
        #[command(flatten)]
        of: Of,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List who looks after which customer
    Assignments {
        #[command(flatten)]
        of: Of,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a member softly; ends the member's staff assignments
    Remove(OfMember),
    /// Tell tenant and provider once more what members there are
    Sync(Of),
    /// Take a removal back; staff assignments do not come back
    Restore(OfMember),
    /// Give a member another role
    SetRole {
        #[command(flatten)]
        member: OfMember,
        /// Slug of the role
        role: String,
    },
    /// Invite somebody through the provider
    Invite {
        #[command(flatten)]
        of: Of,
        /// Where the invitation goes
        email: String,
        /// Slug of the promised role
        #[arg(long)]
        role: Option<String>,
        /// The application's customer that the person is for
        #[arg(long, value_name = "ID")]
        customer: Option<String>,
        /// The member on whose behalf this is done: user id or e-mail address
        #[arg(long = "as", value_name = "USER")]
        acting: Option<String>,
    },
    /// Take an invitation back that is requested or pending
    RevokeInvitation(OfInvitation),
    /// Have the provider send an invitation again that is pending or has expired
    ResendInvitation(OfInvitation),
    /// Let a member look after a customer
    Assign(OfCustomer),
    /// Let a member look after a customer no longer
    Unassign(OfCustomer),
}

#[derive(Debug, clap::Args)]
pub(super) struct Of {
    /// Tenant: id, organization id, host or database
    tenant: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct OfMember {
    #[command(flatten)]
    of: Of,
    /// User id or e-mail address
    user: String,
    /// The member on whose behalf this is done: user id or e-mail address
    #[arg(long = "as", value_name = "USER")]
    acting: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct OfCustomer {
    #[command(flatten)]
    member: OfMember,
    /// The application's id of the customer
    customer: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct OfInvitation {
    #[command(flatten)]
    of: Of,
    /// Our id of it, the provider's, or where it goes
    invitation: String,
    /// The member on whose behalf this is done: user id or e-mail address
    #[arg(long = "as", value_name = "USER")]
    acting: Option<String>,
}

fn parse_status(text: &str) -> Result<Status, String> {
    serde_json::from_value(json!(text)).map_err(|_| "active, removed or invited".to_owned())
}

/// The desk, and the tenant whose organization it is about.
struct Office {
    access: Access,
    tenant: Tenant,
}

impl Office {
    async fn open(globals: &Globals, of: &Of) -> Result<Self, Failure> {
        let access = access::open(globals)?;
        let tenant = tenants::find(&access, &of.tenant).await?;
        Ok(Self { access, tenant })
    }

    fn organization(&self) -> Organization<'_> {
        Organization {
            source: &self.tenant.source,
            org_id: &self.tenant.org_id,
            admin_role: &self.access.config.identity.admin_role,
        }
    }

    fn desk(&self) -> MemberDesk {
        MemberDesk::new(&self.access.config)
    }

    async fn members(&self) -> Result<Vec<Member>, Failure> {
        let of = self.organization();
        let list = async |connection: &mut _| members::list(connection, of).await;
        Ok(self.access.db.run(list).await?)
    }

    /// Whoever is at the command line, or the user on whose behalf.
    async fn actor(&self, globals: &Globals, acting: Option<String>) -> Result<Actor, Failure> {
        match acting {
            // the same names as those of members: nobody acts on themselves under another name
            Some(user) => {
                let user_id = self.user_id(&user).await?;
                let members = self.members().await?;
                let acting = members.iter().find(|member| member.user_id == user_id);
                match acting.map(|member| member.status) {
                    Some(Status::Active) => Ok(Actor::User(user_id)),
                    status => Err(self.refused(&Error::WrongStatus {
                        user_id,
                        status: status.map_or("unknown", Status::name),
                    })),
                }
            }
            None => Ok(globals.operator()),
        }
    }

    /// The one member that the text names.
    async fn user_id(&self, text: &str) -> Result<String, Failure> {
        let members = self.members().await?;
        // nobody is named by the address that they do not have
        let is_named = |member: &&Member| {
            let has_address = |email: &str| !email.is_empty() && email.eq_ignore_ascii_case(text);
            member.user_id == text || member.email.as_deref().is_some_and(has_address)
        };
        let named: Vec<_> = members.iter().filter(is_named).collect();
        match &named[..] {
            [member] => Ok(member.user_id.clone()),
            [] => Err(self.refused(&Error::Unknown {
                user_id: text.to_owned(),
                org_id: self.tenant.org_id.clone(),
            })),
            _ => Err(Failure::failed(
                format!("{} members have the e-mail address {text}", named.len()),
                format!("give the user id: tenantry members ls {}", self.tenant.id),
            )),
        }
    }

    /// The one invitation that the text names; of an address, the one that is not settled.
    async fn invitation_id(&self, text: &str) -> Result<Uuid, Failure> {
        let of = self.organization();
        let list = async |connection: &mut _| members::list_invitations(connection, of).await;
        let invitations = self.access.db.run(list).await?;
        let is_named = |invitation: &&Invitation| {
            let goes_there = |email: &str| !email.is_empty() && email.eq_ignore_ascii_case(text);
            let is_open = ["requested", "pending", "expired"].contains(&&*invitation.state);
            invitation.id.to_string().eq_ignore_ascii_case(text)
                || invitation.invitation_id.as_deref() == Some(text)
                || (is_open && invitation.email.as_deref().is_some_and(goes_there))
        };
        let named: Vec<_> = invitations.iter().filter(is_named).collect();
        let list = format!("tenantry members invitations {} --json", self.tenant.id);
        match &named[..] {
            [invitation] => Ok(invitation.id),
            [] => Err(Failure::failed(
                format!("there is no open invitation to {text} [invitation_unknown]"),
                list,
            )),
            _ => Err(Failure::failed(
                format!("{} open invitations go to {text}", named.len()),
                format!("give the id: {list}"),
            )),
        }
    }

    fn refused(&self, error: &Error) -> Failure {
        let list = format!("tenantry members ls {}", self.tenant.id);
        let source = &self.tenant.source;
        let hint = match error {
            Error::Sql(_) | Error::Queue(_) => {
                "check DATABASE_URL and that Postgres runs; `tenantry doctor` tells more".to_owned()
            }
            Error::Unknown { .. } | Error::WrongStatus { .. } | Error::AlreadyThere(_) => list,
            Error::UnknownInvitation { .. } | Error::WrongState { .. } => {
                format!("tenantry members invitations {}", self.tenant.id)
            }
            Error::RoleUnknown(_) => {
                "give the slug of a role of the provider, or make the role there first".to_owned()
            }
            Error::CannotResend(_) => "revoke the invitation, and invite anew".to_owned(),
            Error::Yourself(_) => "another administrator has to do it".to_owned(),
            Error::LastAdmin(_) => format!(
                "give another member the role first: tenantry members set-role {} <user> {}",
                self.tenant.id, self.access.config.identity.admin_role
            ),
            Error::RemovedElsewhere(_) => {
                "bring the member back at the provider, or invite them".to_owned()
            }
            Error::BadText(_) => "give a shorter one, or leave the option out".to_owned(),
            Error::BadEmail(_) => "give one address, such as ada@example.com".to_owned(),
            Error::NoProviderApi(_) => format!("configure sources.{source}.api_key"),
        };
        let exit = match error {
            Error::BadEmail(_) | Error::BadText(_) => Exit::Usage,
            _ => Exit::Failed,
        };
        Failure::new(exit, format!("{} [{}]", chain(error), error.code()), hint)
    }
}

pub(super) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    match command {
        Command::Ls { of, status, json } => show::list(globals, &of, status, json).await,
        Command::Counts { of, json } => show::counts(globals, &of, json).await,
        Command::Invitations { of, json } => show::invitations(globals, &of, json).await,
        Command::Assignments { of, json } => show::assignments(globals, &of, json).await,
        Command::Remove(member) => manage::remove(globals, member).await,
        Command::Sync(of) => manage::sync(globals, &of).await,
        Command::Restore(member) => manage::restore(globals, member).await,
        Command::SetRole { member, role } => manage::set_role(globals, member, &role).await,
        Command::RevokeInvitation(named) => manage::revoke(globals, named).await,
        Command::ResendInvitation(named) => manage::resend(globals, named).await,
        Command::Invite {
            of,
            email,
            role,
            customer,
            acting,
        } => {
            let promise = Promise {
                email: &email,
                role: role.as_deref(),
                customer_id: customer.as_deref(),
            };
            manage::invite(globals, &of, promise, acting).await
        }
        Command::Assign(of) => manage::assign(globals, of, true).await,
        Command::Unassign(of) => manage::assign(globals, of, false).await,
    }
}
