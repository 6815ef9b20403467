//! Connections: accepted, bounded, and ended in order.
//!
//! Guarantees: so many connections at once and no more; a connection may be idle, and the head of a
//! request may take, only so long; while the process drains, requests are still answered (and `/readyz` says so), until the
//! rest of its work is done; then open requests are finished and connections closed.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, http::Request, response::Response};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{AppState, origin::Peer, router};
use crate::shutdown::Tasks;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 2048;

/// Pause after an accept that failed, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `closing`, then finishes open requests.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    tasks: Tasks,
    closing: CancellationToken,
) {
    allow_open_files();
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let idle_timeout = state.idle_timeout;
    let app = router(state);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = closing.cancelled() => return,
        };
        let Some((stream, peer, slot)) = accepted else {
            continue;
        };
        let service = TowerToHyperService::new(with_peer(app.clone(), peer));
        let closing = closing.clone();
        tasks.spawn_connection(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(idle_timeout)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            // a client that breaks off is no error of ours
            tokio::select! {
                _ = connection.as_mut() => {}
                () = closing.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            drop(slot);
        });
    }
}

/// The router, told who is at the other end.
fn with_peer(
    app: Router,
    peer: SocketAddr,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone
{
    tower::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        app.clone().call(request)
    })
}

/// As many open files as the system lets us have: the usual 1024 are fewer than the connections.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // an answer is one small write: it must not wait for an acknowledgement
            let _ = stream.set_nodelay(true);
            Some((stream, peer, slot))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection was not accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
