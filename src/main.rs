//! The program: parse the arguments, run the command, say how it ended.

use std::process::ExitCode;

use tenantry::{cli, config::Environment};

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(cli::run(std::env::args_os(), Environment::of_process()));
            // a blocking task must not keep a finished program alive
            runtime.shutdown_background();
            code
        }
        Err(_) => ExitCode::from(2),
    }
}
