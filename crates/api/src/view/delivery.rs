//! Deliveries and their attempts.

use serde::Serialize;
use store::{AttemptRow, DeliveryRow};
use utoipa::ToSchema;

use super::words;
use service::story::Run;

/// One event's way to one endpoint, in one run.
#[derive(Debug, Serialize, ToSchema)]
pub struct Delivery {
    /// Its id, which the endpoint gets in `X-Magnetite-Delivery`.
    #[schema(example = "dlv_958343c375fad16b091b931f14abe353")]
    pub id: String,
    /// Whose event and endpoint they are.
    #[schema(example = "org_123abc")]
    pub organization_id: String,
    /// What is delivered.
    #[schema(example = "evt_e3857281de58d21d48b287e274b6f6c0")]
    pub event_id: String,
    /// Where to.
    #[schema(example = "ep_8e0d3e107685e7013e1070dba5f85cc2")]
    pub endpoint_id: String,
    /// 0, and one more each time that it is sent again.
    #[schema(example = 0)]
    pub run: u32,
    /// What began it: `event`, `resend` or `ping`.
    #[schema(example = "event")]
    pub trigger: String,
    /// How far it is.
    #[schema(schema_with = crate::schema::delivery_state)]
    pub state: String,
    /// How many attempts were made.
    #[schema(example = 10)]
    pub attempt_count: u32,
    /// The earliest that is known of it, in Unix milliseconds.
    #[schema(example = 1_703_123_456_790_i64)]
    pub created_ms: u64,
    /// When it came into its state, in Unix milliseconds.
    #[schema(example = 1_703_123_607_790_i64)]
    pub updated_ms: u64,
    /// When the next attempt is due, in Unix milliseconds; null when there is none.
    pub next_attempt_ms: Option<u64>,
    /// Why it is dead or cancelled, or was put off.
    #[schema(example = "exhausted")]
    pub reason: Option<String>,
    /// The HTTP status of the last attempt, if there was a response.
    #[schema(example = 500)]
    pub last_status: Option<u16>,
    /// What the last attempt met, in words.
    #[schema(example = "status 500")]
    pub last_error: Option<String>,
    /// When somebody asked for it to be sent again, in Unix milliseconds; null for the run that came with the event.
    pub requested_ms: Option<u64>,
    /// When what was asked for was put into the queue, in Unix milliseconds.
    pub sent_ms: Option<u64>,
}

/// A delivery, and every attempt at it.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryWithAttempts {
    /// The delivery.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// In the order in which they began.
    pub attempts: Vec<Attempt>,
}

/// One request to an endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub struct Attempt {
    /// Its id.
    #[schema(example = "att_018c8a11931f3f2c8a4d5e6f70819203")]
    pub id: String,
    /// From 1 on, within the run. While two secrets are valid, two requests can have one number.
    #[schema(example = 1)]
    pub number: u32,
    /// When it began, in Unix milliseconds.
    #[schema(example = 1_703_123_456_799_i64)]
    pub began_ms: u64,
    /// How long it took, in milliseconds.
    #[schema(example = 34)]
    pub duration_ms: u64,
    /// The HTTP status, if there was a response.
    #[schema(example = 500)]
    pub status: Option<u16>,
    /// How far it came, if there was no response: `resolve`, `connect`, `tls`, `send` or `response`.
    pub phase: Option<String>,
    /// What went wrong, if there was no response, such as `connection_refused`.
    pub failure: Option<String>,
    /// The failure in words.
    #[schema(example = "status 500")]
    pub error: Option<String>,
    /// The beginning of the response's body.
    #[schema(example = "Internal Server Error")]
    pub response: String,
    /// What followed: `delivered`, `retry`, `deferred`, `dead` or `cancelled`.
    #[schema(example = "retry")]
    pub outcome: String,
    /// When the next attempt was due, in Unix milliseconds, if there was to be one.
    #[schema(example = 1_703_123_457_833_i64)]
    pub next_attempt_ms: Option<u64>,
    /// Why it was dead, cancelled or put off.
    pub reason: Option<String>,
}

impl Delivery {
    /// As its organization may see it.
    #[must_use]
    pub fn for_customers(self) -> Self {
        Self {
            last_error: self.last_error.map(words::for_customers),
            ..self
        }
    }
}

impl DeliveryWithAttempts {
    /// As its organization may see it.
    #[must_use]
    pub fn for_customers(self) -> Self {
        Self {
            delivery: self.delivery.for_customers(),
            attempts: self.attempts.into_iter().map(Attempt::for_customers).collect(),
        }
    }
}

impl Attempt {
    /// As its organization may see it.
    #[must_use]
    pub fn for_customers(self) -> Self {
        Self {
            error: self.error.map(words::for_customers),
            ..self
        }
    }
}

impl From<&DeliveryRow> for Delivery {
    fn from(row: &DeliveryRow) -> Self {
        let (of, standing) = (&row.delivery, &row.standing);
        Self {
            id: row.id.to_string(),
            organization_id: of.organization_id.to_string(),
            event_id: of.event_id.to_string(),
            endpoint_id: of.endpoint_id.to_string(),
            run: of.run,
            trigger: of.trigger.to_string(),
            state: standing.state.to_string(),
            attempt_count: standing.attempts,
            created_ms: row.created_ms,
            updated_ms: standing.updated_ms,
            next_attempt_ms: Some(standing.next_ms).filter(|next_ms| *next_ms > 0),
            reason: said(&standing.reason),
            last_status: Some(standing.last_status).filter(|status| *status > 0),
            last_error: said(&standing.last_error),
            requested_ms: row.requested_ms,
            sent_ms: row.sent_ms,
        }
    }
}

impl From<&Run> for DeliveryWithAttempts {
    fn from(run: &Run) -> Self {
        Self {
            delivery: Delivery::from(&run.delivery),
            attempts: run.attempts.iter().map(Attempt::from).collect(),
        }
    }
}

impl From<&AttemptRow> for Attempt {
    fn from(row: &AttemptRow) -> Self {
        Self {
            id: row.id.to_string(),
            number: row.number,
            began_ms: row.began_ms,
            duration_ms: row.duration_ms,
            status: row.status,
            phase: said(&row.phase),
            failure: said(&row.failure),
            error: said(&row.error),
            response: String::from_utf8_lossy(&row.response).into_owned(),
            outcome: row.outcome.clone(),
            next_attempt_ms: row.next_ms,
            reason: said(&row.reason),
        }
    }
}

/// Nothing instead of an empty text.
fn said(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
