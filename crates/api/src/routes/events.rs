//! Events: publishing them, and the state of their deliveries.

pub(super) mod journal;
pub(super) mod tail;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use producer::Serialized;
use runtime::now_ms;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use webhook::{EVENT_BYTES_MAX, Envelope, EventId, EventType, FieldRejection, OrganizationId, Rejection};
use wire::{Published, PublishedBatch};

use crate::{
    caller::{Caller, ORGANIZATION},
    context::Context,
    extract::{JsonBytes, parse, pointer_name},
    problem::{FieldError, Kind, Problem},
};

/// The maximum number of events in a batch.
const BATCH_MAX: usize = 500;
/// The maximum number of errors that are reported for a batch.
const ERRORS_MAX: usize = 20;
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const TRACEPARENT: &str = "traceparent";
/// The maximum length of a trace context, the same as for AMQP publishers. Longer ones are ignored.
const TRACEPARENT_CHARS_MAX: usize = 256;

/// An event, as it is signed and delivered. Fields that are not listed here are delivered, too.
#[derive(ToSchema)]
#[schema(as = Event)]
#[expect(
    dead_code,
    reason = "it only describes events, whose bytes are not deserialized"
)]
pub(super) struct EventBody {
    #[schema(schema_with = wire::schema::event_type)]
    event: String,
    /// When the event occurred, in Unix milliseconds. No two events of the same lead have the same timestamp.
    #[schema(
        minimum = 978_307_200_000_i64,
        maximum = 4_133_980_799_999_i64,
        example = 1_703_123_456_789_i64
    )]
    timestamp: u64,
    /// The organization of the event: the one that the request is for, or, with a platform key and without
    /// Magnetite-Organization, any. At most 255 bytes of UTF-8, as are the other ids.
    #[schema(min_length = 1, max_length = 255, example = "org_123abc")]
    organization_id: String,
    /// The project of the event.
    #[schema(min_length = 1, max_length = 255, example = "proj_456def")]
    project_id: String,
    /// The lead that the event is about.
    #[schema(min_length = 1, max_length = 255, example = "lead_789ghi")]
    lead_id: String,
    /// The data of the event; `GET /v1/event-types` has the schema for each type.
    #[schema(value_type = Object, example = json!({
        "lead_id": "lead_789ghi",
        "status": "completed",
        "completed_at": 1_703_123_456_789_i64,
        "research_results": {},
        "generated_content": {"contentLength": 5230},
    }))]
    data: (),
}

/// Publish an event.
///
/// 202 means that the broker has stored the event on disk. It is delivered, byte for byte as in the body, to
/// every endpoint that subscribes to it. Without Idempotency-Key, its id is derived from the body, so that
/// publishing the same body again publishes the same event. If you receive no response, publish the event
/// again.
#[utoipa::path(
    post,
    path = "/v1/events",
    operation_id = "publishEvent",
    tag = "Events",
    security(("api_key" = ["events:write"])),
    params(
        (
            "Idempotency-Key" = Option<String>, Header,
            description = "The event's id: 1 to 128 characters of A-Z a-z 0-9 _ -. Never use one id for two different events. An event that is published twice may be delivered twice, with the same webhook-id.",
            min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9_-]+$", example = "lead_789ghi-completed",
        ),
        (
            "traceparent" = Option<String>, Header,
            description = "The W3C trace context that the attempts belong to. It is ignored if it is not valid.",
            example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    ),
    request_body(content = EventBody, example = json!(webhook::example(EventType::LeadCompleted))),
    responses(
        (status = 202, description = "The broker has stored the event.", body = Published),
        (status = 503, description = "It is not known whether the broker has stored the event. Publish it again."),
    ),
)]
pub(super) async fn publish(
    State(context): State<Context>,
    caller: Caller,
    headers: HeaderMap,
    JsonBytes(body): JsonBytes,
) -> Result<(StatusCode, Json<Published>), Problem> {
    let message_id = idempotency_key(&headers)?;
    let envelope = Envelope::entering(&body, now_ms()).map_err(|rejection| rejected(&rejection, ""))?;
    if let Some(organization) = mismatched(&envelope, &caller) {
        return Err(of_other(vec![foreign("", organization)], organization));
    }
    let event = Serialized {
        message_id,
        traceparent: traceparent(&headers),
        body,
    };
    let id = context.publishing.publish(event).await?;
    let published = Published { id: id.to_string() };
    Ok((StatusCode::ACCEPTED, Json(published)))
}

/// Publish many events at once.
///
/// The body is an array of at most 500 events, each of which is published as `publishEvent` does; its id is
/// derived from its text. If one of them is not valid, or belongs to another organization than the request,
/// none is published, and `errors` names up to 20 of the fields to correct. After any other error, some may
/// have been published: publish all of them again. Their ids stay the same, but an endpoint may receive an
/// event twice.
#[utoipa::path(
    post,
    path = "/v1/events/batch",
    operation_id = "publishEvents",
    tag = "Events",
    security(("api_key" = ["events:write"])),
    params(
        (
            "traceparent" = Option<String>, Header,
            description = "The W3C trace context that the attempts belong to. It is ignored if it is not valid.",
            example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    ),
    request_body(
        content = Vec<EventBody>,
        description = "1 to 500 events.",
        example = json!([webhook::example(EventType::LeadCreated), webhook::example(EventType::ResearchCompleted)]),
    ),
    responses(
        (status = 202, description = "The broker has stored all events.", body = PublishedBatch),
        (status = 503, description = "It is not known whether the broker has stored all events. Publish them again."),
    ),
)]
pub(super) async fn publish_batch(
    State(context): State<Context>,
    caller: Caller,
    headers: HeaderMap,
    JsonBytes(body): JsonBytes,
) -> Result<(StatusCode, Json<PublishedBatch>), Problem> {
    if headers.contains_key(IDEMPOTENCY_KEY) {
        return Err(Problem::parameter(
            "Idempotency-Key",
            "expected no Idempotency-Key for a batch: the id of each event is derived from its text",
        ));
    }
    let traceparent = traceparent(&headers);
    let events = batch(&body, &caller)?.into_iter().map(|body| Serialized {
        message_id: None,
        traceparent: traceparent.clone(),
        body,
    });
    let ids = context
        .publishing
        .publish_batch(&events.collect::<Vec<_>>())
        .await?;
    let published = PublishedBatch {
        ids: ids.iter().map(EventId::to_string).collect(),
    };
    Ok((StatusCode::ACCEPTED, Json(published)))
}

/// Returns the events of an array, as slices of the body.
fn batch(body: &Bytes, caller: &Caller) -> Result<Vec<Bytes>, Problem> {
    let events: Vec<&RawValue> = parse(body)?;
    if !(1..=BATCH_MAX).contains(&events.len()) {
        return Err(Problem::field("", format!("expected 1 to {BATCH_MAX} events")));
    }
    let (mut errors, mut of_others, now_ms) = (Vec::new(), Vec::new(), now_ms());
    for (index, event) in events.iter().enumerate() {
        match Envelope::entering(event.get().as_bytes(), now_ms) {
            Ok(envelope) => {
                let mismatched = mismatched(&envelope, caller);
                of_others.extend(mismatched.map(|organization| foreign(&format!("/{index}"), organization)));
            }
            Err(rejection) => errors.extend(field_errors(&rejection, &format!("/{index}"))),
        }
    }
    let is_invalid = !errors.is_empty();
    errors.append(&mut of_others);
    errors.truncate(ERRORS_MAX);
    match &caller.organization {
        _ if is_invalid => Err(Problem::fields(errors)),
        Some(organization) if !errors.is_empty() => Err(of_other(errors, organization)),
        _ => Ok(events
            .iter()
            .map(|event| body.slice_ref(event.get().as_bytes()))
            .collect()),
    }
}

/// Returns the organization that the request is for, if the event belongs to another one. A request that is
/// for no single organization may publish events of any.
fn mismatched<'a>(envelope: &Envelope, caller: &'a Caller) -> Option<&'a OrganizationId> {
    let organization = caller.organization.as_ref();
    organization.filter(|organization| envelope.organization_id != organization.as_str())
}

/// Returns the error of the event at this pointer in the body, which belongs to another organization than the
/// request.
fn foreign(event: &str, organization: &OrganizationId) -> FieldError {
    FieldError::at(
        format!("{event}/organization_id"),
        format!("expected {organization}, the organization that the request is for"),
    )
}

/// Returns the problem for events of another organization than that of the request.
fn of_other(errors: Vec<FieldError>, organization: &OrganizationId) -> Problem {
    let detail = format!(
        "Use a key of the event's organization or, with a platform key, name that organization in {ORGANIZATION}; this request is for {organization}."
    );
    Problem::new(Kind::OtherOrganization, detail).with_errors(errors)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let id = key.to_str().ok().and_then(EventId::from_message_id);
    id.map(|id| Some(id.to_string())).ok_or_else(|| {
        Problem::parameter(
            "Idempotency-Key",
            "expected 1 to 128 characters of A-Z a-z 0-9 _ -",
        )
    })
}

/// Returns the trace context. An invalid header is ignored, because it is no reason to refuse an event.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    (text.len() <= TRACEPARENT_CHARS_MAX).then(|| text.to_owned())
}

/// Returns the problem for a body that is not a valid event.
fn rejected(rejection: &Rejection, pointer: &str) -> Problem {
    match rejection {
        Rejection::TooLarge { .. } => Problem::new(
            Kind::TooLarge,
            format!("An event has at most {EVENT_BYTES_MAX} bytes: send less in `data`."),
        ),
        Rejection::NotJson { .. } | Rejection::InvalidUtf8 { .. } => {
            Problem::new(Kind::MalformedRequest, format!("{}.", capitalized(rejection)))
        }
        _ => Problem::fields(field_errors(rejection, pointer)),
    }
}

fn capitalized(rejection: &Rejection) -> String {
    let text = rejection.to_string();
    let mut chars = text.chars();
    chars
        .next()
        .map_or(text.clone(), |first| first.to_uppercase().chain(chars).collect())
}

/// Returns the errors of the event at this pointer in the body: one for each invalid field, or one for the
/// event as a whole.
fn field_errors(rejection: &Rejection, event: &str) -> Vec<FieldError> {
    let of_field = |wrong: &FieldRejection| {
        let pointer = format!("{event}/{}", pointer_name(wrong.field()));
        FieldError::at(pointer, wrong.to_string())
    };
    match rejection {
        Rejection::Fields(fields) => fields.iter().map(of_field).collect(),
        _ => vec![FieldError::at(event, rejection.to_string())],
    }
}
