//! `tenantry fleet migrate|status|runs|targets|pause|resume|retry|abort|first`: one migration over all tenants.
//!
//! Guarantees: the run is rows, and replicas do the work: whoever watches may leave at any time, and comes
//! back with `fleet status --wait`.

use super::{select::Select, watch};
use crate::{
    cli::{Failure, Globals, access::Access, pool, printer::count, tenants},
    fleet::{self, NewRun, Portion, Run, RunId, RunState, Target, TargetFilter, TargetState},
    page::Asked,
    tenants::Selection,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Migrate {
    #[command(flatten)]
    select: Select,
    /// Stop after this migration, such as `0008_attachments` or 8 [default: the newest]
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// How far each wave goes, such as 1,10%,100%: a count of tenants or a share of them
    #[arg(long = "wave", value_name = "PORTIONS", value_delimiter = ',')]
    waves: Vec<Portion>,
    /// Maximum number of databases migrated at once, over all replicas
    #[arg(long, default_value_t = NewRun::DEFAULT_CONCURRENCY, value_parser = clap::value_parser!(u32).range(1..=256))]
    concurrency: u32,
    /// Stop the run after more failures than this: a count, or a share such as 5% [default: no limit]
    #[arg(long, value_name = "PORTION")]
    max_failures: Option<Portion>,
    /// Migrate throw-away clones of the templates that tenants were made from, and no tenant
    #[arg(long)]
    dry_run: bool,
    /// Clone the database of this tenant as well, with its data: id, organization id, host or database; may be repeated
    #[arg(long = "clone", value_name = "TENANT", requires = "dry_run")]
    clones: Vec<String>,
    /// Start the run and return at once
    #[arg(long)]
    no_wait: bool,
    /// As JSON, when it is over
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct One {
    /// The run [default: the one that was begun last]
    run: Option<uuid::Uuid>,
}

/// What is done to a run.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Act {
    #[command(flatten)]
    one: One,
    /// Print the changed run as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Status {
    #[command(flatten)]
    one: One,
    /// Watch it until it is over
    #[arg(long)]
    wait: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Listed {
    /// Maximum number of rows
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Targets {
    #[command(flatten)]
    one: One,
    /// Only targets in this state
    #[arg(long, value_parser = parse_state)]
    state: Option<TargetState>,
    /// Maximum number of rows
    #[arg(long, default_value_t = 200)]
    limit: u32,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Retry {
    #[command(flatten)]
    act: Act,
    /// Those that failed; there is nothing else to try again
    #[arg(long, required = true)]
    failed: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct First {
    /// The tenant: id, organization id, host or database
    tenant: String,
    #[command(flatten)]
    act: Act,
}

/// How a run is changed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Pause,
    Resume,
    Retry,
    Abort,
}

fn parse_state(text: &str) -> Result<TargetState, String> {
    serde_json::from_value(serde_json::json!(text))
        .map_err(|_| "pending, running, done, skipped or failed".to_owned())
}

pub(super) async fn migrate(
    globals: &Globals,
    access: &Access,
    options: Migrate,
) -> Result<(), Failure> {
    let mut clones = Vec::new();
    for text in &options.clones {
        clones.push(tenants::find(access, text).await?.id);
    }
    let new = NewRun {
        blueprint_hash: known_hash(globals, access, options.to.as_deref()),
        wanted_version: options.to,
        selection: options.select.read(access).await?,
        waves: options.waves,
        concurrency: options.concurrency,
        max_failures: options.max_failures,
        is_dry: options.dry_run,
        clones,
    };
    let run = begin(globals, access, &new).await?;
    if options.no_wait {
        if options.json {
            return globals.printer.json(&run);
        }
        globals.printer.data(run.id.to_string());
        return Ok(());
    }
    let run = watch::watch(globals, access, run.id).await?;
    show(globals, &run, options.json)?;
    verdict(&run)
}

/// A dry run from its beginning to its end; fails where it does.
pub(super) async fn measure(
    globals: &Globals,
    access: &Access,
    (to, selection): (Option<&str>, Selection),
) -> Result<(), Failure> {
    let new = NewRun {
        blueprint_hash: known_hash(globals, access, to),
        wanted_version: to.map(str::to_owned),
        selection,
        concurrency: 1,
        is_dry: true,
        ..NewRun::default()
    };
    let run = begin(globals, access, &new).await?;
    verdict(&watch::watch(globals, access, run.id).await?)
}

async fn begin(globals: &Globals, access: &Access, new: &NewRun) -> Result<Run, Failure> {
    let actor = globals.operator();
    let create = async |tx: &mut _| fleet::create(tx, new, &actor).await;
    let run = access.change(create).await?;
    globals
        .printer
        .talk(format!("fleet run {} has begun", run.id));
    Ok(run)
}

fn known_hash(globals: &Globals, access: &Access, to: Option<&str>) -> Option<String> {
    fleet::known_hash(&pool::blueprint_source(globals, access), to)
}

pub(super) async fn status(
    globals: &Globals,
    access: &Access,
    options: Status,
) -> Result<(), Failure> {
    let mut run = options.one.find(access, Newest::OfAll).await?;
    if options.wait {
        run = watch::watch(globals, access, run.id).await?;
    }
    show(globals, &run, options.json)?;
    if options.wait { verdict(&run) } else { Ok(()) }
}

pub(super) async fn list(
    globals: &Globals,
    access: &Access,
    options: &Listed,
) -> Result<(), Failure> {
    let asked = Asked::first(options.limit);
    let list = async |connection: &mut _| fleet::list_page(connection, None, &asked).await;
    let runs = access.db.run(list).await?.data;
    if options.json {
        return globals.printer.json(&runs);
    }
    let row = |run: Run| {
        vec![
            run.id.to_string(),
            state(&run),
            run.version.or(run.wanted_version).unwrap_or_default(),
            format!("{}/{}", run.counts.settled(), run.counts.total()),
            run.counts.failed.to_string(),
            run.created_by,
            run.created_at.format("%Y-%m-%d %H:%M:%S").to_string(),
        ]
    };
    let header = [
        "ID",
        "STATE",
        "VERSION",
        "TENANTS",
        "FAILED",
        "BY",
        "BEGUN (UTC)",
    ];
    globals.printer.table(&header, runs.into_iter().map(row));
    Ok(())
}

pub(super) async fn targets(
    globals: &Globals,
    access: &Access,
    options: &Targets,
) -> Result<(), Failure> {
    let run = options.one.find(access, Newest::NotDry).await?;
    let filter = TargetFilter {
        state: options.state,
    };
    let asked = Asked::first(options.limit);
    let list =
        async |connection: &mut _| fleet::list_targets(connection, run.id, &filter, &asked).await;
    let page = access.db.run(list).await?;
    let is_all = page.next_cursor.is_none();
    if options.json {
        return globals.printer.json(&page.data);
    }
    let row = |target: Target| {
        vec![
            target.tenant.to_string(),
            target.state.name().to_owned(),
            target.wave.to_string(),
            target.attempt.to_string(),
            target.from_version,
            target.to_version.unwrap_or_default(),
            target
                .duration_ms
                .map(|took| format!("{took:.0} ms"))
                .unwrap_or_default(),
            target.error_code.unwrap_or_default(),
            target.error.unwrap_or_default(),
        ]
    };
    let header = [
        "TENANT", "STATE", "WAVE", "ATTEMPT", "FROM", "TO", "TOOK", "PROBLEM", "CAUSE",
    ];
    globals
        .printer
        .table(&header, page.data.into_iter().map(row));
    if !is_all {
        globals.printer.talk("more rows exist: raise --limit");
    }
    Ok(())
}

pub(super) async fn change(
    globals: &Globals,
    access: &Access,
    act: &Act,
    change: Change,
) -> Result<(), Failure> {
    let (run, actor) = (
        act.one.find(access, Newest::NotDry).await?,
        globals.operator(),
    );
    let (id, to) = (run.id, run.wanted_version.as_deref());
    let hash = match change {
        Change::Resume => known_hash(globals, access, to),
        Change::Pause | Change::Retry | Change::Abort => None,
    };
    let change = async |tx: &mut _| match change {
        Change::Pause => fleet::pause(tx, id, &actor).await,
        Change::Resume => fleet::resume(tx, id, hash.as_deref(), &actor).await,
        Change::Retry => fleet::retry(tx, id, &actor).await,
        Change::Abort => fleet::abort(tx, id, &actor).await,
    };
    let run = access.change(change).await?;
    if act.json {
        globals.printer.json(&run)?;
    } else {
        globals.printer.data(run.id.to_string());
    }
    let more = match run.counts.running {
        0 => String::new(),
        running => format!(
            "; migrations under way finish ({})",
            count(running, "database")
        ),
    };
    globals.printer.talk(format!(
        "fleet run {} is {} now{more}",
        run.id,
        run.state.name()
    ));
    Ok(())
}

pub(super) async fn retry(
    globals: &Globals,
    access: &Access,
    options: &Retry,
) -> Result<(), Failure> {
    change(globals, access, &options.act, Change::Retry).await
}

pub(super) async fn first(
    globals: &Globals,
    access: &Access,
    options: &First,
) -> Result<(), Failure> {
    let id = options.act.one.find(access, Newest::NotDry).await?.id;
    let tenant = tenants::find(access, &options.tenant).await?.id;
    let actor = globals.operator();
    let put = async |tx: &mut _| {
        fleet::put_first(&mut *tx, id, tenant, &actor).await?;
        let run = fleet::find(tx, id).await?;
        run.ok_or(fleet::Error::Unknown(id))
    };
    let run = access.change(put).await?;
    if options.act.json {
        globals.printer.json(&run)?;
    } else {
        globals.printer.data(tenant.to_string());
    }
    globals
        .printer
        .talk(format!("tenant {tenant} is next in fleet run {id}"));
    Ok(())
}

/// Which run is meant where there is no id and none goes on.
#[derive(Debug, Clone, Copy)]
enum Newest {
    OfAll,
    /// Who diagnosed a failure by a dry run means the run that failed; a dry one where there is no other.
    NotDry,
}

impl One {
    async fn find(&self, access: &Access, newest: Newest) -> Result<Run, Failure> {
        let id = self.run.map(RunId);
        let find = async |connection: &mut _| {
            if let Some(id) = id {
                return fleet::find(connection, id).await;
            }
            // one that was only tried may be newer than the one that goes on
            if let Some(run) = fleet::find_unfinished(&mut *connection).await? {
                return Ok(Some(run));
            }
            if let Newest::NotDry = newest
                && let Some(run) = fleet::find_newest_real(&mut *connection).await?
            {
                return Ok(Some(run));
            }
            fleet::find_newest(connection).await
        };
        let found = access.db.run(find).await?;
        match (found, id) {
            (Some(run), _) => Ok(run),
            (None, Some(id)) => Err(fleet::Error::Unknown(id).into()),
            (None, None) => Err(Failure::failed(
                "there is no fleet run yet",
                "begin one: tenantry fleet migrate",
            )),
        }
    }
}

/// The state as it is shown.
fn state(run: &Run) -> String {
    let state = run.state.name();
    if run.is_dry {
        format!("{state} (dry run)")
    } else {
        state.to_owned()
    }
}

fn show(globals: &Globals, run: &Run, json: bool) -> Result<(), Failure> {
    if json {
        return globals.printer.json(run);
    }
    let counts = run.counts;
    let rows = [
        ("run", run.id.to_string()),
        ("state", state(run)),
        (
            "version",
            run.version
                .clone()
                .or_else(|| run.wanted_version.clone())
                .unwrap_or_else(|| "—".to_owned()),
        ),
        ("wave", run.current_wave.to_string()),
        (
            "tenants",
            format!(
                "{} done, {} failed, {} skipped, {} running, {} pending",
                counts.done, counts.failed, counts.skipped, counts.running, counts.pending
            ),
        ),
        (
            "begun",
            format!("{} by {}", run.created_at.to_rfc3339(), run.created_by),
        ),
        (
            "ended",
            run.finished_at
                .map_or_else(|| "—".to_owned(), |at| at.to_rfc3339()),
        ),
    ];
    for (label, value) in rows {
        globals.printer.data(format!("{label:<14}{value}"));
    }
    for rehearsal in &run.rehearsals {
        let ended = match &rehearsal.failure {
            Some(failure) => format!("{} [{}]", failure.cause, failure.code),
            None => format!(
                "{} applied in {:.0} ms",
                rehearsal.applied, rehearsal.duration_ms
            ),
        };
        let of = match &rehearsal.tenant {
            Some(tenant) => format!("tenant {tenant}"),
            None => count(rehearsal.tenants, "tenant"),
        };
        globals.printer.data(format!(
            "{:<14}{} on {} ({of}): {ended}",
            "clone", rehearsal.from_version, rehearsal.cluster
        ));
    }
    if let Some(failure) = &run.failure {
        globals.printer.data(format!(
            "{:<14}{} [{}]",
            "problem", failure.cause, failure.code
        ));
        globals
            .printer
            .data(format!("{:<14}{}", "fix", failure.fix));
    }
    Ok(())
}

/// The exit code of whoever waited for the end.
fn verdict(run: &Run) -> Result<(), Failure> {
    let is = format!("fleet run {} is {}", run.id, run.state.name());
    match (run.state, &run.failure) {
        (RunState::Done, _) => Ok(()),
        // also where failures had stopped it before: nothing more comes of it
        (RunState::Aborted, _) => Err(Failure::failed(is, "begin another: tenantry fleet migrate")),
        (_, Some(failure)) => Err(Failure::failed(
            format!("{} [{}]", failure.cause, failure.code),
            failure.fix.clone(),
        )),
        (_, None) => Err(Failure::failed(
            is,
            format!("let it go on: tenantry fleet resume {}", run.id),
        )),
    }
}
