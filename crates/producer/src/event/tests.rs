use serde_json::json;

use super::*;

fn lead() -> Lead {
    Lead::new("org_123abc", "proj_456def", "lead_789ghi")
}

fn object(value: &serde_json::Value) -> Object {
    value.as_object().unwrap().clone()
}

fn failure(code: &str, message: &str) -> Failure {
    Failure {
        code: code.to_owned(),
        message: message.to_owned(),
    }
}

fn text(timestamp_ms: u64, data: Data) -> String {
    let body = Event::new(lead(), timestamp_ms, data).serialize().body;
    String::from_utf8(body.to_vec()).unwrap()
}

/// Returns data of every type, in the order of [`EventType::ALL`].
fn every_kind() -> [Data; 8] {
    let research_results = object(&json!({"company_info": "...", "industry_insights": "..."}));
    let generated_content = object(&json!({"contentLength": 4521}));
    [
        Data::LeadCreated {
            input_data: object(
                &json!({"fullName": "John Smith", "company": "Acme Corp", "email": "john@acme.com"}),
            ),
        },
        Data::ResearchStarted,
        Data::ResearchCompleted {
            research_results: research_results.clone(),
        },
        Data::ResearchFailed {
            error: failure("api_limit", "the search API refused further requests"),
        },
        Data::MagnetGenerated {
            generated_content: generated_content.clone(),
        },
        Data::LeadCompleted {
            research_results,
            generated_content,
        },
        Data::LeadFailed {
            error: failure("generation_failed", "no content after 3 attempts"),
        },
        Data::MagnetViewed {
            viewer_ip: "203.0.113.42".parse().unwrap(),
            user_agent: "Mozilla/5.0...".to_owned(),
        },
    ]
}

#[test]
fn the_wire_format_of_every_type_is_fixed() {
    let wire: Vec<_> = every_kind()
        .into_iter()
        .map(|data| text(1_703_123_456_789, data))
        .collect();
    insta::assert_snapshot!(wire.join("\n"), @r#"
    {"event":"lead.created","timestamp":1703123456789,"organization_id":"org_123abc","project_id":"proj_456def","lead_id":"lead_789ghi","data":{"lead_id":"lead_789ghi","input_data":{"company":"Acme Corp","email":"john@acme.com","fullName":"John Smith"},"status":"processing","created_at":1703123456789}}
    {"event":"research.started","timestamp":1703123456789,"organization_id":"org_123abc","project_id":"proj_456def","lead_id":"lead_789ghi","data":{"lead_id":"lead_789ghi","status":"processing","started_at":1703123456789}}
    {"event":"research.completed","timestamp":1703123456789,"organization_id":"org_123abc","project_id":"proj_456def","lead_id":"lead_789ghi","data":{"lead_id":"lead_789ghi","status":"processing","research_results":{"company_info":"...","industry_insights":"..."},"completed_at":1703123456789}}
    {"event":"research.failed","timestamp":1703123456789,"organization_id":"org_123abc","project_id":"proj_456def","lead_id":"lead_789ghi","data":{"lead_id":"lead_789ghi","status":"processing","error":{"code":"api_limit","message":"the search API refused further requests"},"failed_at":1703123456789}}
    {"event":"magnet.generated","timestamp":1703123456789,"organization_id":"org_123abc","project_id":"proj_456def","lead_id":"lead_789ghi","data":{"lead_id":"lead_789ghi","status":"processing","generated_content":{"contentLength":4521},"generated_at":1703123456789}}
    {"event":"lead.completed","timestamp":1703123456789,"organization_id":"org_123abc","project_id":"proj_456def","lead_id":"lead_789ghi","data":{"lead_id":"lead_789ghi","status":"completed","research_results":{"company_info":"...","industry_insights":"..."},"generated_content":{"contentLength":4521},"completed_at":1703123456789}}
    {"event":"lead.failed","timestamp":1703123456789,"organization_id":"org_123abc","project_id":"proj_456def","lead_id":"lead_789ghi","data":{"lead_id":"lead_789ghi","status":"failed","error":{"code":"generation_failed","message":"no content after 3 attempts"},"failed_at":1703123456789}}
    {"event":"magnet.viewed","timestamp":1703123456789,"organization_id":"org_123abc","project_id":"proj_456def","lead_id":"lead_789ghi","data":{"lead_id":"lead_789ghi","viewer_ip":"203.0.113.42","user_agent":"Mozilla/5.0...","viewed_at":1703123456789}}
    "#);
}

#[test]
fn the_documented_examples_are_met_field_by_field() {
    let documented = [
        json!({
            "event": "lead.created", "timestamp": 1_703_123_456_789_u64, "organization_id": "org_123abc",
            "project_id": "proj_456def", "lead_id": "lead_789ghi",
            "data": {
                "lead_id": "lead_789ghi",
                "input_data": {"fullName": "John Smith", "company": "Acme Corp", "email": "john@acme.com"},
                "status": "processing", "created_at": 1_703_123_456_789_u64,
            },
        }),
        json!({
            "event": "lead.completed", "timestamp": 1_703_123_756_789_u64, "organization_id": "org_123abc",
            "project_id": "proj_456def", "lead_id": "lead_789ghi",
            "data": {
                "lead_id": "lead_789ghi", "status": "completed",
                "research_results": {"company_info": "...", "industry_insights": "..."},
                "generated_content": {"contentLength": 4521}, "completed_at": 1_703_123_756_789_u64,
            },
        }),
        json!({
            "event": "magnet.viewed", "timestamp": 1_703_124_056_789_u64, "organization_id": "org_123abc",
            "project_id": "proj_456def", "lead_id": "lead_789ghi",
            "data": {
                "lead_id": "lead_789ghi", "viewer_ip": "203.0.113.42", "user_agent": "Mozilla/5.0...",
                "viewed_at": 1_703_124_056_789_u64,
            },
        }),
    ];
    let [created, _, _, _, _, completed, _, viewed] = every_kind();
    for (data, expected) in [created, completed, viewed].into_iter().zip(documented) {
        let written: serde_json::Value =
            serde_json::from_str(&text(expected["timestamp"].as_u64().unwrap(), data)).unwrap();
        assert_eq!(written, expected);
    }
}

#[test]
fn workers_read_every_type_as_what_it_was_made_as() {
    for (data, event_type) in every_kind().into_iter().zip(EventType::ALL) {
        assert_eq!(data.event_type(), event_type);
        let event = Event::new(lead(), 1_703_123_456_789, data).with_traceparent("00-1-2-01");
        let Serialized {
            body,
            message_id,
            traceparent,
        } = event.serialize();
        let read = webhook::Event::from_message(message_id.as_deref(), traceparent, body).unwrap();
        assert_eq!(read.id, event.id);
        assert_eq!(read.event_type, event_type.into());
        assert_eq!(read.timestamp_ms, 1_703_123_456_789);
        assert_eq!(read.organization_id, event.lead.organization_id);
        assert_eq!(read.project_id, event.lead.project_id);
        assert_eq!(read.lead_id, event.lead.id);
        assert_eq!(read.traceparent.as_deref(), Some("00-1-2-01"));
    }
}

#[test]
fn ids_are_new_for_each_event_and_the_same_event_always_gives_the_same_message() {
    let make = || Event::new(lead(), 7, Data::ResearchStarted);
    let event = make();
    assert_ne!(event.id, make().id);
    assert_eq!(
        EventId::from_message_id(event.id.as_str()),
        Some(event.id.clone())
    );
    assert_eq!(event.serialize(), event.clone().serialize());
    let given = EventId::new("order-17");
    assert_eq!(
        make().with_id(given.clone()).serialize(),
        make().with_id(given).serialize()
    );
}
