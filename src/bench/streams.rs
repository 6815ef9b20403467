//! What it costs a replica that many browsers follow a registration each, until all of them are ready.
//!
//! The registrations are made over the replica's own API, and followed with their status tokens. The worker is
//! played: its rows of steps and states are written by hand, because as many databases would be a measure of the
//! disk. The replica that tells of them sees the same rows.
//!
//! Guarantees: every client has seen every event of its registration, in order, `ready` as the last, and its
//! stream's end; the memory is the most that the replica has had, not a sample.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sqlx::PgConnection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinSet,
    time::timeout,
};
use uuid::Uuid;

use super::{
    Error, Measure, Options, footprint,
    replica::Replica,
    report::Target,
    samples::Samples,
    sender::{Request, Sender},
    server::Server,
    signups::{self, Accepted, SignUp},
    visitors,
};
use crate::provisioning::PLAN;

const NAME: &str = "registration_streams_mib";

/// Senders of the storm: fewer than the replica has connections to the database, because it has none open yet.
const SENDERS: usize = 8;

/// Streams that are opened at once: each first waits for one of the replica's connections to the database.
const OPENING: usize = 32;

/// Registrations whose tenants the played worker makes at once.
const BATCH: usize = 16;

/// How long a client waits for the end of its stream.
const LIMIT: Duration = Duration::from_mins(2);

pub(super) async fn measure(
    options: &Options,
    server: &Server,
    replica: &Replica,
    progress: &ProgressBar,
) -> Result<Measure, Error> {
    progress.set_message(NAME);
    allow_open_files()?;
    tokio::time::sleep(footprint::IDLE).await;
    let idle = replica.rss_mib()?;
    let accepted = storm(server, replica.address, options.streams).await?;
    let mut clients = JoinSet::new();
    for some in accepted.chunks(OPENING) {
        let mut begun = Vec::new();
        for one in some {
            let (tell, told) = oneshot::channel();
            clients.spawn(follow(replica.address, one.clone(), tell));
            begun.push(told);
        }
        for told in begun {
            // a client that ended early says why below
            let _ = told.await;
        }
    }
    let mut worker = server.control().await?;
    let mut made = HashMap::new();
    for batch in accepted.chunks(BATCH) {
        let ids: Vec<Uuid> = batch.iter().map(|one| one.id).collect();
        play_worker(&mut worker, &ids).await?;
        let now = Instant::now();
        made.extend(ids.into_iter().map(|id| (id, now)));
    }
    let mut samples = Samples::new();
    while let Some(ended) = clients.join_next().await {
        let (id, seen) = ended.map_err(|_| Error::Broken)??;
        if let Some(made) = made.get(&id) {
            samples.add(seen.saturating_duration_since(*made));
        }
    }
    let more = (replica.most_rss_mib()? - idle).max(0.0);
    visitors::forget_keys(server).await?;
    server.empty_registers().await?;
    let measure = Measure::plain(NAME, more, "MiB").with(&samples);
    Ok(measure.target(Target::AtMost(64.0)))
}

/// So many people sign up at once.
async fn storm(server: &Server, address: SocketAddr, count: u32) -> Result<Vec<Accepted>, Error> {
    let (key, run) = (signups::make_key(server).await?, unique());
    let mut running = JoinSet::new();
    for first in 0..SENDERS {
        let (key, run) = (key.clone(), run.clone());
        running.spawn(async move {
            let mut sender = Sender::connect(address).await?;
            let mut accepted = Vec::new();
            for number in (0..count).skip(first).step_by(SENDERS) {
                let who = SignUp::new(&run, number.into());
                accepted.push(signups::sign_up(&mut sender, &key, &who).await?);
            }
            Ok::<_, Error>(accepted)
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = running.join_next().await {
        all.extend(ended.map_err(|_| Error::Broken)??);
    }
    Ok(all)
}

/// Follows a registration as a browser does; returns when `ready` was seen. `began` hears of the first event.
async fn follow(
    address: SocketAddr,
    one: Accepted,
    began: oneshot::Sender<()>,
) -> Result<(Uuid, Instant), Error> {
    let doing = "following a registration";
    let path = format!("{}/events?status_token={}", one.path(), one.status_token);
    let mut stream = TcpStream::connect(address)
        .await
        .map_err(Error::io(doing))?;
    stream
        .write_all(Request::get(&path, None).bytes())
        .await
        .map_err(Error::io(doing))?;
    let (mut told, mut began) = (Told::default(), Some(began));
    let mut seen = None;
    while !told.has_ended {
        let read = timeout(LIMIT, stream.read_buf(&mut told.unread)).await;
        let read = read.map_err(|_| Error::io(doing)(std::io::ErrorKind::TimedOut.into()))?;
        if read.map_err(Error::io(doing))? == 0 {
            return Err(Error::Answer);
        }
        told.read()?;
        if told.events > 0
            && let Some(began) = began.take()
        {
            let _ = began.send(());
        }
        if told.is_ready {
            seen.get_or_insert_with(Instant::now);
        }
    }
    seen.map(|seen| (one.id, seen)).ok_or(Error::Answer)
}

/// What a stream has told so far.
#[derive(Debug, Default)]
struct Told {
    unread: Vec<u8>,
    events: u32,
    is_ready: bool,
    has_ended: bool,
}

impl Told {
    /// Reads whole lines; an error where an event is missing, or comes after the last.
    fn read(&mut self) -> Result<(), Error> {
        let Some(end) = self.unread.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(());
        };
        let whole: Vec<u8> = self.unread.drain(..=end).collect();
        for line in whole.split(|byte| *byte == b'\n') {
            self.line(line.trim_ascii())?;
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Error> {
        if let Some(status) = line.strip_prefix(b"HTTP/1.1 ") {
            return if status.starts_with(b"200") {
                Ok(())
            } else {
                Err(Error::Answer)
            };
        }
        if let Some(number) = line.strip_prefix(b"id: ") {
            let number = std::str::from_utf8(number).ok();
            let is_next = number.and_then(|it| it.parse().ok()) == Some(self.events + 1);
            if !is_next || self.is_ready {
                return Err(Error::Answer);
            }
            self.events += 1;
        }
        if line == b"event: ready" {
            self.is_ready = true;
        }
        // the last chunk
        self.has_ended |= self.is_ready && line == b"0";
        Ok(())
    }
}

/// The rows that a worker writes while it makes the tenants of these registrations, transaction by transaction.
async fn play_worker(worker: &mut PgConnection, registrations: &[Uuid]) -> Result<(), Error> {
    let doing = "playing the worker";
    sqlx::query(
        "update tenants
         set state = 'provisioning'
         where id in (select tenant_id from registrations where id = any($1))",
    )
    .bind(registrations)
    .execute(&mut *worker)
    .await
    .map_err(Error::sql(doing))?;
    for step in PLAN {
        for state in ["running", "done"] {
            sqlx::query(
                "insert into provisioning_steps (tenant_id, step, state)
                 select tenant_id, $2, $3
                 from registrations
                 where id = any($1)
                 on conflict (tenant_id, step) do update
                 set state = excluded.state",
            )
            .bind(registrations)
            .bind(step.name())
            .bind(state)
            .execute(&mut *worker)
            .await
            .map_err(Error::sql(doing))?;
        }
    }
    sqlx::query(
        "update tenants
         set state = 'ready',
             initialize = true,
             ready_at = now()
         where id in (select tenant_id from registrations where id = any($1))",
    )
    .bind(registrations)
    .execute(worker)
    .await
    .map(|_| ())
    .map_err(Error::sql(doing))
}

/// As many open files as the system lets us have: the usual 1,024 are fewer than the streams.
fn allow_open_files() -> Result<(), Error> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let doing = "raising the limit of open files";
    setrlimit(Resource::Nofile, raised).map_err(|error| Error::io(doing)(error.into()))
}

fn unique() -> String {
    format!("{:08x}", rand::random::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &str) -> Result<Told, Error> {
        let mut told = Told::default();
        for byte in lines.bytes() {
            told.unread.push(byte);
            told.read()?;
        }
        Ok(told)
    }

    #[test]
    fn a_stream_is_whole_when_nothing_is_missing_and_it_has_ended() {
        let whole = "HTTP/1.1 200 OK\r\n\r\n1a\r\nid: 1\nevent: step\n\n\r\n1b\r\nid: 2\nevent: ready\n\n\r\n0\r\n\r\n";
        let all = told(whole).unwrap();
        assert!(all.is_ready && all.has_ended && all.events == 2, "{all:?}");
        assert!(!told(&whole[..whole.len() - 5]).unwrap().has_ended);
    }

    #[test]
    fn a_gap_a_repetition_and_a_refusal_are_errors() {
        for broken in [
            "id: 2\n",
            "id: 1\nid: 1\n",
            "id: 1\nevent: ready\nid: 2\n",
            "HTTP/1.1 429 Too Many Requests\r\n",
        ] {
            assert!(told(broken).is_err(), "{broken}");
        }
    }
}
