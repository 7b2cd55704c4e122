//! JSON Schemas of the payloads, draft 2020-12. They list the required fields; a payload may have more, and
//! receivers ignore unknown fields.

use serde_json::{Map, Value, json};

use crate::{EventType, ID_BYTES_MAX, PING, TIMESTAMPS_MS};

/// Returns the schema of the whole payload of events of this type. Its `description` says when they happen.
pub fn schema(event_type: EventType) -> Value {
    let fields = data(event_type);
    payload(
        event_type.as_str(),
        description(event_type),
        "The lead that the event is about.",
        &fields,
    )
}

/// Returns the schema of the whole payload of a ping.
pub fn ping_schema() -> Value {
    let fields = [
        ("endpoint_id", text("The endpoint that was pinged.")),
        (
            "pinged_at",
            time("When the ping was made; the same value as `timestamp`."),
        ),
    ];
    let description = "Sent on request, to test whether the endpoint answers. It is not about a lead. If the \
                       endpoint receives the events of all projects, `project_id` is `ping`.";
    payload(
        PING,
        description,
        "Always `ping`, because a ping is not about a lead.",
        &fields,
    )
}

fn payload(event: &str, description: &str, lead: &str, data: &[(&'static str, Value)]) -> Value {
    let fields = [
        ("event", json!({ "const": event })),
        (
            "timestamp",
            time("When the event happened, in Unix milliseconds. The same in every attempt."),
        ),
        (
            "organization_id",
            id("The organization that the event belongs to."),
        ),
        ("project_id", id("The project that the event belongs to.")),
        ("lead_id", id(lead)),
        (
            "data",
            object("The data of the event. Its fields depend on the type.", data),
        ),
    ];
    let mut schema = object(description, &fields);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = event.into();
    schema
}

/// Returns the contract's description of the type ("Event Types").
const fn description(event_type: EventType) -> &'static str {
    match event_type {
        EventType::LeadCreated => {
            "A new lead magnet generation request was received and queued for processing."
        }
        EventType::ResearchStarted => "The research agent starts gathering data for lead personalization.",
        EventType::ResearchCompleted => {
            "Research data collection is complete and content generation is about to begin."
        }
        EventType::ResearchFailed => {
            "The research phase failed due to tool errors, API limits, or other issues."
        }
        EventType::MagnetGenerated => {
            "The AI has successfully generated the personalized lead magnet content."
        }
        EventType::LeadCompleted => "The lead magnet is completely processed and available for viewing.",
        EventType::LeadFailed => "Lead magnet generation failed permanently after all retry attempts.",
        EventType::MagnetViewed => "A recipient opened the generated lead magnet.",
    }
}

fn data(event_type: EventType) -> Vec<(&'static str, Value)> {
    let lead_id = (
        "lead_id",
        text("The lead; the same value as `lead_id` outside of `data`."),
    );
    let status = |status: &str| {
        (
            "status",
            json!({ "const": status, "description": "The status of the lead." }),
        )
    };
    let at = |field| {
        (
            field,
            time("When the event happened; the same value as `timestamp`."),
        )
    };
    let free = |field, what: &str| (field, json!({ "type": "object", "description": what }));
    let input = || free("input_data", "The known data about the lead.");
    let results = || free("research_results", "The results of the research.");
    let content = || {
        let length = json!({ "type": "integer", "minimum": 0, "description": "The length of the content, in characters." });
        let mut content = json!({ "type": "object", "description": "Data about the generated content." });
        content["properties"] = json!({ "contentLength": length });
        ("generated_content", content)
    };
    let error = || {
        let fields = [
            ("code", text("A stable identifier for programs.")),
            ("message", text("A description for people.")),
        ];
        ("error", object("The error that caused the failure.", &fields))
    };
    match event_type {
        EventType::LeadCreated => vec![lead_id, input(), status("processing"), at("created_at")],
        EventType::ResearchStarted => vec![lead_id, status("processing"), at("started_at")],
        EventType::ResearchCompleted => {
            vec![lead_id, status("processing"), results(), at("completed_at")]
        }
        EventType::ResearchFailed => vec![lead_id, status("processing"), error(), at("failed_at")],
        EventType::MagnetGenerated => {
            vec![lead_id, status("processing"), content(), at("generated_at")]
        }
        EventType::LeadCompleted => {
            vec![
                lead_id,
                status("completed"),
                results(),
                content(),
                at("completed_at"),
            ]
        }
        EventType::LeadFailed => vec![lead_id, status("failed"), error(), at("failed_at")],
        EventType::MagnetViewed => {
            let ip = json!({
                "type": "string",
                "description": "The recipient's IP address.",
                "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }],
            });
            let agent = json!({ "type": "string", "description": "The recipient's `User-Agent` header." });
            vec![lead_id, ("viewer_ip", ip), ("user_agent", agent), at("viewed_at")]
        }
    }
}

/// Returns the schema of an object in which all of these fields are required.
fn object(description: &str, fields: &[(&'static str, Value)]) -> Value {
    let properties: Map<String, Value> = fields
        .iter()
        .map(|(name, schema)| ((*name).to_owned(), schema.clone()))
        .collect();
    let required: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    json!({
        "type": "object",
        "description": description,
        "properties": properties,
        "required": required,
    })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "minLength": 1, "description": description })
}

/// Returns the schema of an id. `maxLength` counts characters, while the limit is in bytes; since a character
/// has at least one byte, no valid id exceeds it.
fn id(description: &str) -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": ID_BYTES_MAX, "description": description })
}

fn time(description: &str) -> Value {
    json!({ "type": "integer", "minimum": TIMESTAMPS_MS.start(), "maximum": TIMESTAMPS_MS.end(), "description": description })
}
