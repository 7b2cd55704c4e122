use jsonschema::Validator;
use serde_json::json;

use super::*;
use crate::{Delivery, Endpoint, Event, Trigger};

fn about() -> About {
    About {
        organization_id: OrganizationId::new("org \"1\""),
        project_id: ProjectId::new("proj_ö"),
        lead_id: LeadId::new("lead\\1"),
        timestamp_ms: 1_795_571_999_000,
    }
}

fn validator(schema: &Value) -> Validator {
    let options = jsonschema::draft202012::options().should_validate_formats(true);
    options.build(schema).unwrap()
}

fn assert_valid(schema: &Value, instance: &Value) {
    let errors: Vec<_> = validator(schema)
        .iter_errors(instance)
        .map(|error| format!("{error}"))
        .collect();
    assert!(errors.is_empty(), "{instance}: {errors:?}");
}

fn read(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn ping_of(project: Option<&str>) -> Delivery {
    let endpoint = Endpoint {
        id: EndpointId::new("ep_1"),
        organization_id: OrganizationId::new("org_1"),
        project_id: project.map(ProjectId::new),
        url: "https://example.com".to_owned(),
        subscription: "lead.created".parse().unwrap(),
        secret: signature::Secret::generate([7; 32]),
        previous: None,
        disabled: None,
        version: 1,
        created_at_ms: 0,
        updated_at_ms: 0,
    };
    Delivery::ping(&endpoint, 1_703_123_456_789, [1; 16])
}

#[test]
fn every_schema_is_one_of_draft_2020_12() {
    for schema in EventType::ALL.map(schema).into_iter().chain([ping_schema()]) {
        assert!(jsonschema::draft202012::meta::is_valid(&schema), "{schema}");
        assert!(schema["description"].as_str().unwrap().ends_with('.'), "{schema}");
    }
}

#[test]
fn the_schemas_in_docs_are_these() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schemas");
    let ours = EventType::ALL.map(|event_type| (event_type.as_str(), schema(event_type)));
    for (name, schema) in ours.into_iter().chain([(crate::PING, ping_schema())]) {
        let path = format!("{directory}/{name}.json");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            text,
            format!("{schema:#}\n"),
            "{path} is not up to date: cargo run -p magnetite-webhook --example schemas -- docs/schemas"
        );
    }
    assert_eq!(
        std::fs::read_dir(directory).unwrap().count(),
        EventType::ALL.len() + 1
    );
}

#[test]
fn every_example_and_every_sample_is_valid_by_the_schema_of_its_type_and_of_no_other() {
    for event_type in EventType::ALL {
        let instances = [example(event_type), read(&sample(event_type, &about()))];
        for (instance, other) in instances
            .iter()
            .flat_map(|instance| EventType::ALL.map(|other| (instance, other)))
        {
            let is_valid = validator(&schema(other)).is_valid(instance);
            assert_eq!(is_valid, event_type == other, "{instance} by {other}");
        }
    }
    assert_valid(&ping_schema(), &read(&ping_of(None).event.body));
}

#[test]
fn a_field_that_was_promised_is_required_and_a_new_one_does_no_harm() {
    for event_type in EventType::ALL {
        let (schema, whole) = (schema(event_type), example(event_type));
        for path in ["", "/data"] {
            let fields: Vec<String> = whole
                .pointer(path)
                .unwrap()
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect();
            for field in fields {
                let mut broken = whole.clone();
                broken
                    .pointer_mut(path)
                    .unwrap()
                    .as_object_mut()
                    .unwrap()
                    .remove(&field);
                assert!(
                    !validator(&schema).is_valid(&broken),
                    "{event_type} without {path}/{field}"
                );
            }
        }
        let mut grown = whole.clone();
        grown["new"] = 1.into();
        grown["data"]["new"] = json!({});
        assert_valid(&schema, &grown);
    }
}

#[test]
fn every_sample_passes_the_checks_of_an_event() {
    for event_type in EventType::ALL {
        let event = Event::from_message(None, None, sample(event_type, &about())).unwrap();
        let About {
            organization_id,
            project_id,
            lead_id,
            timestamp_ms,
        } = about();
        assert_eq!(event.event_type, event_type.into());
        assert_eq!(
            (
                event.organization_id,
                event.project_id,
                event.lead_id,
                event.timestamp_ms
            ),
            (organization_id, project_id, lead_id, timestamp_ms)
        );
    }
}

#[test]
fn the_examples_that_the_contract_has_are_the_contracts() {
    let around = |event: &str, timestamp: u64, data: Value| {
        json!({
            "event": event,
            "timestamp": timestamp,
            "organization_id": "org_123abc",
            "project_id": "proj_456def",
            "lead_id": "lead_789ghi",
            "data": data,
        })
    };
    let created = json!({
        "lead_id": "lead_789ghi",
        "input_data": { "fullName": "John Smith", "company": "Acme Corp", "email": "john@acme.com" },
        "status": "processing",
        "created_at": 1_703_123_456_789_u64,
    });
    let completed = json!({
        "lead_id": "lead_789ghi",
        "status": "completed",
        "research_results": { "company_info": "...", "industry_insights": "..." },
        "generated_content": { "contentLength": 4521 },
        "completed_at": 1_703_123_756_789_u64,
    });
    let viewed = json!({
        "lead_id": "lead_789ghi",
        "viewer_ip": "203.0.113.42",
        "user_agent": "Mozilla/5.0...",
        "viewed_at": 1_703_124_056_789_u64,
    });
    for (event_type, timestamp, data) in [
        (EventType::LeadCreated, 1_703_123_456_789, created),
        (EventType::LeadCompleted, 1_703_123_756_789, completed),
        (EventType::MagnetViewed, 1_703_124_056_789, viewed),
    ] {
        assert_eq!(example(event_type), around(event_type.as_str(), timestamp, data));
    }
}

#[test]
fn fields_stand_in_the_contracts_order() {
    let body = sample(
        EventType::ResearchFailed,
        &About::example(EventType::ResearchFailed),
    );
    assert_eq!(
        std::str::from_utf8(&body).unwrap(),
        "{\"event\":\"research.failed\",\"timestamp\":1703123556789,\"organization_id\":\"org_123abc\",\
         \"project_id\":\"proj_456def\",\"lead_id\":\"lead_789ghi\",\"data\":{\"lead_id\":\"lead_789ghi\",\
         \"status\":\"processing\",\"error\":{\"code\":\"api_limit\",\
         \"message\":\"the search API refused further requests\"},\"failed_at\":1703123556789}}"
    );
}

#[test]
fn a_ping_is_an_event_that_is_delivered_and_cannot_be_published() {
    for (project, said) in [(None, "ping"), (Some("proj_1"), "proj_1")] {
        let ping = ping_of(project);
        assert_eq!((ping.trigger, ping.run, ping.attempt), (Trigger::Ping, 0, 1));
        assert_eq!(ping.event.project_id.as_str(), said);
        let (id, body) = (Some(ping.event.id.as_str()), ping.event.body.clone());
        let published = Event::from_message(id, None, body.clone());
        assert_eq!(published.unwrap_err().reason(), "unknown_event_type");
        assert_eq!(Event::from_delivery(id, None, body), Ok((*ping.event).clone()));
    }
}
