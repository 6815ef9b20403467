//! An event is processed once more.
//!
//! Guarantees: the event, its job and the audit row are the caller's one transaction. What an event
//! says is joined with what is known, so replaying one that was processed changes nothing. One whose
//! body was pruned is refused.

use sqlx::PgConnection;

use super::Refusal;
use crate::{
    audit::{self, Act, Actor},
    inbox::{self, Event, EventState},
    queue::{self, NewJob},
};

/// Puts a settled event back to work; returns it as it is then.
pub async fn replay_event(
    tx: &mut PgConnection,
    id: i64,
    max_attempts: i32,
    actor: &Actor,
) -> Result<Event, Refusal> {
    audit::by(tx, actor).await?;
    // before the event: whoever has both locks the job first
    queue::lay_to_rest(tx, id).await?;
    let Some(event) = inbox::lock_event(tx, id).await? else {
        return Err(Refusal::EventUnknown(id));
    };
    match event.state {
        EventState::Received | EventState::Waiting => return Err(Refusal::EventIsPending(id)),
        EventState::Conflict => return Err(Refusal::EventInConflict(id)),
        EventState::Processed | EventState::Ignored | EventState::Failed => {}
    }
    if !event.has_body {
        return Err(Refusal::EventBodyPruned(id));
    }
    inbox::mark_received(tx, id).await?;
    let event = inbox::find_event(tx, id).await?;
    let event = event.ok_or(Refusal::EventUnknown(id))?;
    // once more, for one that died while the event was waited for
    queue::lay_to_rest(tx, id).await?;
    let org_id = event.organization_id.as_deref();
    let organization = org_id.map(|org_id| (&*event.source, org_id));
    let new = NewJob::process_event(id, organization, max_attempts);
    queue::enqueue_batched(tx, &new).await?;
    let act = Act {
        action: "event.replayed",
        target_kind: "event",
        target: &id.to_string(),
        organization: Some((&event.source, org_id)),
    };
    audit::note(tx, act).await?;
    Ok(event)
}
