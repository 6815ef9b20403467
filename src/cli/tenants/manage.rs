//! `tenantry tenants retry|suspend|resume|label`.

use std::collections::BTreeMap;

use super::{Access, Failure, Globals, Tenant};
use crate::{
    actions::{self, Relabel},
    cli::Exit,
    tenants::{self, Label, LabelInvalid, Labels},
};

pub(super) async fn retry(
    globals: &Globals,
    access: &Access,
    tenant: &Tenant,
) -> Result<(), Failure> {
    let (actor, max_attempts) = (globals.operator(), access.config.queue.max_attempts);
    let retry = async |tx: &mut _| actions::retry_tenant(tx, tenant, max_attempts, &actor).await;
    access.change(retry).await?;
    let told = format!(
        "tried again; follow it with: tenantry tenants watch {}",
        tenant.id
    );
    done(globals, tenant, &told);
    Ok(())
}

pub(super) async fn suspend(
    globals: &Globals,
    access: &Access,
    tenant: &Tenant,
) -> Result<(), Failure> {
    let actor = globals.operator();
    let suspend = async |tx: &mut _| actions::suspend_tenant(tx, tenant, &actor).await;
    access.change(suspend).await?;
    done(
        globals,
        tenant,
        "suspended: nothing is routed to it, its database stays",
    );
    Ok(())
}

pub(super) async fn resume(
    globals: &Globals,
    access: &Access,
    tenant: &Tenant,
) -> Result<(), Failure> {
    let (actor, max_attempts) = (globals.operator(), access.config.queue.max_attempts);
    let resume = async |tx: &mut _| actions::resume_tenant(tx, tenant, max_attempts, &actor).await;
    access.change(resume).await?;
    done(
        globals,
        tenant,
        "resumed: it is routed, and told what became of its members",
    );
    Ok(())
}

/// Reads `key=value` and `key-`.
pub(super) fn read_labels(texts: &[String]) -> Result<Relabel, Failure> {
    let mut changes = BTreeMap::new();
    for text in texts {
        let (key, value) = read_label(text).map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("{error} [{}]", error.code()),
                "give key=value, such as tier=free, or key- to take one away",
            )
        })?;
        if changes.insert(key, value).is_some() {
            return Err(Failure::new(
                Exit::Usage,
                format!("{text:?} names a label that was named before"),
                "give each label once",
            ));
        }
    }
    Ok(Relabel::Merge(changes))
}

fn read_label(text: &str) -> Result<(String, Option<String>), LabelInvalid> {
    match text.strip_suffix('-') {
        Some(key) if !text.contains('=') => {
            tenants::check_key(key)?;
            Ok((key.to_owned(), None))
        }
        _ => text
            .parse()
            .map(|label: Label| (label.key, Some(label.value))),
    }
}

pub(super) async fn label(
    globals: &Globals,
    access: &Access,
    tenant: &Tenant,
    changes: Relabel,
) -> Result<(), Failure> {
    let actor = globals.operator();
    let label = async |tx: &mut _| actions::label_tenant(tx, tenant, &changes, &actor).await;
    let labelled = access.change(label).await?;
    let told = format!("its labels: {}", show_labels(&labelled.labels));
    done(globals, tenant, &told);
    Ok(())
}

/// The labels as they are typed.
pub(super) fn show_labels(labels: &Labels) -> String {
    let shown: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    match shown.as_slice() {
        [] => "none".to_owned(),
        shown => shown.join(" "),
    }
}

fn done(globals: &Globals, tenant: &Tenant, told: &str) {
    globals.printer.data(tenant.id.to_string());
    globals.printer.talk(told);
}
