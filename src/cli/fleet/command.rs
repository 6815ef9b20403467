//! `tenantry fleet exec --command`.

use serde_json::json;

use super::exec::judge;
use crate::{
    cli::{Exit, Failure, Globals, access::Access, progress::Progress},
    fleet::{
        Named, Reach,
        command::{self, Command},
    },
    tenants::Tenant,
};

/// The variables of our own environment that a command gets.
const INHERITED: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

pub(super) async fn run(
    globals: &Globals,
    access: &Access,
    reach: &Reach<'_>,
    (tenants, (argv, as_json)): (&[Tenant], (&[String], bool)),
) -> Result<(), Failure> {
    let (keyring, actor) = (access.keyring()?, globals.operator());
    let directory = std::path::absolute(".").map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("the working directory cannot be used: {error}"),
            "run it in a directory that this user can read",
        )
    })?;
    let environment: Vec<(String, String)> = INHERITED
        .iter()
        .filter_map(|name| {
            Some((
                (*name).to_owned(),
                globals.environment.get(name)?.to_owned(),
            ))
        })
        .collect();
    let command = Command {
        argv,
        directory: &directory,
        environment: &environment,
        keyring: &keyring,
        actor: &actor,
    };
    let printer = globals.printer;
    let progress = Progress::of_tenants(printer, tenants.len());
    let summary = command::run(reach, tenants, command, |tenant, said| {
        progress.beside(|| match said {
            Ok(output) if as_json => {
                let line = json!({ "tenant": Named::from(tenant), "output": output });
                printer.data(line.to_string());
            }
            Ok(output) => {
                for line in output.lines() {
                    printer.data(format!("{}: {line}", tenant.url));
                }
            }
            Err(failed) if as_json => {
                let line =
                    json!({ "tenant": failed.tenant, "code": failed.code, "error": failed.error });
                printer.data(line.to_string());
            }
            Err(failed) => {
                printer.talk(format!(
                    "{}: {} [{}]",
                    tenant.url, failed.error, failed.code
                ));
            }
        });
        progress.step();
    });
    let summary = summary.await;
    drop(progress);
    judge(printer, tenants.len(), &summary)
}
