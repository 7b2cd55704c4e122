use std::sync::Arc;

use bytes::Bytes;
use service::{
    history::{EventHistory, Run},
    view,
};
use signature::Secret;
use store::{AttemptRow, DeliveryRow};
use webhook::{
    AttemptId, Disabled, DisabledReason, Endpoint, EndpointId, Event, EventId, OrganizationId, ProjectId,
    Trigger,
    journal::{Considered, DeliveryRef, EventEntry, Standing},
};

use super::*;

const RECEIVED_MS: u64 = 1_703_123_456_789;
const NOW_MS: u64 = RECEIVED_MS + 180_000;

fn event() -> Arc<Event> {
    let body = r#"{"event":"lead.completed","timestamp":1703123456780,"organization_id":"org_1","project_id":"proj_1","lead_id":"lead_1","data":{}}"#;
    Arc::new(Event::from_message(Some("evt_1"), None, Bytes::from_static(body.as_bytes())).unwrap())
}

fn endpoint(id: &str) -> Endpoint {
    Endpoint {
        id: EndpointId::new(id),
        organization_id: OrganizationId::new("org_1"),
        project_id: None,
        url: format!("https://{id}.example/hook"),
        subscription: "lead.completed".parse().unwrap(),
        secret: Secret::generate([7; 32]),
        previous: None,
        disabled: None,
        version: 1,
        created_at_ms: RECEIVED_MS as i64 - 86_400_000,
        updated_at_ms: RECEIVED_MS as i64 - 86_400_000,
    }
}

fn stored(considered: &str) -> EventEntry {
    EventEntry {
        event: event(),
        received_ms: RECEIVED_MS,
        considered: considered.parse::<Considered>().unwrap(),
        seen: None,
    }
}

fn standing(state: DeliveryState, attempts: u32, updated_ms: u64) -> Standing {
    Standing {
        state,
        attempts,
        updated_ms,
        next_ms: 0,
        reason: String::new(),
        last_status: 0,
        last_error: String::new(),
    }
}

fn delivery(endpoint: &str, run: u32, standing: Standing) -> DeliveryRow {
    let delivery = DeliveryRef {
        organization_id: OrganizationId::new("org_1"),
        event_id: EventId::new("evt_1"),
        endpoint_id: EndpointId::new(endpoint),
        run,
        trigger: if run == 0 { Trigger::Event } else { Trigger::Resend },
    };
    DeliveryRow {
        id: delivery.id(),
        delivery,
        created_ms: RECEIVED_MS,
        standing,
        requested_ms: (run > 0).then_some(RECEIVED_MS + 120_000),
        sent_ms: None,
    }
}

fn attempt(
    number: u32,
    after_ms: u64,
    status: Option<u16>,
    error: &str,
    response: &'static [u8],
) -> AttemptRow {
    let began_ms = RECEIVED_MS + after_ms;
    AttemptRow {
        id: AttemptId::first_at(began_ms),
        delivery_id: delivery("ep_1", 0, standing(DeliveryState::Dead, 1, 0)).id,
        endpoint_id: EndpointId::new("ep_1"),
        number,
        began_ms,
        duration_ms: 20 * u64::from(number),
        status,
        phase: String::new(),
        failure: String::new(),
        error: error.to_owned(),
        response: Bytes::from_static(response),
        outcome: "retry".to_owned(),
        next_ms: None,
        reason: String::new(),
    }
}

fn run(delivery: DeliveryRow, attempts: Vec<AttemptRow>) -> Run {
    Run { delivery, attempts }
}

fn every_run() -> Vec<Run> {
    let dead = Standing {
        reason: "exhausted".to_owned(),
        ..standing(DeliveryState::Dead, 3, RECEIVED_MS + 3_060)
    };
    let retrying = Standing {
        next_ms: NOW_MS + 4_000,
        ..standing(DeliveryState::Pending, 1, NOW_MS - 26_000)
    };
    let sent_again = Standing {
        next_ms: RECEIVED_MS + 120_000,
        ..standing(DeliveryState::Pending, 0, RECEIVED_MS + 120_000)
    };
    vec![
        run(
            delivery("ep_dead", 0, dead.clone()),
            vec![
                attempt(1, 10, Some(500), "status 500", b"\n  <h1>oops\x1b[2J</h1>\nmore"),
                attempt(
                    2,
                    1_030,
                    None,
                    "timeout in response: no response within 30 s",
                    b"",
                ),
                attempt(3, 3_000, Some(502), "status 502", b""),
            ],
        ),
        run(
            delivery(
                "ep_delivered",
                0,
                standing(DeliveryState::Delivered, 1, RECEIVED_MS + 30),
            ),
            vec![attempt(1, 10, Some(204), "", b"")],
        ),
        run(
            delivery("ep_retrying", 0, retrying),
            vec![attempt(1, 154_000, Some(503), "status 503", b"busy")],
        ),
        run(delivery("ep_resent", 1, sent_again), vec![]),
        run(delivery("ep_resent", 0, dead), vec![]),
    ]
}

fn every_endpoint() -> Vec<Endpoint> {
    let mut another_project = endpoint("ep_project");
    another_project.project_id = Some(ProjectId::new("proj_2"));
    let mut other_events = endpoint("ep_type");
    other_events.subscription = "research.*".parse().unwrap();
    let mut disabled = endpoint("ep_disabled");
    disabled.disabled = Some(Disabled {
        reason: DisabledReason::Gone,
        at_ms: RECEIVED_MS as i64 - 60_000,
    });
    let mut newer = endpoint("ep_newer");
    newer.created_at_ms = RECEIVED_MS as i64 + 60_000;
    vec![
        endpoint("ep_dead"),
        endpoint("ep_delivered"),
        endpoint("ep_retrying"),
        endpoint("ep_resent"),
        endpoint("ep_lost"),
        another_project,
        other_events,
        disabled,
        endpoint("ep_enabled_again"),
        newer,
        endpoint("ep_unknown_then"),
    ]
}

/// Returns a history with one endpoint for each possible case.
fn all_that_can_happen() -> EventHistory {
    let considered = "ep_dead:matched ep_delivered:matched ep_retrying:matched ep_resent:matched ep_lost:matched \
                      ep_project:project ep_type:event_type ep_disabled:disabled.gone.1703123396789 \
                      ep_enabled_again:disabled.manual.1703123396789 ep_deleted:event_type";
    EventHistory::new(stored(considered), every_endpoint(), every_run(), vec![])
}

/// Returns the text of a history, converted as for `event show`.
fn told(history: &EventHistory) -> Vec<String> {
    text(&view::history(history, true), NOW_MS)
}

#[test]
fn the_story_of_an_event_in_words() {
    insta::assert_snapshot!("in_words", told(&all_that_can_happen()).join("\n"));
}

#[test]
fn the_story_of_an_event_as_an_object() {
    let json = |with_body| {
        let history = view::history(&all_that_can_happen(), with_body);
        serde_json::to_value(history).unwrap()
    };
    insta::assert_snapshot!("as_an_object", serde_json::to_string_pretty(&json(true)).unwrap());
    assert_eq!(json(false).get("body"), None);
}

#[test]
fn every_endpoint_has_its_line() {
    let text = told(&all_that_can_happen());
    let headings = text.iter().filter(|line| line.starts_with("ep_")).count();
    assert_eq!(headings, 12);
}

#[test]
fn an_organization_without_endpoints_is_told() {
    let text = told(&EventHistory::new(stored(""), vec![], vec![], vec![]));
    assert!(text.last().unwrap().contains("no endpoints"), "{text:?}");
}

#[test]
fn a_dead_letter_alone_tells_of_no_verdicts() {
    let dead = delivery("ep_1", 0, standing(DeliveryState::Dead, 3, RECEIVED_MS));
    let history = EventHistory::new(
        stored(""),
        vec![endpoint("ep_1")],
        vec![run(dead, vec![])],
        vec![],
    );
    let text = told(&history).join("\n");
    assert!(
        text.contains("the journal does not say whether it matched"),
        "{text}"
    );
    assert!(text.contains("magnetite delivery resend dlv_"), "{text}");
}

#[test]
fn an_unknown_word_is_printed_as_it_is() {
    let mut history = view::history(&all_that_can_happen(), false);
    let at = &mut history.endpoints[0];
    at.verdict = "muted".to_owned();
    let delivery = &mut at.deliveries[0].delivery;
    (delivery.state, delivery.trigger) = ("parked".to_owned(), "replay".to_owned());
    let text = text(&history, NOW_MS).join("\n");
    for line in [
        "ep_dead  muted  https://ep_dead.example/hook",
        "  dlv_286e0355d1eabe3314635e925ae244c9  run 0, replay",
        "    -> parked",
    ] {
        assert!(text.lines().any(|told| told == line), "{line}: {text}");
    }
}
