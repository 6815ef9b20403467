//! `fetch_parent`: the provider is asked about an object that events name and nobody has described.
//!
//! Guarantees: its answer is recorded like an event, and settles whoever waited; when it does not
//! know the object either, or cannot be asked, those who waited are dead letters with the reason.

use super::{JobContext, JobError, hear};
use crate::{
    identity::{self, Heard, Parent, ParentKind},
    inbox, provider_api,
    queue::{
        self, Claim, Failure,
        worker::{Outcome, Settled},
    },
    webhooks::IdentityEvent,
};

pub(super) async fn run(
    cx: &JobContext,
    claim: &Claim,
    source: &str,
    text: &str,
) -> Result<Outcome, JobError> {
    let Some(parent) = Parent::parse(source, text) else {
        return Ok(Outcome::Done);
    };
    let Some(client) = cx.providers.get(source) else {
        let reason = format!("{text} did not come, and source {source} has no api_key to ask with");
        return give_up(cx, claim, &parent, &reason).await;
    };
    if let Some(said) = ask(client, &parent).await? {
        if said.iter().any(|event| is_about(event, &parent)) {
            return told(cx, claim, &parent, said).await;
        }
        let error = format!("the answer about {text} is about something else");
        return Err(JobError::Retry(Failure::new("provider_unreadable", error)));
    }
    let reason = format!("{text} did not come, and the provider does not know it");
    give_up(cx, claim, &parent, &reason).await
}

fn is_about(event: &IdentityEvent, parent: &Parent) -> bool {
    match (event, parent.kind) {
        (IdentityEvent::Organization(said), ParentKind::Organization) => said.id == parent.id,
        (IdentityEvent::User(said), ParentKind::User) => said.id == parent.id,
        _ => false,
    }
}

async fn ask(
    client: &provider_api::Client,
    parent: &Parent,
) -> Result<Option<Vec<IdentityEvent>>, provider_api::Error> {
    match parent.kind {
        ParentKind::Organization => client.find_organization(&parent.id).await,
        ParentKind::User => client.find_user(&parent.id).await,
    }
}

async fn told(
    cx: &JobContext,
    claim: &Claim,
    parent: &Parent,
    said: Vec<IdentityEvent>,
) -> Result<Outcome, JobError> {
    let heard = Heard::from_api(&parent.source, said);
    let has_follow_up = cx
        .db
        .transaction(async |tx| {
            identity::lock(tx).await?;
            queue::assert_held(tx, claim).await?;
            let heeded = hear::hear(cx, tx, &[heard]).await?;
            queue::complete(tx, claim).await?;
            Ok::<_, JobError>(heeded.has_follow_up)
        })
        .await?;
    if has_follow_up {
        cx.waker.wake();
    }
    Ok(Outcome::Settled(Settled::Completed))
}

async fn give_up(
    cx: &JobContext,
    claim: &Claim,
    parent: &Parent,
    reason: &str,
) -> Result<Outcome, JobError> {
    let reason = format!("parent_missing: {reason}");
    let failed = cx
        .db
        .transaction(async |tx| {
            // an event that is just being recorded must not miss its last chance
            identity::lock(tx).await?;
            queue::assert_held(tx, claim).await?;
            let failed = inbox::fail_waiting(tx, &parent.source, &parent.text(), &reason).await?;
            queue::complete(tx, claim).await?;
            Ok::<_, JobError>(failed)
        })
        .await?;
    if failed > 0 {
        tracing::warn!(
            source = parent.source,
            parent = parent.text(),
            events = failed,
            error.code = "parent_missing",
            error = reason,
            "events are incomplete for good"
        );
    }
    Ok(Outcome::Settled(Settled::Completed))
}
