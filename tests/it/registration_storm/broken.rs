//! Histories that cannot be: the checker complains about each, and about nothing else in it.

use std::collections::BTreeSet;

use tenantry::registrations::State;

use super::{
    checker::{Kind, check, count_overloads},
    record::{Entry, Request, Seen, View},
};

/// Clients of the sound history, in the order in which they ask.
const FIRST: u64 = 1;
const AGAIN: u64 = 2;
const CHANGED: u64 = 3;
const WATCHER: u64 = 4;

fn register(body: &str) -> Request {
    Request::Register {
        key: "key".to_owned(),
        body: body.to_owned(),
    }
}

fn look(registration: &str) -> Request {
    Request::Look {
        registration: registration.to_owned(),
    }
}

fn view(registration: &str, state: State, done: i64) -> View {
    View {
        registration: registration.to_owned(),
        state,
        done,
        tenant: (state == State::Ready).then(|| format!("tenant of {registration}")),
    }
}

fn registered(text: &str, is_replay: bool) -> Seen {
    Seen::Registered {
        status: 202,
        text: text.to_owned(),
        is_replay,
        view: view("one", State::Accepted, 0),
    }
}

fn refused(status: u16, code: &str) -> Seen {
    Seen::Fail {
        status,
        code: code.to_owned(),
    }
}

/// Somebody asks a replica, and is answered before anybody else asks.
fn asks(client: u64, replica: u64, request: Request, seen: Seen) -> [Entry; 2] {
    [Seen::Invoke(request), seen].map(|seen| Entry {
        client,
        replica,
        seen,
    })
}

/// A key that is asked for three times, once with another body, and followed on two replicas.
fn sound() -> Vec<Entry> {
    let looks = |replica, state, done| {
        asks(
            WATCHER,
            replica,
            look("one"),
            Seen::Looked(view("one", state, done)),
        )
    };
    let starts = Seen::Trouble {
        status: 503,
        has_retry_after: true,
    };
    let in_use = refused(409, "idempotency_key_in_use");
    let reused = refused(422, "idempotency_key_reused");
    [
        asks(FIRST, 1, register("a"), starts),
        asks(CHANGED, 1, register("b"), in_use),
        asks(FIRST, 1, register("a"), Seen::Broken),
        asks(FIRST, 2, register("a"), registered("text", false)),
        asks(AGAIN, 1, register("a"), registered("text", true)),
        asks(CHANGED, 2, register("b"), reused),
        looks(2, State::Accepted, 0),
        looks(1, State::Provisioning, 3),
        looks(2, State::Ready, 7),
    ]
    .concat()
}

/// The sound history, with one line of it changed: the answer to a client's `nth` request.
fn answered(client: u64, nth: usize, seen: Seen) -> Vec<Entry> {
    let mut history = sound();
    let answers = history
        .iter_mut()
        .filter(|entry| entry.client == client && !matches!(entry.seen, Seen::Invoke(_)));
    answers.into_iter().nth(nth).unwrap().seen = seen;
    history
}

/// The sound history, and what happened after it.
fn then(more: &[[Entry; 2]]) -> Vec<Entry> {
    [sound(), more.concat()].concat()
}

/// Somebody else's key and registration, with this tenant.
fn another(registration: &str, tenant: &str) -> [Entry; 2] {
    let request = Request::Register {
        key: "other key".to_owned(),
        body: "a".to_owned(),
    };
    let seen = Seen::Registered {
        status: 201,
        text: "other text".to_owned(),
        is_replay: false,
        view: View {
            tenant: Some(tenant.to_owned()),
            ..view(registration, State::Ready, 7)
        },
    };
    asks(9, 2, request, seen)
}

/// A key whose only request is refused as a second one.
fn refused_alone() -> [Entry; 2] {
    let request = Request::Register {
        key: "unanswered".to_owned(),
        body: "a".to_owned(),
    };
    asks(9, 2, request, refused(422, "idempotency_key_reused"))
}

/// The sound history without its end.
fn without(lines: usize) -> Vec<Entry> {
    sound()[..sound().len() - lines].to_vec()
}

fn looked(state: State, done: i64) -> Seen {
    Seen::Looked(view("one", state, done))
}

fn trouble(status: u16, has_retry_after: bool) -> Seen {
    Seen::Trouble {
        status,
        has_retry_after,
    }
}

fn broken() -> Vec<(Kind, Vec<Entry>)> {
    let in_use = refused(409, "idempotency_key_in_use");
    let reused = refused(422, "idempotency_key_reused");
    let moved = View {
        tenant: Some("another tenant".to_owned()),
        ..view("one", State::Ready, 7)
    };
    vec![
        (Kind::Hung, without(1)),
        (Kind::Unsettled, answered(CHANGED, 1, Seen::Broken)),
        (Kind::Unanswered, then(&[refused_alone()])),
        (
            Kind::AnswersDiffer,
            answered(AGAIN, 0, registered("another text", true)),
        ),
        (
            Kind::DoneTwice,
            answered(AGAIN, 0, registered("text", false)),
        ),
        (
            Kind::BodiesMixed,
            answered(CHANGED, 1, registered("text", true)),
        ),
        (Kind::WronglyRefused, answered(AGAIN, 0, reused.clone())),
        (
            Kind::StillInUse,
            then(&[
                asks(CHANGED, 1, register("b"), in_use),
                asks(CHANGED, 1, register("b"), reused),
            ]),
        ),
        (
            Kind::RegistrationShared,
            then(&[another("one", "tenant of one")]),
        ),
        (Kind::TenantShared, then(&[another("two", "tenant of one")])),
        (
            Kind::TenantChanged,
            then(&[asks(WATCHER, 2, look("one"), Seen::Looked(moved))]),
        ),
        (
            Kind::NotThere,
            answered(WATCHER, 1, refused(404, "registration_unknown")),
        ),
        (
            Kind::WentBack,
            answered(WATCHER, 0, looked(State::Provisioning, 4)),
        ),
        (
            Kind::GivenUp,
            answered(WATCHER, 1, looked(State::Failed, 3)),
        ),
        (Kind::NeverReady, without(2)),
        (
            Kind::Refused,
            answered(FIRST, 0, refused(409, "slug_taken")),
        ),
        (Kind::ServerError, answered(FIRST, 0, trouble(500, false))),
        (Kind::ServerError, answered(FIRST, 0, trouble(503, false))),
    ]
}

#[test]
fn a_history_that_can_be_is_sound() {
    assert_eq!(check(&sound()), []);
}

#[test]
fn every_kind_of_broken_history_is_complained_about() {
    let mut kinds = BTreeSet::new();
    for (kind, history) in broken() {
        let found: Vec<Kind> = check(&history).iter().map(|anomaly| anomaly.kind).collect();
        assert!(found.contains(&kind), "{kind:?} is not found: {found:?}");
        kinds.insert(kind);
    }
    assert_eq!(kinds, Kind::ALL.into(), "each kind is shown to be found");
}

#[test]
fn what_is_complained_about_is_what_is_broken() {
    for (kind, history) in broken() {
        let mut others = check(&history);
        others.retain(|anomaly| anomaly.kind != kind);
        if kind == Kind::Hung {
            // it is the look that would have seen it ready
            others.retain(|anomaly| anomaly.kind != Kind::NeverReady);
        }
        assert_eq!(others, [], "of {kind:?}");
    }
}

#[test]
fn a_replica_that_served_and_does_not_is_counted() {
    assert_eq!(count_overloads(&sound()), 0, "it was starting");
    let overload = answered(WATCHER, 1, trouble(503, true));
    assert_eq!(count_overloads(&overload), 1);
}

#[test]
fn progress_is_compared_only_with_what_was_answered_before() {
    let [asked, answered] = asks(
        WATCHER,
        1,
        look("one"),
        Seen::Looked(view("one", State::Accepted, 0)),
    );
    let mut history = sound();
    // asked when nobody had seen more, and answered when somebody else had
    let first_look = history
        .iter()
        .position(|entry| entry.client == WATCHER)
        .unwrap();
    let late = |entry: Entry| Entry { client: 5, ..entry };
    history.insert(first_look, late(asked));
    history.push(late(answered));
    assert_eq!(check(&history), []);
}
