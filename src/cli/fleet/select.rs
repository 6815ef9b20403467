//! Which tenants a command is about: `--select`, `--tenant`, `--state`.

use crate::{
    cli::{Failure, access::Access, tenants},
    tenants::{Label, Selection, Tenant, TenantState, list_selected},
};

#[derive(Debug, clap::Args)]
pub(super) struct Select {
    /// Only tenants with this label; repeat to require several labels
    #[arg(long = "select", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
    /// Only this tenant: id, organization id, host or database; may be repeated
    #[arg(long = "tenant", value_name = "TENANT")]
    tenants: Vec<String>,
}

/// In which states the tenants may be.
#[derive(Debug, clap::Args)]
pub(super) struct InStates {
    /// Only tenants in this state [default: ready and suspended]
    #[arg(long = "state", value_parser = parse_state)]
    states: Vec<TenantState>,
}

/// Archived ones are kept for the record; the others have no complete database.
fn parse_state(text: &str) -> Result<TenantState, String> {
    match text {
        "ready" => Ok(TenantState::Ready),
        "suspended" => Ok(TenantState::Suspended),
        "archived" => Ok(TenantState::Archived),
        _ => Err("ready, suspended or archived: others have no complete database".to_owned()),
    }
}

impl Select {
    /// The selection; fails when a tenant that is named is not there.
    pub(super) async fn read(&self, access: &Access) -> Result<Selection, Failure> {
        let mut selection = Selection::default();
        for label in &self.labels {
            let (key, value) = (label.key.clone(), label.value.clone());
            if let Some(other) = selection.labels.insert(key, value)
                && other != label.value
            {
                return Err(Failure::new(
                    crate::cli::Exit::Usage,
                    format!(
                        "no tenant has {0}={other} and {0}={1}",
                        label.key, label.value
                    ),
                    "a label has one value: run the command once for each",
                ));
            }
        }
        for text in &self.tenants {
            selection
                .tenants
                .push(tenants::find(access, text).await?.id);
        }
        Ok(selection)
    }
}

/// The tenants that are meant.
pub(super) async fn find(
    access: &Access,
    select: &Select,
    in_states: &InStates,
) -> Result<Vec<Tenant>, Failure> {
    let selection = select.read(access).await?;
    let states = match in_states.states.as_slice() {
        [] => &[TenantState::Ready, TenantState::Suspended],
        states => states,
    };
    let list = async |connection: &mut _| list_selected(connection, &selection, states).await;
    Ok(access.db.run(list).await?)
}
