//! A sender of webhooks: one keep-alive connection, one request at a time.
//!
//! Does not: speak more HTTP than the replica answers with. It shares the machine with what it
//! measures, so it does as little as a sender can: it signs, writes once, and reads until the
//! answer is whole.

use std::{net::SocketAddr, time::Duration};

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Error;
use crate::webhooks::{self, SourceKind};

/// What signs the deliveries of a run.
pub(super) const SECRET: &str = "whsec_of_the_bench";

/// A delivery that is answered 503 is repeated so often, after this.
const MOST_DELIVERIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// An event as a provider sends it.
#[derive(Debug, Clone)]
pub(super) struct Event {
    /// The provider's id of the event.
    pub id: String,
    /// The provider's type.
    pub kind: &'static str,
    /// The organization that it is about.
    pub organization_id: Option<String>,
    /// When it happened.
    pub occurred_at: DateTime<Utc>,
    /// The bytes that are signed.
    pub body: Vec<u8>,
}

impl Event {
    /// A new organization; `run` and `number` make it unlike any other.
    pub(super) fn created(run: &str, number: u64) -> Self {
        let (id, organization_id) = (
            format!("event_{run}_{number:010}"),
            format!("org_{run}_{number:010}"),
        );
        let occurred_at = now();
        let at = occurred_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let body = format!(
            r#"{{"object":"event","id":"{id}","event":"organization.created","data":{{"object":"organization","id":"{organization_id}","name":"Bench {run} {number}","domains":[{{"object":"organization_domain","id":"org_domain_{run}_{number:010}","domain":"{number}.{run}.example.com","state":"verified"}}],"metadata":{{"plan":"enterprise","region":"eu-central"}},"external_id":null,"created_at":"{at}","updated_at":"{at}"}},"created_at":"{at}","context":{{}}}}"#
        );
        Self {
            id,
            kind: "organization.created",
            organization_id: Some(organization_id),
            occurred_at,
            body: body.into_bytes(),
        }
    }
}

pub(super) fn now() -> DateTime<Utc> {
    std::time::SystemTime::now().into()
}

/// A request that is sent again and again.
#[derive(Debug, Clone)]
pub(super) struct Request(Vec<u8>);

impl Request {
    pub(super) fn get(path: &str, credentials: Option<&str>) -> Self {
        let credentials = credentials.map_or_else(String::new, |credentials| {
            format!("authorization: Bearer {credentials}\r\n")
        });
        let head = format!("GET {path} HTTP/1.1\r\nhost: bench\r\n{credentials}\r\n");
        Self(head.into_bytes())
    }

    pub(super) fn post(path: &str, (key, idempotency_key): (&str, &str), body: &str) -> Self {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\nidempotency-key: {idempotency_key}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        Self(request.into_bytes())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A connection to a replica.
#[derive(Debug)]
pub(super) struct Sender {
    stream: TcpStream,
    secret: SecretString,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Sender {
    pub(super) async fn connect(address: SocketAddr) -> Result<Self, Error> {
        let doing = "connecting to the replica";
        let stream = TcpStream::connect(address)
            .await
            .map_err(Error::io(doing))?;
        stream.set_nodelay(true).map_err(Error::io(doing))?;
        Ok(Self {
            stream,
            secret: SecretString::from(SECRET),
            request: Vec::with_capacity(2048),
            answer: Vec::with_capacity(1024),
        })
    }

    /// Delivers an event, like a provider again while the replica asks for that; an error unless it is accepted.
    pub(super) async fn deliver(&mut self, event: &Event) -> Result<(), Error> {
        for _ in 0..MOST_DELIVERIES {
            match self.deliver_once(event).await {
                Err(Error::Refused { status: 503 }) => tokio::time::sleep(PAUSE).await,
                ended => return ended,
            }
        }
        self.deliver_once(event).await
    }

    async fn deliver_once(&mut self, event: &Event) -> Result<(), Error> {
        self.request.clear();
        let mut head = format!(
            "POST /webhooks/workos HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
            event.body.len()
        );
        for (name, value) in webhooks::sign(
            SourceKind::Workos,
            &self.secret,
            &event.id,
            now(),
            &event.body,
        ) {
            head.extend([name, ": ", &value, "\r\n"]);
        }
        head.push_str("\r\n");
        self.request.extend_from_slice(head.as_bytes());
        self.request.extend_from_slice(&event.body);
        self.exchange(200).await
    }

    /// Asks for a path.
    pub(super) async fn get(&mut self, path: &str) -> Result<(), Error> {
        self.ask(&Request::get(path, None)).await
    }

    /// Sends a request; an error unless it is answered 200.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<(), Error> {
        self.request.clone_from(&request.0);
        self.exchange(200).await
    }

    /// Sends a request; an error unless it is answered 202. Returns the answer's body.
    pub(super) async fn ask_for(&mut self, request: &Request) -> Result<&[u8], Error> {
        self.request.clone_from(&request.0);
        self.exchange(202).await?;
        let end = self.answer.windows(4).position(|it| it == b"\r\n\r\n");
        Ok(&self.answer[end.map_or(0, |end| end + 4)..])
    }

    async fn exchange(&mut self, expected: u16) -> Result<(), Error> {
        let doing = "asking the replica";
        self.stream
            .write_all(&self.request)
            .await
            .map_err(Error::io(doing))?;
        self.answer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.answer).await;
            if read.map_err(Error::io(doing))? == 0 {
                return Err(Error::Answer);
            }
            match parse(&self.answer)? {
                Some(status) if status == expected => return Ok(()),
                Some(status) => return Err(Error::Refused { status }),
                None => {}
            }
        }
    }
}

/// The status of an answer that is whole; `None` when more is to come.
fn parse(answer: &[u8]) -> Result<Option<u16>, Error> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| Error::Answer)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    let status = status.and_then(|status| status.parse().ok());
    match (status, length) {
        (Some(status), Some(length)) => Ok((answer.len() >= end + 4 + length).then_some(status)),
        _ => Err(Error::Answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhooks::{Mapping, Meaning};

    #[test]
    fn an_answer_counts_when_it_is_whole() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx: y\r\n\r\n{}";
        for end in 0..answer.len() {
            assert!(matches!(parse(&answer[..end]), Ok(None)), "{end}");
        }
        assert!(matches!(parse(answer), Ok(Some(200))));
        let endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(matches!(parse(endless), Err(Error::Answer)));
    }

    #[test]
    fn an_event_reads_as_what_it_says() {
        let event = Event::created("r", 7);
        let reading = webhooks::read(SourceKind::Workos, &Mapping::default(), &event.body);
        assert_eq!(reading.event_id.as_deref(), Some(event.id.as_str()));
        assert_eq!(reading.organization_id, event.organization_id);
        assert!(matches!(reading.meaning, Meaning::Events(_)));
    }
}
