//! `tenantry bench`: the measures of `crate::bench`, as a table or JSON.

use std::path::PathBuf;

use super::{Exit, Failure, Globals};
use crate::{
    bench::{self, Error, Setup},
    causes::chain,
    private_postgres::{self, Settings},
};

pub(super) use crate::bench::Options;

pub(super) async fn run(globals: &Globals, options: Options) -> Result<(), Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(Exit::Unexpected, error, "start tenantry by its path"))?;
    let scratch = std::env::temp_dir();
    private_postgres::sweep(&scratch);
    let environment = &globals.environment;
    let postgres = Settings {
        bin: environment.get("TENANTRY_PG_BIN").map(PathBuf::from),
        search_path: environment.get("PATH").map(Into::into),
        ..Settings::ephemeral(&scratch, scratch.join("tenantry-cache"))
    };
    let report = bench::run(
        &options,
        &Setup {
            program,
            scratch,
            postgres,
        },
    )
    .await?;
    if options.json {
        return globals.printer.json(&report);
    }
    globals.printer.data(report.table());
    Ok(())
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::PrivatePostgres(error) => error.into(),
            Error::Db(error) => error.into(),
            Error::NothingToMeasure(_) => Self::new(
                Exit::Usage,
                chain(&error),
                "docs/operations.md names the measures; --only takes the beginning of a name",
            ),
            error => Self::failed(
                chain(&error),
                "run it on a quiet machine with nothing else at work; `tenantry doctor` checks the server",
            ),
        }
    }
}
