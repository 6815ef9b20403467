//! Connections: accepted, bounded, and ended in order.
//!
//! Guarantees: so many connections at once and no more, and so many from one address; a connection may be
//! idle, and the head of a request may take and be, only so long; while the process drains, requests are still answered (and `/readyz` says so), until the
//! rest of its work is done; then open requests are finished and connections closed.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, http::Request, response::Response};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{
    AppState,
    connections::{Connections, Place},
    head_deadline::{HeadDeadline, Progress},
    origin::Peer,
    router,
};
use crate::shutdown::Tasks;

/// Bytes of a request's head, and of what is read of a body at once; a longer head is answered 431.
const MAX_HEAD: usize = 32 << 10;

/// Headers of a request; more are answered 431.
const MAX_HEADERS: usize = 100;

/// Pause after an accept that failed, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection may do.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// How long it may be idle.
    pub idle: Duration,
    /// How long the head of a request may take.
    pub head: Duration,
    /// How many one address may have; 0 for any number.
    pub per_address: u32,
}

/// Serves until `closing`, then finishes open requests.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    tasks: Tasks,
    closing: CancellationToken,
) {
    allow_open_files();
    let limits = state.connections;
    let trusted = Arc::clone(&state.trusted_proxies);
    let connections = Connections::new(limits.per_address, trusted);
    let app = router(state);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &connections) => accepted,
            () = closing.cancelled() => return,
        };
        let Some((stream, peer, place)) = accepted else {
            continue;
        };
        let progress = Arc::<Progress>::default();
        let stream = HeadDeadline::new(stream, limits.head, Arc::clone(&progress));
        let service = TowerToHyperService::new(answering(app.clone(), peer, progress));
        let closing = closing.clone();
        tasks.spawn_connection(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.idle)
                .max_header_size(MAX_HEAD)
                .max_buf_size(MAX_HEAD)
                .max_headers(MAX_HEADERS)
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
            drop(place);
        });
    }
}

/// The router, told who is at the other end; it tells how far the connection's requests are.
fn answering(
    app: Router,
    peer: SocketAddr,
    progress: Arc<Progress>,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone
{
    tower::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        progress.begin();
        let (answer, progress) = (app.clone().call(request), Arc::clone(&progress));
        async move {
            let answer = answer.await;
            progress.answer();
            answer
        }
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
    connections: &Connections,
) -> Option<(TcpStream, SocketAddr, Place)> {
    let slot = connections.slot().await?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            let Some(place) = connections.place(slot, peer.ip()) else {
                tracing::debug!(address = %peer.ip(), "too many connections from one address");
                return None;
            };
            // an answer is one small write: it must not wait for an acknowledgement
            let _ = stream.set_nodelay(true);
            Some((stream, peer, place))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection was not accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
