//! Who was considered for an event, in one compact field.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{Disabled, DisabledReason, Endpoint, EndpointId, Event, Mismatch, ProjectId, Subscription};

/// Endpoints of an event's organization at the time of the fan-out, and why each got the event or did not;
/// sorted by id.
///
/// As text, one word for each endpoint: `ep_1:matched ep_2:project ep_3:event_type
/// ep_4:disabled.gone.1703123456789`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Considered(Vec<(EndpointId, Verdict)>);

/// Why an endpoint got an event, or did not. Ordered: the later one wins when an event was fanned out more
/// than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The endpoint is another project's.
    Project,
    /// The endpoint does not subscribe to the type.
    EventType,
    /// It would have matched, and was disabled.
    Disabled {
        /// Since when, in Unix milliseconds.
        at_ms: i64,
        /// Why.
        reason: DisabledReason,
    },
    /// It got the event.
    Matched,
}

/// A text that is no [`Considered`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not say what became of an endpoint")]
pub struct BadConsidered(String);

impl Verdict {
    /// What becomes of `event` at an endpoint of its organization.
    pub fn of(endpoint: &Endpoint, event: &Event) -> Self {
        let project_id = endpoint.project_id.as_ref();
        Self::at(
            project_id,
            &endpoint.subscription,
            endpoint.disabled.as_ref(),
            event,
        )
    }

    /// Returns what becomes of `event` at an endpoint of its organization with this project and subscription.
    /// Without a project it takes the events of all.
    pub fn at(
        project_id: Option<&ProjectId>,
        subscription: &Subscription,
        disabled: Option<&Disabled>,
        event: &Event,
    ) -> Self {
        match (Mismatch::of(project_id, subscription, disabled, event), disabled) {
            (None, _) => Self::Matched,
            (Some(Mismatch::Project), _) => Self::Project,
            (Some(Mismatch::Disabled), Some(Disabled { reason, at_ms })) => Self::Disabled {
                at_ms: *at_ms,
                reason: *reason,
            },
            (Some(Mismatch::EventType | Mismatch::Disabled), _) => Self::EventType,
        }
    }
}

impl Considered {
    /// Unites the two.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
        self.sort();
    }

    /// Every endpoint with its verdict, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&EndpointId, Verdict)> {
        self.0.iter().map(|(endpoint, verdict)| (endpoint, *verdict))
    }

    /// What became of one endpoint.
    pub fn get(&self, endpoint: &EndpointId) -> Option<Verdict> {
        let found = self.0.binary_search_by(|(known, _)| known.cmp(endpoint));
        found.ok().map(|at| self.0[at].1)
    }

    /// One verdict for each endpoint, by id.
    fn sort(&mut self) {
        self.0
            .sort_unstable_by(|(one, verdict), (other, than)| one.cmp(other).then(than.cmp(verdict)));
        self.0.dedup_by(|(later, _), (kept, _)| later == kept);
    }

    /// The endpoints that got the event.
    pub fn matched(&self) -> impl Iterator<Item = &EndpointId> {
        self.iter()
            .filter(|(_, verdict)| *verdict == Verdict::Matched)
            .map(|(endpoint, _)| endpoint)
    }
}

impl FromIterator<(EndpointId, Verdict)> for Considered {
    fn from_iter<I: IntoIterator<Item = (EndpointId, Verdict)>>(verdicts: I) -> Self {
        let mut considered = Self(verdicts.into_iter().collect());
        considered.sort();
        considered
    }
}

impl fmt::Display for Considered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (endpoint, verdict)) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{endpoint}:{verdict}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Project => f.write_str("project"),
            Self::EventType => f.write_str("event_type"),
            Self::Disabled { at_ms, reason } => write!(f, "disabled.{reason}.{at_ms}"),
            Self::Matched => f.write_str("matched"),
        }
    }
}

impl FromStr for Considered {
    type Err = BadConsidered;

    fn from_str(text: &str) -> Result<Self, BadConsidered> {
        let word = |word: &str| {
            let (endpoint, verdict) = word.rsplit_once(':')?;
            Some((EndpointId::new(endpoint), verdict.parse().ok()?))
        };
        text.split_ascii_whitespace()
            .map(|text| word(text).ok_or_else(|| BadConsidered(text.to_owned())))
            .collect()
    }
}

impl FromStr for Verdict {
    type Err = BadConsidered;

    fn from_str(text: &str) -> Result<Self, BadConsidered> {
        let bad = || BadConsidered(text.to_owned());
        Ok(match text {
            "project" => Self::Project,
            "event_type" => Self::EventType,
            "matched" => Self::Matched,
            _ => {
                let disabled = text
                    .strip_prefix("disabled.")
                    .and_then(|rest| rest.split_once('.'));
                let (reason, at_ms) = disabled.ok_or_else(bad)?;
                Self::Disabled {
                    at_ms: at_ms.parse().map_err(|_| bad())?,
                    reason: reason.parse().map_err(|_| bad())?,
                }
            }
        })
    }
}

impl Serialize for Considered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for Considered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}
