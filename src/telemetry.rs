//! Logs: one readable line with dotted fields, as text or JSON, on standard error.
//!
//! Guarantees: never a body, a token or a password; panics are logged like errors,
//! with the id of the request in which they happen.

use std::{future::Future, io::IsTerminal};

use tracing_subscriber::{EnvFilter, fmt, prelude::*};
use uuid::Uuid;

use crate::config::{Log, LogFormat};

tokio::task_local! {
    static REQUEST: Uuid;
}

/// Runs what answers a request: if it panics, the log says in which request.
pub async fn in_request<F: Future>(id: Uuid, answering: F) -> F::Output {
    REQUEST.scope(id, answering).await
}

/// Starts logging; the first call of a process wins.
pub fn init(log: &Log) {
    // the driver repeats the server's notices, and every connection that a later attempt ended
    let filter = EnvFilter::try_new(format!("sqlx=error,{}", log.level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter);
    let _ = match log.format {
        LogFormat::Text => registry
            .with(
                fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_ansi(colour)
                    .with_target(false),
            )
            .try_init(),
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr)
                    .with_span_list(false),
            )
            .try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("(no message)");
        let request_id = REQUEST.try_with(ToString::to_string).ok();
        tracing::error!(
            request.id = request_id,
            panic.place = place,
            panic.message = message,
            "a task panicked"
        );
    }));
}
