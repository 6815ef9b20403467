//! Whether what the clients of a storm saw can be true. Pure: reads the history and nothing else.
//!
//! Guarantees: two things are held against each other only where one was answered before the other was
//! asked, or where their order does not matter; so what is complained about is wrong, whatever happened in between.

use std::collections::{BTreeMap, BTreeSet};

use tenantry::registrations::State;

use super::record::{Entry, Request, Seen, View};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A request was never answered, nor did its connection end.
    Hung,
    /// A client gave up before it was told how its request ended.
    Unsettled,
    /// A key was never answered with a success.
    Unanswered,
    /// Two successes of one key differ.
    AnswersDiffer,
    /// Two successes of one key say that they are the first.
    DoneTwice,
    /// Two bodies of one key were carried out.
    BodiesMixed,
    /// The body that was carried out was refused as another one.
    WronglyRefused,
    /// A key counted as in use after it had its answer.
    StillInUse,
    /// Two keys got one registration.
    RegistrationShared,
    /// Two registrations got one tenant.
    TenantShared,
    /// A registration got another tenant.
    TenantChanged,
    /// What had been answered was not there.
    NotThere,
    /// A registration went back.
    WentBack,
    /// A registration failed, or was given up.
    GivenUp,
    /// A registration was not ready in the end.
    NeverReady,
    /// A client was refused what is allowed.
    Refused,
    /// An error that does not say when to come again.
    ServerError,
}

impl Kind {
    /// Each of them.
    pub const ALL: [Self; 17] = [
        Self::Hung,
        Self::Unsettled,
        Self::Unanswered,
        Self::AnswersDiffer,
        Self::DoneTwice,
        Self::BodiesMixed,
        Self::WronglyRefused,
        Self::StillInUse,
        Self::RegistrationShared,
        Self::TenantShared,
        Self::TenantChanged,
        Self::NotThere,
        Self::WentBack,
        Self::GivenUp,
        Self::NeverReady,
        Self::Refused,
        Self::ServerError,
    ];
}

/// What is wrong, with the key, registration or client of which it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Anomaly {
    pub kind: Kind,
    pub of: String,
    pub why: String,
}

/// A request with its answer, and when they were seen.
struct Operation<'a> {
    client: u64,
    replica: u64,
    request: &'a Request,
    asked_at: usize,
    answered: Option<(usize, &'a Seen)>,
}

/// Everything that is wrong with a history.
pub fn check(history: &[Entry]) -> Vec<Anomaly> {
    let operations = operations(history);
    let mut found = Vec::new();
    check_answered(&operations, &mut found);
    check_refusals(&operations, &mut found);
    check_troubles(&operations, &mut found);
    let mut keys: BTreeMap<&str, Vec<&Operation<'_>>> = BTreeMap::new();
    for operation in &operations {
        if let Request::Register { key, .. } = operation.request {
            keys.entry(key).or_default().push(operation);
        }
    }
    for (key, operations) in &keys {
        check_key(key, operations, &mut found);
    }
    check_shared(&keys, &operations, &mut found);
    check_progress(history, &mut found);
    found.sort();
    found
}

/// The requests, in the order in which they were made.
fn operations(history: &[Entry]) -> Vec<Operation<'_>> {
    let mut operations: Vec<Operation<'_>> = Vec::new();
    let mut open = BTreeMap::new();
    for (at, entry) in history.iter().enumerate() {
        if let Seen::Invoke(request) = &entry.seen {
            open.insert(entry.client, operations.len());
            operations.push(Operation {
                client: entry.client,
                replica: entry.replica,
                request,
                asked_at: at,
                answered: None,
            });
        } else {
            let asked = open.remove(&entry.client);
            let asked = asked.expect("nobody is answered who has not asked");
            operations[asked].answered = Some((at, &entry.seen));
        }
    }
    operations
}

impl<'a> Operation<'a> {
    fn seen(&self) -> Option<&'a Seen> {
        self.answered.map(|(_, seen)| seen)
    }

    /// How far the registration is, where the answer says so.
    fn view(&self) -> Option<&'a View> {
        match self.seen()? {
            Seen::Registered { view, .. } | Seen::Looked(view) => Some(view),
            Seen::Invoke(_) | Seen::Fail { .. } | Seen::Trouble { .. } | Seen::Broken => None,
        }
    }

    /// Whether the answer says that the key was used with another body.
    fn is_refused_as_reused(&self) -> bool {
        matches!(self.seen(), Some(Seen::Fail { status: 422, code }) if code == "idempotency_key_reused")
    }

    /// Whether the answer says that the key's first request is under way.
    fn is_refused_as_in_use(&self) -> bool {
        matches!(self.seen(), Some(Seen::Fail { status: 409, code }) if code == "idempotency_key_in_use")
    }

    /// Whether nothing more is to be learned by asking again.
    fn is_settled(&self) -> bool {
        self.view().is_some() || self.is_refused_as_reused()
    }
}

fn complain(found: &mut Vec<Anomaly>, kind: Kind, of: &str, why: String) {
    let of = of.to_owned();
    found.push(Anomaly { kind, of, why });
}

fn check_answered(operations: &[Operation<'_>], found: &mut Vec<Anomaly>) {
    let mut last = BTreeMap::new();
    for operation in operations {
        last.insert(operation.client, operation);
        if operation.answered.is_none() {
            let why = format!("{:?}", operation.request);
            complain(
                found,
                Kind::Hung,
                &format!("client {}", operation.client),
                why,
            );
        }
    }
    for (client, operation) in last {
        if operation.answered.is_some() && !operation.is_settled() {
            let why = format!("{:?}", operation.seen());
            complain(found, Kind::Unsettled, &format!("client {client}"), why);
        }
    }
}

/// Of refusals only those that keys and their bodies deserve are right.
fn check_refusals(operations: &[Operation<'_>], found: &mut Vec<Anomaly>) {
    for operation in operations {
        let Some(Seen::Fail { status, code }) = operation.seen() else {
            continue;
        };
        let why = format!("{status} {code}");
        match operation.request {
            Request::Look { registration } if *status == 404 => {
                complain(found, Kind::NotThere, registration, why);
            }
            Request::Look { registration } => complain(found, Kind::Refused, registration, why),
            Request::Register { key, .. } => {
                if !operation.is_refused_as_reused() && !operation.is_refused_as_in_use() {
                    complain(found, Kind::Refused, key, why);
                }
            }
        }
    }
}

/// A replica may say when to come again; every other error is one.
fn check_troubles(operations: &[Operation<'_>], found: &mut Vec<Anomaly>) {
    for operation in operations {
        if let Some(Seen::Trouble {
            status,
            has_retry_after,
        }) = operation.seen()
            && (*status != 503 || !has_retry_after)
        {
            let of = format!("replica {}", operation.replica);
            let why = format!("{status} to {:?}", operation.request);
            complain(found, Kind::ServerError, &of, why);
        }
    }
}

/// How often a replica that had answered did not take a request: it starts no more, it has too much to do.
pub fn count_overloads(history: &[Entry]) -> usize {
    let mut serving = BTreeSet::new();
    let mut overloads = 0;
    for operation in operations(history) {
        match operation.seen() {
            Some(Seen::Registered { .. } | Seen::Looked(_) | Seen::Fail { .. }) => {
                serving.insert(operation.replica);
            }
            Some(Seen::Trouble { .. }) if serving.contains(&operation.replica) => overloads += 1,
            Some(Seen::Trouble { .. } | Seen::Broken | Seen::Invoke(_)) | None => {}
        }
    }
    overloads
}

/// One body is carried out once, and its answer is every success of the key.
fn check_key(key: &str, operations: &[&Operation<'_>], found: &mut Vec<Anomaly>) {
    let (mut answers, mut bodies, mut firsts) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut answered_at = usize::MAX;
    for operation in operations {
        let Request::Register { body, .. } = operation.request else {
            continue;
        };
        if let Some((
            at,
            Seen::Registered {
                status,
                text,
                is_replay,
                ..
            },
        )) = operation.answered
        {
            answers.insert((status, text));
            bodies.insert(body);
            firsts += usize::from(!is_replay);
            answered_at = answered_at.min(at);
        }
    }
    if answers.is_empty() {
        let why = format!("{} requests", operations.len());
        complain(found, Kind::Unanswered, key, why);
    }
    if answers.len() > 1 {
        complain(found, Kind::AnswersDiffer, key, format!("{answers:?}"));
    }
    if bodies.len() > 1 {
        complain(found, Kind::BodiesMixed, key, format!("{bodies:?}"));
    }
    if firsts > 1 {
        complain(found, Kind::DoneTwice, key, format!("{firsts} times"));
    }
    for operation in operations {
        let Request::Register { body, .. } = operation.request else {
            continue;
        };
        if operation.is_refused_as_reused() && bodies.contains(body) {
            complain(found, Kind::WronglyRefused, key, body.clone());
        }
        if operation.is_refused_as_in_use() && operation.asked_at > answered_at {
            complain(found, Kind::StillInUse, key, body.clone());
        }
    }
}

/// Each key has a registration, and each registration a tenant, of its own.
fn check_shared(
    keys: &BTreeMap<&str, Vec<&Operation<'_>>>,
    operations: &[Operation<'_>],
    found: &mut Vec<Anomaly>,
) {
    let mut key_of = BTreeMap::new();
    for (key, operations) in keys {
        for view in operations.iter().filter_map(|operation| operation.view()) {
            let other = key_of.insert(&view.registration, key);
            if let Some(other) = other.filter(|other| *other != key) {
                let why = format!("{key} and {other}");
                complain(found, Kind::RegistrationShared, &view.registration, why);
            }
        }
    }
    let (mut tenant_of, mut owner_of) = (BTreeMap::new(), BTreeMap::new());
    for view in operations.iter().filter_map(Operation::view) {
        let Some(tenant) = &view.tenant else {
            continue;
        };
        let (registration, before) = (&view.registration, tenant_of.get(&view.registration));
        if let Some(before) = before.filter(|before| **before != tenant) {
            let why = format!("{before}, then {tenant}");
            complain(found, Kind::TenantChanged, registration, why);
        }
        tenant_of.insert(registration, tenant);
        let owner = *owner_of.entry(tenant).or_insert(registration);
        if owner != registration {
            let why = format!("{owner} and {registration}");
            complain(found, Kind::TenantShared, tenant, why);
        }
    }
}

/// How far a state is; none is behind what can only go wrong.
fn rank(state: State) -> Option<u8> {
    match state {
        State::Accepted => Some(0),
        State::Provisioning => Some(1),
        State::Ready => Some(2),
        State::Failed | State::Abandoning | State::Abandoned => None,
    }
}

/// Whoever looks after another one's look was answered sees as much, on any replica.
fn check_progress(history: &[Entry], found: &mut Vec<Anomaly>) {
    let mut furthest: BTreeMap<&str, (u8, i64)> = BTreeMap::new();
    let mut at_least: BTreeMap<u64, (u8, i64)> = BTreeMap::new();
    for entry in history {
        let view = match &entry.seen {
            Seen::Invoke(Request::Look { registration }) => {
                let seen = furthest.get(registration.as_str()).copied();
                at_least.insert(entry.client, seen.unwrap_or_default());
                continue;
            }
            // an answer that is repeated tells how far it was then
            Seen::Registered { view, .. } | Seen::Looked(view) => view,
            Seen::Invoke(_) | Seen::Fail { .. } | Seen::Trouble { .. } | Seen::Broken => continue,
        };
        let Some(rank) = rank(view.state) else {
            let why = view.state.name().to_owned();
            complain(found, Kind::GivenUp, &view.registration, why);
            continue;
        };
        let now = (rank, view.done);
        if let (Seen::Looked(_), Some(before)) = (&entry.seen, at_least.get(&entry.client))
            && (now.0 < before.0 || now.1 < before.1)
        {
            let why = format!("{before:?}, then {now:?}");
            complain(found, Kind::WentBack, &view.registration, why);
        }
        let seen = furthest.entry(&view.registration).or_default();
        *seen = (seen.0.max(now.0), seen.1.max(now.1));
    }
    for (registration, (rank, done)) in furthest {
        if rank < 2 {
            complain(
                found,
                Kind::NeverReady,
                registration,
                format!("{done} steps"),
            );
        }
    }
}
