//! The closed set of event types, and the ping, which is not one of them.

use std::fmt;

use strum::{Display, EnumString, IntoStaticStr, VariantNames};

/// What happened to a lead or its magnet (public contract, "Event Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Display, EnumString, IntoStaticStr, VariantNames)]
#[strum(parse_err_ty = UnknownEventType, parse_err_fn = unknown)]
pub enum EventType {
    /// `lead.created`: a generation request was received and queued.
    #[strum(serialize = "lead.created")]
    LeadCreated,
    /// `research.started`: the research agent started.
    #[strum(serialize = "research.started")]
    ResearchStarted,
    /// `research.completed`: the research is done, and the generation is about to begin.
    #[strum(serialize = "research.completed")]
    ResearchCompleted,
    /// `research.failed`: the research agent encountered an error.
    #[strum(serialize = "research.failed")]
    ResearchFailed,
    /// `magnet.generated`: the content was generated.
    #[strum(serialize = "magnet.generated")]
    MagnetGenerated,
    /// `lead.completed`: the magnet is ready to be viewed.
    #[strum(serialize = "lead.completed")]
    LeadCompleted,
    /// `lead.failed`: the generation failed permanently.
    #[strum(serialize = "lead.failed")]
    LeadFailed,
    /// `magnet.viewed`: a recipient opened the magnet.
    #[strum(serialize = "magnet.viewed")]
    MagnetViewed,
}

/// The name of a ping on the wire.
pub const PING: &str = "webhook.ping";

/// The kind of event that a delivery carries: a published event of one of the contract's types, or a ping,
/// which cannot be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A published event of this type.
    Of(EventType),
    /// A ping ([`PING`]), which tests whether an endpoint answers.
    Ping,
}

/// An event type that is not one of [`EventType::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown event type {0:?}{meant}; expected one of {known}",
    meant = did_you_mean(.0),
    known = EventType::VARIANTS.join(", ")
)]
pub struct UnknownEventType(pub String);

/// Returns a hint that names the most similar known type; empty if none is within three edits of the name.
fn did_you_mean(name: &str) -> String {
    const SLIPS_MAX: usize = 3;
    let name = name.to_lowercase();
    let slips = |known: EventType| strsim::osa_distance(&name, known.as_str());
    let nearest = EventType::ALL
        .into_iter()
        .map(|known| (slips(known), known))
        .filter(|(slips, _)| *slips <= SLIPS_MAX)
        .min_by_key(|(slips, _)| *slips);
    nearest.map_or_else(String::new, |(_, known)| format!(" (did you mean \"{known}\"?)"))
}

impl EventType {
    /// All types, in the order in which they occur for a lead.
    pub const ALL: [Self; 8] = [
        Self::LeadCreated,
        Self::ResearchStarted,
        Self::ResearchCompleted,
        Self::ResearchFailed,
        Self::MagnetGenerated,
        Self::LeadCompleted,
        Self::LeadFailed,
        Self::MagnetViewed,
    ];

    /// Returns the name on the wire, such as `lead.completed`; also the AMQP routing key.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Returns the part before the dot: `lead`, `research` or `magnet`.
    pub fn family(self) -> &'static str {
        self.as_str()
            .split_once('.')
            .map_or(self.as_str(), |(family, _)| family)
    }
}

impl EventKind {
    /// Returns the name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Of(event_type) => event_type.as_str(),
            Self::Ping => PING,
        }
    }

    /// Returns the event type; `None` for a ping.
    pub const fn event_type(self) -> Option<EventType> {
        match self {
            Self::Of(event_type) => Some(event_type),
            Self::Ping => None,
        }
    }
}

impl From<EventType> for EventKind {
    fn from(event_type: EventType) -> Self {
        Self::Of(event_type)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for EventKind {
    type Err = UnknownEventType;

    fn from_str(name: &str) -> Result<Self, UnknownEventType> {
        if name == PING {
            return Ok(Self::Ping);
        }
        name.parse().map(Self::Of)
    }
}

fn unknown(name: &str) -> UnknownEventType {
    UnknownEventType(name.to_owned())
}
