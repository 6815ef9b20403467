//! What may be done about an organization's members.

use super::{Failure, Globals, Of, OfCustomer, OfInvitation, OfMember, Office};
use crate::members::{self, Promise};

pub(super) async fn remove(globals: &Globals, named: OfMember) -> Result<(), Failure> {
    let office = Office::open(globals, &named.of).await?;
    let user_id = office.user_id(&named.user).await?;
    let actor = office.actor(globals, named.acting).await?;
    let (desk, of) = (office.desk(), office.organization());
    let remove = async |tx: &mut _| desk.remove(tx, of, &user_id, &actor).await;
    let removed = office.access.change(remove).await;
    let ended = removed.map_err(|error| office.refused(&error))?;
    globals.printer.data(&user_id);
    globals
        .printer
        .talk(format!("removed; {ended} staff assignments ended with it"));
    Ok(())
}

pub(super) async fn restore(globals: &Globals, named: OfMember) -> Result<(), Failure> {
    let office = Office::open(globals, &named.of).await?;
    let user_id = office.user_id(&named.user).await?;
    let actor = office.actor(globals, named.acting).await?;
    let (desk, of) = (office.desk(), office.organization());
    let restore = async |tx: &mut _| desk.restore(tx, of, &user_id, &actor).await;
    let restored = office.access.change(restore).await;
    restored.map_err(|error| office.refused(&error))?;
    globals.printer.data(&user_id);
    globals
        .printer
        .talk("restored; staff assignments do not come back");
    Ok(())
}

pub(super) async fn set_role(
    globals: &Globals,
    named: OfMember,
    role: &str,
) -> Result<(), Failure> {
    let office = Office::open(globals, &named.of).await?;
    let user_id = office.user_id(&named.user).await?;
    let actor = office.actor(globals, named.acting).await?;
    let (desk, of) = (office.desk(), office.organization());
    let set = async |tx: &mut _| desk.set_role(tx, of, (&user_id, role), &actor).await;
    let is_changed = office.access.change(set).await;
    let is_changed = is_changed.map_err(|error| office.refused(&error))?;
    globals.printer.data(&user_id);
    if !is_changed {
        globals.printer.talk("it was so already");
    }
    Ok(())
}

pub(super) async fn revoke(globals: &Globals, named: OfInvitation) -> Result<(), Failure> {
    let office = Office::open(globals, &named.of).await?;
    let id = office.invitation_id(&named.invitation).await?;
    let actor = office.actor(globals, named.acting).await?;
    let (desk, of) = (office.desk(), office.organization());
    let revoke = async |tx: &mut _| desk.revoke(tx, of, id, &actor).await;
    let revoked = office.access.change(revoke).await;
    revoked.map_err(|error| office.refused(&error))?;
    globals.printer.data(id.to_string());
    Ok(())
}

pub(super) async fn resend(globals: &Globals, named: OfInvitation) -> Result<(), Failure> {
    let office = Office::open(globals, &named.of).await?;
    let id = office.invitation_id(&named.invitation).await?;
    let actor = office.actor(globals, named.acting).await?;
    let (desk, of) = (office.desk(), office.organization());
    let resend = async |tx: &mut _| desk.resend(tx, of, id, &actor).await;
    let asked = office.access.change(resend).await;
    asked.map_err(|error| office.refused(&error))?;
    globals.printer.data(id.to_string());
    globals
        .printer
        .talk("the provider is being asked to send it again");
    Ok(())
}

pub(super) async fn invite(
    globals: &Globals,
    of: &Of,
    promise: Promise<'_>,
    acting: Option<String>,
) -> Result<(), Failure> {
    let office = Office::open(globals, of).await?;
    let actor = office.actor(globals, acting).await?;
    let (desk, of) = (office.desk(), office.organization());
    let invite = async |tx: &mut _| desk.invite(tx, of, promise, &actor).await;
    let invited = office.access.change(invite).await;
    let id = invited.map_err(|error| office.refused(&error))?;
    globals.printer.data(id.to_string());
    globals.printer.talk(format!(
        "it is being sent; see: tenantry members invitations {}",
        office.tenant.id
    ));
    Ok(())
}

pub(super) async fn assign(
    globals: &Globals,
    named: OfCustomer,
    is_assigned: bool,
) -> Result<(), Failure> {
    let OfCustomer { member, customer } = named;
    let office = Office::open(globals, &member.of).await?;
    let user_id = office.user_id(&member.user).await?;
    let actor = office.actor(globals, member.acting).await?;
    let of = office.organization();
    let changed = office
        .access
        .change(async |tx| {
            if is_assigned {
                members::assign(tx, of, &user_id, &customer, &actor).await
            } else {
                members::unassign(tx, of, &user_id, &customer, &actor).await
            }
        })
        .await;
    let changed = changed.map_err(|error| office.refused(&error))?;
    globals.printer.data(&user_id);
    if !changed {
        globals.printer.talk("it was so already");
    }
    Ok(())
}

pub(super) async fn sync(globals: &Globals, of: &Of) -> Result<(), Failure> {
    let office = Office::open(globals, of).await?;
    let (desk, of) = (office.desk(), office.organization());
    let sync = async |tx: &mut _| desk.sync(tx, of).await;
    let roused = office.access.change(sync).await;
    let told = roused.map_err(|error| office.refused(&error))?;
    globals.printer.data(office.tenant.id.to_string());
    globals.printer.talk(format!(
        "the tenant's database is being told; so is the provider, of {told} memberships"
    ));
    Ok(())
}
