//! The assessment of an audit: what is right, what is wrong, and what to do about it. A pure function of the
//! journal and the queues.

use std::time::Duration;

use store::Audit;

use super::{
    Marked, Queues,
    finding::{
        Finding, awaited, in_hand, incomplete, late_ones, lost_batches, nowhere, unbalanced, unequal,
        unrecorded, vanished,
    },
};
use crate::resend::IN_HAND;

/// The overall result of an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Every delivery is accounted for, except for what gaps hide.
    Balance,
    /// Nothing is known to be wrong, but not everything is known yet.
    NotKnown {
        /// When it can be known, in Unix milliseconds.
        ask_again_ms: u64,
    },
    /// Something is wrong.
    Wrong {
        /// The number of findings.
        failures: usize,
    },
}

/// The journal's sums, the queues, and the findings.
pub struct Assessment {
    /// The counts of the journal.
    pub audit: Audit,
    /// Messages in quarantine, by reason.
    pub rejected: Vec<(String, u64)>,
    /// The numbers of messages in the queues.
    pub queues: Queues,
    /// The audited range of time, in Unix milliseconds.
    pub window_ms: (u64, u64),
    /// What is wrong, or may be.
    pub findings: Vec<Finding>,
}

impl Assessment {
    /// Creates the assessment. `window_ms` is the audited range of time. `late` is the time after which a
    /// delivery must have ended.
    pub fn new(
        audit: Audit,
        rejected: Vec<(String, u64)>,
        queues: Queues,
        marked: &Marked,
        window_ms: (u64, u64),
        late: Duration,
    ) -> Self {
        let now_ms = window_ms.1;
        let in_hand_ms = IN_HAND.as_millis() as u64;
        let findings = [
            lost_batches(&audit.lost, now_ms),
            unequal(&audit),
            unbalanced(&audit.unbalanced),
            awaited(&audit, in_hand_ms),
            unrecorded(&audit.unrecorded),
            late_ones(&audit.late, late),
            nowhere(&audit, queues, late),
            in_hand(&audit, queues, in_hand_ms),
        ];
        let findings = findings.into_iter().flatten();
        let incomplete = incomplete(queues, marked, audit.recorders_heard, now_ms);
        // Records that are not written yet may explain all other findings.
        let known_at_ms = incomplete.as_ref().and_then(Finding::known_at_ms);
        let findings = findings.map(|finding| match known_at_ms {
            Some(at_ms) => finding.known_at(at_ms),
            None => finding,
        });
        Self {
            // Records that are not written yet cannot explain rows that vanished.
            findings: incomplete
                .into_iter()
                .chain(findings)
                .chain(vanished(&audit.vanished))
                .collect(),
            audit,
            rejected,
            queues,
            window_ms,
        }
    }

    /// Returns the overall result.
    pub fn conclusion(&self) -> Conclusion {
        let failures = self.findings.iter().filter(|finding| finding.fails()).count();
        let known_at_ms = self.findings.iter().filter_map(Finding::known_at_ms).max();
        match (failures, known_at_ms) {
            (0, None) => Conclusion::Balance,
            (0, Some(ask_again_ms)) => Conclusion::NotKnown { ask_again_ms },
            (failures, _) => Conclusion::Wrong { failures },
        }
    }

    /// Returns whether a repeated audit a moment later may have fewer findings.
    pub fn may_settle(&self) -> bool {
        let moving = ["incomplete", "in_no_queue", "in_hand", "awaited", "lost_batches"];
        self.findings.iter().any(|finding| moving.contains(&finding.name))
    }
}
