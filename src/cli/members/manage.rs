//! What may be done about an organization's members.

use super::{Failure, Globals, Of, OfCustomer, OfMember, Office};
use crate::members::{self, Promise};

pub(super) async fn remove(globals: &Globals, named: OfMember) -> Result<(), Failure> {
    let office = Office::open(globals, &named.of).await?;
    let user_id = office.user_id(&named.user).await?;
    let actor = office.actor(globals, named.acting).await?;
    let removed = office
        .desk()
        .remove(office.organization(), &user_id, &actor)
        .await;
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
    let restored = office
        .desk()
        .restore(office.organization(), &user_id, &actor)
        .await;
    restored.map_err(|error| office.refused(&error))?;
    globals.printer.data(&user_id);
    globals
        .printer
        .talk("restored; staff assignments do not come back");
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
    let invited = office
        .desk()
        .invite(office.organization(), promise, &actor)
        .await;
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
        .db
        .transaction(async |tx| {
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
    let roused = office.desk().sync(office.organization()).await;
    let told = roused.map_err(|error| office.refused(&error))?;
    globals.printer.data(office.tenant.id.to_string());
    globals.printer.talk(format!(
        "the tenant's database is being told; so is the provider, of {told} removals and restorations"
    ));
    Ok(())
}
