//! The stream of what workers record.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A line of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TailLine {
    /// The stream contains what workers record from now on. It is the first line, and follows every
    /// `interrupted`.
    Watching {
        /// When this was so, in Unix milliseconds.
        #[schema(example = 1_703_123_456_789_i64)]
        at_ms: u64,
    },
    /// The connection to the broker is lost. What workers record until the next `watching` is not in the
    /// stream.
    Interrupted {
        /// When the loss was noticed, in Unix milliseconds.
        #[schema(example = 1_703_123_456_789_i64)]
        at_ms: u64,
    },
    /// Lines were left out here, because the reader was too slow.
    Dropped {
        /// When the reader caught up, in Unix milliseconds.
        #[schema(example = 1_703_123_456_789_i64)]
        at_ms: u64,
        /// The number of lines.
        #[schema(example = 12)]
        count: u64,
    },
    /// A worker took an event from its queue.
    Event {
        /// When the worker took the event, in Unix milliseconds.
        #[schema(example = 1_703_123_456_812_i64)]
        at_ms: u64,
        /// The organization that the event belongs to.
        #[schema(example = "org_123abc")]
        organization_id: String,
        /// The id of the event.
        #[schema(example = "evt_e3857281de58d21d48b287e274b6f6c0")]
        event_id: String,
        /// The type of the event.
        #[schema(schema_with = crate::schema::event_kind)]
        event_type: String,
        /// The project that the event belongs to.
        #[schema(example = "proj_456def")]
        project_id: String,
        /// The lead that the event is about.
        #[schema(example = "lead_789ghi")]
        lead_id: String,
        /// The ids of the endpoints that the event matched. An event that matches thousands of endpoints has
        /// several lines, each with a part of them.
        matched: Vec<String>,
    },
    /// A worker sent a request to an endpoint.
    Attempt {
        /// When the attempt ended, in Unix milliseconds.
        #[schema(example = 1_703_123_456_833_i64)]
        at_ms: u64,
        /// The organization that the event belongs to.
        #[schema(example = "org_123abc")]
        organization_id: String,
        /// The id of the event.
        #[schema(example = "evt_e3857281de58d21d48b287e274b6f6c0")]
        event_id: String,
        /// The type of the event; null if it is not known, because the event was received before the stream
        /// began.
        #[schema(example = "lead.completed")]
        event_type: Option<String>,
        /// The id of the endpoint.
        #[schema(example = "ep_8e0d3e107685e7013e1070dba5f85cc2")]
        endpoint_id: String,
        /// The id of the delivery.
        #[schema(example = "dlv_958343c375fad16b091b931f14abe353")]
        delivery_id: String,
        /// The number of the attempt within the run, starting at 1.
        #[schema(example = 1)]
        attempt: u32,
        /// How long the attempt took, in milliseconds.
        #[schema(example = 34)]
        duration_ms: u64,
        /// The HTTP status; null if there was no response.
        #[schema(example = 500)]
        status: Option<u16>,
        /// A description of the failure, such as `status 500`; empty after a 2xx.
        #[schema(example = "status 500")]
        error: String,
        /// What the attempt resulted in.
        #[schema(schema_with = crate::schema::attempt_outcome)]
        outcome: String,
        /// Why the delivery is deferred, dead or cancelled; null otherwise.
        reason: Option<String>,
        /// When the next attempt is due, in Unix milliseconds; null if there is to be none.
        #[schema(example = 1_703_123_457_833_i64)]
        next_ms: Option<u64>,
    },
    /// A delivery was deferred, given up or cancelled without an attempt.
    Outcome {
        /// When this happened, in Unix milliseconds.
        #[schema(example = 1_703_123_456_833_i64)]
        at_ms: u64,
        /// The organization that the event belongs to.
        #[schema(example = "org_123abc")]
        organization_id: String,
        /// The id of the event.
        #[schema(example = "evt_e3857281de58d21d48b287e274b6f6c0")]
        event_id: String,
        /// The type of the event; null if it is not known, because the event was received before the stream
        /// began.
        #[schema(example = "lead.completed")]
        event_type: Option<String>,
        /// The id of the endpoint.
        #[schema(example = "ep_8e0d3e107685e7013e1070dba5f85cc2")]
        endpoint_id: String,
        /// The id of the delivery.
        #[schema(example = "dlv_958343c375fad16b091b931f14abe353")]
        delivery_id: String,
        /// What happened to the delivery.
        #[schema(schema_with = crate::schema::attempt_outcome)]
        outcome: String,
        /// Why the delivery is deferred, dead or cancelled; null otherwise.
        #[schema(example = "endpoint_disabled")]
        reason: Option<String>,
        /// When the next attempt is due, in Unix milliseconds; null if there is to be none.
        next_ms: Option<u64>,
    },
    /// A worker lost records, which are neither in the stream nor in any list. They may be records of other
    /// organizations.
    Gap {
        /// When the last of the records was lost, in Unix milliseconds.
        #[schema(example = 1_703_123_456_833_i64)]
        at_ms: u64,
        /// When the first of the records was lost, in Unix milliseconds.
        #[schema(example = 1_703_123_456_833_i64)]
        from_ms: u64,
        /// The id of the worker.
        worker: String,
        /// The number of records, as an upper bound.
        #[schema(example = 12)]
        count: u64,
    },
}
