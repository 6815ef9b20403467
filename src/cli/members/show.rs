//! What there is to see of an organization's members.

use serde_json::{Value, json};

use super::{Failure, Globals, Of, Office};
use crate::members::{self, Invited, Status};

/// Members, and after them those who have an invitation and no membership yet.
pub(super) async fn list(
    globals: &Globals,
    of: &Of,
    status: Option<Status>,
    json: bool,
) -> Result<(), Failure> {
    let office = Office::open(globals, of).await?;
    let of = office.organization();
    let mut found = office.members().await?;
    found.retain(|member| status.is_none_or(|status| member.status == status));
    let list = async |connection: &mut _| members::list_invited(connection, of).await;
    let mut invited = office.access.db.run(list).await?;
    invited.retain(|_| status.is_none_or(|status| status == Status::Invited));
    if json {
        let members = found.iter().map(|member| json!(member));
        let invited = invited.iter().map(as_member);
        return globals
            .printer
            .json(&members.chain(invited).collect::<Vec<_>>());
    }
    if found.is_empty() && invited.is_empty() {
        globals.printer.talk("no members");
        return Ok(());
    }
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "—".to_owned());
    let members = found.iter().map(|member| {
        vec![
            member.status.name().to_owned(),
            or_none(&member.role),
            member.display_name.chars().take(40).collect(),
            or_none(&member.email),
            or_none(&member.customer_id),
            member.user_id.clone(),
        ]
    });
    let invited = invited.iter().map(|invited| {
        vec![
            Status::Invited.name().to_owned(),
            or_none(&invited.role),
            or_none(&invited.email),
            or_none(&invited.email),
            or_none(&invited.customer_id),
            "—".to_owned(),
        ]
    });
    let header = ["STATUS", "ROLE", "NAME", "EMAIL", "CUSTOMER", "USER"];
    globals.printer.table(&header, members.chain(invited));
    Ok(())
}

/// Somebody who is invited, in the shape of a member: without a user yet.
fn as_member(invited: &Invited) -> Value {
    json!({
        "status": Status::Invited,
        "user_id": null,
        "membership_id": null,
        "invitation": invited.id,
        "role": invited.role,
        "email": invited.email,
        "display_name": invited.email,
        "customer_id": invited.customer_id,
    })
}

pub(super) async fn counts(globals: &Globals, of: &Of, json: bool) -> Result<(), Failure> {
    let office = Office::open(globals, of).await?;
    let of = office.organization();
    let count = async |connection: &mut _| members::count(connection, of).await;
    let counts = office.access.db.run(count).await?;
    if json {
        return globals.printer.json(&counts);
    }
    let row = |count: &members::Count| {
        let role = count.role.clone().unwrap_or_else(|| "—".to_owned());
        vec![
            count.status.name().to_owned(),
            role,
            count.members.to_string(),
        ]
    };
    let header = ["STATUS", "ROLE", "MEMBERS"];
    globals.printer.table(&header, counts.iter().map(row));
    Ok(())
}

pub(super) async fn invitations(globals: &Globals, of: &Of, json: bool) -> Result<(), Failure> {
    let office = Office::open(globals, of).await?;
    let of = office.organization();
    let list = async |connection: &mut _| members::list_invitations(connection, of).await;
    let found = office.access.db.run(list).await?;
    if json {
        return globals.printer.json(&found);
    }
    let row = |invitation: &members::Invitation| {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "—".to_owned());
        vec![
            invitation.state.clone(),
            or_none(&invitation.role),
            or_none(&invitation.email),
            or_none(&invitation.customer_id),
            or_none(&invitation.invitation_id),
            invitation.failure.clone().unwrap_or_default(),
        ]
    };
    let header = [
        "STATE",
        "ROLE",
        "EMAIL",
        "CUSTOMER",
        "INVITATION",
        "PROBLEM",
    ];
    globals.printer.table(&header, found.iter().map(row));
    Ok(())
}

pub(super) async fn assignments(globals: &Globals, of: &Of, json: bool) -> Result<(), Failure> {
    let office = Office::open(globals, of).await?;
    let of = office.organization();
    let list = async |connection: &mut _| members::list_assignments(connection, of).await;
    let found = office.access.db.run(list).await?;
    if json {
        return globals.printer.json(&found);
    }
    let row = |assignment: &members::Assignment| {
        vec![
            assignment.user_id.clone(),
            assignment.customer_id.clone(),
            assignment.assigned_by.clone(),
            assignment.assigned_at.to_rfc3339(),
        ]
    };
    let header = ["USER", "CUSTOMER", "BY", "SINCE"];
    globals.printer.table(&header, found.iter().map(row));
    Ok(())
}
