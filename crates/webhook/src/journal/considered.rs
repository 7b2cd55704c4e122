//! The endpoints that were considered for an event, in one compact field.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{Disabled, DisabledReason, Endpoint, EndpointId, Event, Mismatch, ProjectId, Subscription};

/// Endpoints of an event's organization at the time of the fan-out, and why each of them got the event or did
/// not. Sorted by id.
///
/// The text format has one word for each endpoint: `ep_1:matched ep_2:project ep_3:event_type
/// ep_4:disabled.gone.1703123456789`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Considered(Vec<(EndpointId, Verdict)>);

/// The reason why an endpoint got an event or did not. If an event was fanned out more than once, the
/// greatest verdict is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The endpoint belongs to another project.
    Project,
    /// The endpoint does not subscribe to the event type.
    EventType,
    /// The endpoint was disabled; it would have matched otherwise.
    Disabled {
        /// When the endpoint was disabled, in Unix milliseconds.
        at_ms: i64,
        /// Why the endpoint was disabled.
        reason: DisabledReason,
    },
    /// The endpoint got the event.
    Matched,
}

/// A text that is not a valid [`Considered`] or [`Verdict`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a valid verdict about an endpoint")]
pub struct BadConsidered(String);

impl Verdict {
    /// Returns the verdict about `event` for an endpoint of its organization.
    pub fn of(endpoint: &Endpoint, event: &Event) -> Self {
        let project_id = endpoint.project_id.as_ref();
        Self::at(
            project_id,
            &endpoint.subscription,
            endpoint.disabled.as_ref(),
            event,
        )
    }

    /// Returns the verdict about `event` for an endpoint of its organization with this project and
    /// subscription.
    ///
    /// An endpoint without a project gets the events of all projects.
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
    /// Adds the endpoints of `other`.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
        self.sort();
    }

    /// Returns every endpoint with its verdict, ordered by id.
    pub fn iter(&self) -> impl Iterator<Item = (&EndpointId, Verdict)> {
        self.0.iter().map(|(endpoint, verdict)| (endpoint, *verdict))
    }

    /// Returns the verdict for one endpoint; `None` if it was not considered.
    pub fn get(&self, endpoint: &EndpointId) -> Option<Verdict> {
        let found = self.0.binary_search_by(|(known, _)| known.cmp(endpoint));
        found.ok().map(|at| self.0[at].1)
    }

    /// Sorts by endpoint id, and keeps only the greatest verdict for each endpoint.
    fn sort(&mut self) {
        self.0
            .sort_unstable_by(|(one, verdict), (other, than)| one.cmp(other).then(than.cmp(verdict)));
        self.0.dedup_by(|(later, _), (kept, _)| later == kept);
    }

    /// Returns the endpoints that got the event.
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
