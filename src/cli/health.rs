//! `tenantry health`: the check of a running instance, for containers without curl.

use std::time::Duration;

use super::{Failure, Globals, access, sample};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Ask whether it is ready for work, not only alive
    #[arg(long)]
    ready: bool,
    /// Base URL of the instance [default: the configured address]
    #[arg(long)]
    url: Option<url::Url>,
}

pub(super) async fn run(globals: &Globals, options: &Options) -> Result<(), Failure> {
    let base = match &options.url {
        Some(url) => url.clone(),
        None => sample::base_url(&access::config(globals)?)?,
    };
    let path = if options.ready { "/readyz" } else { "/livez" };
    let answer = tokio::time::timeout(Duration::from_secs(5), sample::get(&base, path)).await;
    match answer {
        Ok(Ok((200, body))) => {
            globals.printer.data(body.trim());
            Ok(())
        }
        Ok(Ok((status, body))) => Err(Failure::failed(
            format!("{path} answered {status}: {}", body.trim()),
            "the log of the instance says why",
        )),
        Ok(Err(error)) => Err(Failure::failed(
            format!("{base} does not answer: {error}"),
            "is it running? give its address with --url",
        )),
        Err(_) => Err(Failure::failed(
            format!("{base} does not answer within 5 s"),
            "the log of the instance says why",
        )),
    }
}
