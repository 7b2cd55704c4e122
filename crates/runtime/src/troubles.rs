//! What this process has noticed lately that a person should know of, and that passes by itself or does not.
//!
//! A log line is gone with the log, and a counter does not say what it counted. What is noted here is told by
//! `magnetite doctor`, for as long as it is recent. There is a bound on how much is kept: one note for each
//! kind and subject.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a note is recent after its subject was last noticed.
pub const RECENT: Duration = Duration::from_mins(10);
/// How many notes are kept; of more the oldest is dropped.
const NOTES_MAX: usize = 64;

static NOTES: Mutex<Vec<Note>> = Mutex::new(Vec::new());

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A message comes back again and again.
    Poison,
    /// A message whose properties or size nothing can read.
    Unreadable,
    /// A queue's consumer is lost, or refused, again and again.
    Reconnecting,
    /// What is recorded is old.
    JournalLag,
}

struct Note {
    trouble: Trouble,
    subject: String,
    detail: String,
    last: Instant,
}

impl Trouble {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Poison => "poison",
            Self::Unreadable => "unreadable",
            Self::Reconnecting => "reconnecting",
            Self::JournalLag => "journal_lag",
        }
    }

    /// Notes it; what was noted of the same subject before is replaced.
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

/// Everything that is recent, the oldest first: kind, subject and detail.
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
