//! The event types that an endpoint subscribes to.

use std::{fmt, str::FromStr};

use crate::{EventType, UnknownEventType};

/// One element of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `*`: every type, including types that are added later.
    All,
    /// `research.*`: every type of one family.
    Family(&'static str),
    /// `lead.completed`: one type.
    Exact(EventType),
}

/// A set of patterns, written as a comma-separated list: `lead.completed,research.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    patterns: Vec<Pattern>,
    /// The matching types: bit n stands for `EventType::ALL[n]`. Matching on the delivery path is thus a
    /// single test.
    mask: u16,
}

/// The reason why a text is not a valid subscription.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSubscription {
    /// The text contains no pattern.
    #[error("the subscription is empty; name event types, a family such as research.*, or * for all")]
    Empty,
    /// A pattern `family.*` names an unknown family.
    #[error("unknown event family {0:?}; expected lead.*, research.*, magnet.* or *")]
    UnknownFamily(String),
    /// A pattern is not a known event type.
    #[error(transparent)]
    UnknownType(#[from] UnknownEventType),
}

impl Subscription {
    fn new(patterns: Vec<Pattern>) -> Self {
        let wanted = |event_type| patterns.iter().any(|pattern| pattern.matches(event_type));
        let mask = EventType::ALL
            .into_iter()
            .filter(|event_type| wanted(*event_type))
            .fold(0, |mask, event_type| mask | bit(event_type));
        Self { patterns, mask }
    }

    /// Returns whether the subscription includes events of this type.
    pub fn matches(&self, event_type: EventType) -> bool {
        self.mask & bit(event_type) != 0
    }

    /// Returns the patterns in the order in which they were given, without duplicates.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }
}

const fn bit(event_type: EventType) -> u16 {
    1 << event_type as u16
}

impl Pattern {
    fn matches(self, event_type: EventType) -> bool {
        match self {
            Self::All => true,
            Self::Family(family) => event_type.family() == family,
            Self::Exact(exact) => event_type == exact,
        }
    }
}

impl FromStr for Pattern {
    type Err = BadSubscription;

    fn from_str(text: &str) -> Result<Self, BadSubscription> {
        if text == "*" {
            return Ok(Self::All);
        }
        let Some(family) = text.strip_suffix(".*") else {
            return Ok(Self::Exact(text.parse()?));
        };
        EventType::ALL
            .into_iter()
            .map(EventType::family)
            .find(|known| *known == family)
            .map(Self::Family)
            .ok_or_else(|| BadSubscription::UnknownFamily(text.to_owned()))
    }
}

impl FromStr for Subscription {
    type Err = BadSubscription;

    fn from_str(list: &str) -> Result<Self, BadSubscription> {
        let mut patterns = Vec::new();
        for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let pattern = text.parse()?;
            if !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
        }
        if patterns.is_empty() {
            Err(BadSubscription::Empty)
        } else {
            Ok(Self::new(patterns))
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Family(family) => write!(f, "{family}.*"),
            Self::Exact(event_type) => event_type.fmt(f),
        }
    }
}

impl fmt::Display for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.patterns.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{pattern}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(list: &str) -> Vec<&'static str> {
        let subscription: Subscription = list.parse().unwrap();
        EventType::ALL
            .into_iter()
            .filter(|event_type| subscription.matches(*event_type))
            .map(EventType::as_str)
            .collect()
    }

    #[test]
    fn patterns_match_exact_types_families_and_everything() {
        assert_eq!(matched("lead.completed"), ["lead.completed"]);
        assert_eq!(
            matched("research.*"),
            ["research.started", "research.completed", "research.failed"]
        );
        assert_eq!(
            matched(" magnet.viewed , lead.failed,"),
            ["lead.failed", "magnet.viewed"]
        );
        assert_eq!(matched("*").len(), EventType::ALL.len());
    }

    #[test]
    fn what_is_printed_is_read_back_as_the_same_subscription() {
        for list in [
            "*",
            "research.*",
            "lead.created,magnet.*",
            "lead.created,lead.created",
        ] {
            let read: Subscription = list.parse().unwrap();
            assert_eq!(read.to_string().parse(), Ok(read), "{list}");
        }
    }

    #[test]
    fn unknown_names_are_refused_and_the_error_names_the_known_ones() {
        for (list, word) in [
            ("", "empty"),
            (" , ", "empty"),
            ("lead.complete", "lead.completed"),
            ("leads.*", "research.*"),
            ("*.completed", "expected one of"),
            ("lead.*.x", "expected one of"),
            (".*", "family"),
        ] {
            let error = list.parse::<Subscription>().unwrap_err().to_string();
            assert!(error.contains(word), "{list:?}: {error}");
        }
    }
}
