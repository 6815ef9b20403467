//! `tenantry fleet exec`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use serde_json::{Value as Json, json};

use super::{
    command,
    select::{self, InStates, Select},
};
use crate::{
    cli::{
        Exit, Failure, Globals,
        access::Access,
        printer::{Printer, count},
        progress::Progress,
    },
    fleet::{
        Reach, Unreached,
        exec::{self, Statements, Summary},
    },
    tenant_db::statements::{self, Given, Value},
    tenants::Tenant,
};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(in crate::cli) struct Options {
    /// The statements
    #[arg(long, group = "what", value_name = "TEXT")]
    sql: Option<String>,
    /// A file with the statements
    #[arg(long, group = "what", value_name = "FILE")]
    file: Option<PathBuf>,
    /// A command and its arguments, started for each tenant with the URL of its role in `DATABASE_URL`; must be the last option
    #[arg(long, group = "what", value_name = "ARGV", num_args = 1.., allow_hyphen_values = true, requires = "write")]
    command: Vec<String>,
    /// Allow changes: SQL runs with the owner's rights, a command with the tenant role's
    #[arg(long)]
    write: bool,
    /// Do not ask for confirmation
    #[arg(long, requires = "write")]
    yes: bool,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    in_states: InStates,
    /// Number of databases to work on at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Time limit per statement or command, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Maximum number of rows per tenant
    #[arg(long, default_value_t = 1000, value_name = "N")]
    rows: usize,
    /// Print JSON, one line per tenant
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    globals: &Globals,
    access: &Access,
    options: Options,
) -> Result<(), Failure> {
    let tenants = select::find(access, &options.select, &options.in_states).await?;
    if options.write && !options.yes && !tenants.is_empty() {
        confirm(globals.printer, tenants.len())?;
    }
    let clusters = access.clusters()?;
    let timeout = Duration::from_secs(options.timeout);
    let reach = Reach::new(&access.db, &clusters, options.concurrency.into(), timeout);
    if !options.command.is_empty() {
        let how = (options.command.as_slice(), options.json);
        return command::run(globals, access, &reach, (&tenants, how)).await;
    }
    let sql = read(&options)?;
    let actor = globals.operator();
    let statements = Statements {
        sql: &sql,
        access: if options.write {
            statements::Access::Write
        } else {
            statements::Access::Read
        },
        most_rows: options.rows,
        actor: &actor,
    };
    let progress = Progress::of_tenants(globals.printer, tenants.len());
    let mut tables = Tables::of(statements.access);
    let summary = exec::run(&reach, &tenants, statements, |tenant, given| {
        progress.beside(|| tell(globals.printer, tenant, given, options.json));
        if let (Ok(given), false) = (given, options.json) {
            tables.take(tenant, given);
        }
        progress.step();
    });
    let summary = summary.await;
    drop(progress);
    tables.print(globals.printer);
    judge(globals.printer, tenants.len(), &summary)
}

fn read(options: &Options) -> Result<String, Failure> {
    let Some(file) = &options.file else {
        return Ok(options.sql.clone().unwrap_or_default());
    };
    std::fs::read_to_string(file).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("{} cannot be read: {error}", file.display()),
            "give a file of SQL that this user can read",
        )
    })
}

/// Asks at the terminal; where there is none, `--yes` has to be given.
fn confirm(printer: Printer, tenants: usize) -> Result<(), Failure> {
    let refuse = |hint: &str| Failure::new(Exit::Usage, "nothing was changed", hint);
    if !std::io::stdin().is_terminal() {
        return Err(refuse(
            "no terminal to confirm on: pass --yes together with --write",
        ));
    }
    let databases = count(tenants, "database");
    printer.talk(format!("this may change {databases}; go on? [y/N]"));
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(refuse("answer y to go on")),
    }
}

/// What is told at once: failures, and with `--json` everything.
fn tell(printer: Printer, tenant: &Tenant, given: &Result<Given, Unreached>, as_json: bool) {
    match given {
        Ok(given) if as_json => printer.data(line(tenant, given).to_string()),
        Ok(given) if given.is_cut => {
            let told = format!("{}: output truncated at --rows", tenant.url);
            printer.talk(told);
        }
        Ok(_) => {}
        Err(failed) if as_json => {
            let failure =
                json!({ "tenant": failed.tenant, "code": failed.code, "error": failed.error });
            printer.data(failure.to_string());
        }
        Err(failed) => printer.talk(format!(
            "{}: {} [{}]",
            tenant.url, failed.error, failed.code
        )),
    }
}

/// The rows of all tenants, a table for each kind of columns.
struct Tables {
    access: statements::Access,
    of_columns: BTreeMap<Vec<String>, Vec<Vec<String>>>,
    /// How many only looked and got no rows.
    without_rows: usize,
}

impl Tables {
    const fn of(access: statements::Access) -> Self {
        Self {
            access,
            of_columns: BTreeMap::new(),
            without_rows: 0,
        }
    }

    fn take(&mut self, tenant: &Tenant, given: &Given) {
        let show = |value: &Value| match value {
            Value::Null => "null".to_owned(),
            Value::Json(text) | Value::Text(text) => text.clone(),
        };
        let has_rows = !given.columns.is_empty() || !given.rows.is_empty();
        let (columns, rows) = match self.access {
            _ if has_rows => (given.columns.clone(), given.rows.clone()),
            statements::Access::Read => {
                self.without_rows += 1;
                return;
            }
            statements::Access::Write => {
                let changed = vec![Value::Json(given.affected.to_string())];
                (vec!["rows changed".to_owned()], vec![changed])
            }
        };
        let of_columns = self.of_columns.entry(columns).or_default();
        of_columns.extend(rows.iter().map(|row| {
            let values = row.iter().map(show);
            std::iter::once(tenant.url.clone()).chain(values).collect()
        }));
    }

    fn print(self, printer: Printer) {
        for (columns, rows) in self.of_columns {
            let header: Vec<&str> = std::iter::once("TENANT")
                .chain(columns.iter().map(String::as_str))
                .collect();
            printer.table(&header, rows);
        }
        if self.without_rows > 0 {
            let tenants = count(self.without_rows, "tenant");
            printer.talk(format!("{tenants} returned no rows"));
        }
    }
}

/// Every tenant a line: who it is, and its rows by their columns.
fn line(tenant: &Tenant, given: &Given) -> Json {
    let value = |value: &Value| match value {
        Value::Null => Json::Null,
        Value::Json(text) => {
            serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.clone()))
        }
        Value::Text(text) => Json::String(text.clone()),
    };
    let names = field_names(&given.columns);
    let row = |row: &Vec<Value>| -> Json {
        let fields = names.iter().cloned().zip(row.iter().map(value));
        Json::Object(fields.collect())
    };
    json!({
        "tenant": crate::fleet::Named::from(tenant),
        "rows": given.rows.iter().map(row).collect::<Vec<_>>(),
        "affected": given.affected,
        "is_cut": given.is_cut,
    })
}

/// The columns as fields of one object; where several have the same name, the later ones get a number.
fn field_names(columns: &[String]) -> Vec<String> {
    let mut taken: BTreeSet<String> = columns.iter().cloned().collect();
    let mut met = BTreeSet::new();
    let mut fields = Vec::new();
    for column in columns {
        let mut names = (2_u32..).map(|number| format!("{column}_{number}"));
        let field = if met.insert(column) {
            Some(column.clone())
        } else {
            names.find(|name| taken.insert(name.clone()))
        };
        fields.extend(field);
    }
    fields
}

pub(super) fn judge(printer: Printer, all: usize, summary: &Summary) -> Result<(), Failure> {
    let (failed, all) = (summary.failed.len(), count(all, "tenant"));
    printer.talk(format!(
        "succeeded for {} of {all}, failed for {failed}",
        summary.done
    ));
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::failed(
        format!("it failed for {failed} of {all}"),
        "fix what the lines above report, then repeat for those tenants with --tenant",
    ))
}
