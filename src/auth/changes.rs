//! What must not be remembered any longer, as every replica hears it from the database.
//!
//! Guarantees: once a change was heard nothing that was read before it is used again, also when the
//! reading was still under way. While nobody listens nothing is trusted longer than the caches keep
//! it, and when listening begins again everything is forgotten.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// So many subjects are told apart; beyond them everything counts as changed.
const SUBJECTS: usize = 50_000;

/// When something was read, in changes heard so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

/// The changes heard so far.
#[derive(Debug, Default)]
pub(super) struct Changes {
    heard: AtomicU64,
    last: RwLock<Last>,
}

#[derive(Debug, Default)]
struct Last {
    of_everything: u64,
    of_subject: HashMap<String, u64>,
}

impl Changes {
    /// To be taken before something is read.
    pub(super) fn now(&self) -> Moment {
        Moment(self.heard.load(Ordering::Acquire))
    }

    /// Whether none of the subjects changed since.
    pub(super) fn is_current(&self, read: Moment, subjects: &[&str]) -> bool {
        // nearly always nothing at all has changed
        if read == self.now() {
            return true;
        }
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        last.of_everything <= read.0
            && subjects
                .iter()
                .all(|subject| last.of_subject.get(*subject).is_none_or(|at| *at <= read.0))
    }

    /// A subject changed.
    pub(super) fn note(&self, subject: &str) {
        let mut last = self.last.write().unwrap_or_else(PoisonError::into_inner);
        let at = self.heard.load(Ordering::Acquire) + 1;
        if last.of_subject.len() >= SUBJECTS {
            last.of_subject.clear();
            last.of_everything = at;
        }
        last.of_subject.insert(subject.to_owned(), at);
        self.heard.store(at, Ordering::Release);
    }

    /// Anything may have changed.
    pub(super) fn note_all(&self) {
        let mut last = self.last.write().unwrap_or_else(PoisonError::into_inner);
        let at = self.heard.load(Ordering::Acquire) + 1;
        last.of_subject.clear();
        last.of_everything = at;
        self.heard.store(at, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_a_change_of_its_subject_is_not_current() {
        let changes = Changes::default();
        let before = changes.now();
        changes.note("user:a:1");
        assert!(!changes.is_current(before, &["organization:a:1", "user:a:1"]));
        assert!(changes.is_current(before, &["organization:a:1", "user:a:2"]));
        assert!(changes.is_current(changes.now(), &["user:a:1"]));
    }

    #[test]
    fn after_a_change_of_everything_nothing_is_current() {
        let changes = Changes::default();
        changes.note("user:a:1");
        let before = changes.now();
        changes.note_all();
        assert!(!changes.is_current(before, &[]));
    }

    #[test]
    fn more_subjects_than_can_be_told_apart_are_everything() {
        let changes = Changes::default();
        let before = changes.now();
        for subject in 0..=SUBJECTS {
            changes.note(&subject.to_string());
        }
        assert!(!changes.is_current(before, &["never noted"]));
        assert!(changes.last.read().unwrap().of_subject.len() <= SUBJECTS);
    }
}
