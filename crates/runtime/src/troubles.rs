//! Recent problems that this process has noticed and that an operator should know about, whether or not they
//! resolve by themselves.
//!
//! A log line disappears with the log, and a counter has no details. `magnetite doctor` reports the problems
//! noted here while they are recent. The number of notes is limited, and there is one note for each kind and
//! subject.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a note is recent after the problem was last noticed.
pub const RECENT: Duration = Duration::from_mins(10);
/// The maximum number of notes. The oldest is dropped when there are more.
const NOTES_MAX: usize = 64;

static NOTES: Mutex<Vec<Note>> = Mutex::new(Vec::new());

/// The kind of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A message that is redelivered again and again.
    Poison,
    /// A message whose properties or size cannot be decoded.
    Unreadable,
    /// A queue's consumer that is lost or refused again and again.
    Reconnecting,
    /// Attempts that are recorded late.
    JournalLag,
}

struct Note {
    trouble: Trouble,
    subject: String,
    detail: String,
    last: Instant,
}

impl Trouble {
    /// Returns the kind's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Poison => "poison",
            Self::Unreadable => "unreadable",
            Self::Reconnecting => "reconnecting",
            Self::JournalLag => "journal_lag",
        }
    }

    /// Notes a problem. It replaces an earlier note of the same kind about the same subject.
    pub fn note(self, subject: &str, detail: String) {
        let (mut notes, last) = (notes(), Instant::now());
        notes.retain(|note| note.trouble != self || note.subject != subject);
        if notes.len() == NOTES_MAX {
            notes.remove(0);
        }
        notes.push(Note {
            trouble: self,
            subject: subject.to_owned(),
            detail,
            last,
        });
    }
}

/// Returns all recent notes, oldest first: kind, subject and detail.
pub fn recent() -> Vec<(Trouble, String, String)> {
    let mut notes = notes();
    notes.retain(|note| note.last.elapsed() < RECENT);
    let listed = notes
        .iter()
        .map(|note| (note.trouble, note.subject.clone(), note.detail.clone()));
    listed.collect()
}

fn notes() -> MutexGuard<'static, Vec<Note>> {
    NOTES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_one_note_and_there_is_a_bound_on_notes() {
        Trouble::Poison.note("due", "first".to_owned());
        Trouble::Poison.note("due", "second".to_owned());
        Trouble::Unreadable.note("due", "other".to_owned());
        let found = recent();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], (Trouble::Poison, "due".to_owned(), "second".to_owned()));
        for number in 0..2 * NOTES_MAX {
            Trouble::Poison.note(&number.to_string(), String::new());
        }
        let found = recent();
        assert_eq!(found.len(), NOTES_MAX);
        assert_eq!(found[NOTES_MAX - 1].1, (2 * NOTES_MAX - 1).to_string());
    }
}
