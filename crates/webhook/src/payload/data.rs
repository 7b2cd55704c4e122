//! The field `data` of each event type.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{EndpointId, EventType, LeadId};

use super::About;

/// The fields of `data` of all types together, in the order of the contract's examples. Each type has some of
/// them.
#[derive(Serialize, Default)]
struct Fields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    lead_id: Option<&'a LeadId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_id: Option<&'a EndpointId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_data: Option<InputData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    research_results: Option<ResearchResults>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generated_content: Option<GeneratedContent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    viewer_ip: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generated_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    viewed_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinged_at: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InputData {
    full_name: &'static str,
    company: &'static str,
    email: &'static str,
}

#[derive(Serialize)]
struct ResearchResults {
    company_info: &'static str,
    industry_insights: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GeneratedContent {
    content_length: u64,
}

#[derive(Serialize)]
struct Failed {
    code: &'static str,
    message: &'static str,
}

const RESEARCH: ResearchResults = ResearchResults {
    company_info: "...",
    industry_insights: "...",
};
const CONTENT: GeneratedContent = GeneratedContent { content_length: 4521 };

pub(super) fn of(event_type: EventType, about: &About) -> Box<RawValue> {
    let at_ms = Some(about.timestamp_ms);
    let lead = |status| Fields {
        lead_id: Some(&about.lead_id),
        status,
        ..Fields::default()
    };
    let processing = || lead(Some("processing"));
    raw(&match event_type {
        EventType::LeadCreated => Fields {
            input_data: Some(InputData {
                full_name: "John Smith",
                company: "Acme Corp",
                email: "john@acme.com",
            }),
            created_at: at_ms,
            ..processing()
        },
        EventType::ResearchStarted => Fields {
            started_at: at_ms,
            ..processing()
        },
        EventType::ResearchCompleted => Fields {
            research_results: Some(RESEARCH),
            completed_at: at_ms,
            ..processing()
        },
        EventType::ResearchFailed => Fields {
            error: Some(Failed {
                code: "api_limit",
                message: "the search API refused further requests",
            }),
            failed_at: at_ms,
            ..processing()
        },
        EventType::MagnetGenerated => Fields {
            generated_content: Some(CONTENT),
            generated_at: at_ms,
            ..processing()
        },
        EventType::LeadCompleted => Fields {
            research_results: Some(RESEARCH),
            generated_content: Some(CONTENT),
            completed_at: at_ms,
            ..lead(Some("completed"))
        },
        EventType::LeadFailed => Fields {
            error: Some(Failed {
                code: "generation_failed",
                message: "no content after 3 attempts",
            }),
            failed_at: at_ms,
            ..lead(Some("failed"))
        },
        EventType::MagnetViewed => Fields {
            viewer_ip: Some("203.0.113.42"),
            user_agent: Some("Mozilla/5.0..."),
            viewed_at: at_ms,
            ..lead(None)
        },
    })
}

pub(super) fn of_ping(endpoint_id: &EndpointId, at_ms: u64) -> Box<RawValue> {
    raw(&Fields {
        endpoint_id: Some(endpoint_id),
        pinged_at: Some(at_ms),
        ..Fields::default()
    })
}

fn raw(data: &Fields<'_>) -> Box<RawValue> {
    to_raw_value(data).expect("every key is a string, and no value fails to serialize")
}
