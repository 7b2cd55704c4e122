//! Deliveries that do not continue without intervention: requested runs that were not sent, and lost
//! deliveries.

use std::sync::Arc;

use store::{Requested, Store};
use webhook::{
    AttemptId, DeliveryId, EndpointId, Event, Trigger,
    journal::{
        AttemptRecord, Books, Considered, DeliveryRef, DeliveryState, EventRecord, Record, Then, Verdict,
    },
};

use super::bed::{Bed, on_both_databases};

on_both_databases! {
    what_was_requested_is_unsent_until_it_is_marked,
    a_delivery_is_lost_when_it_is_late_and_overdue_and_only_then,
    what_was_taken_for_lost_and_is_delivered_after_all_is_delivered,
}

const RECEIVED_MS: u64 = 1_703_123_456_789;
const LATER_MS: u64 = RECEIVED_MS + 3_600_000;

fn event() -> Arc<Event> {
    let body = r#"{"event":"lead.completed","timestamp":1703123456789,"organization_id":"org_1","project_id":"p","lead_id":"l","data":{}}"#;
    Arc::new(Event::from_message(Some("evt_1"), None, body.into()).unwrap())
}

fn endpoint() -> EndpointId {
    EndpointId::new("ep_1")
}

fn delivery() -> DeliveryRef {
    DeliveryRef {
        organization_id: event().organization_id.clone(),
        event_id: event().id.clone(),
        endpoint_id: endpoint(),
        run: 0,
        trigger: Trigger::Event,
    }
}

async fn record(store: &Store, record: Record) {
    let mut books = Books::default();
    books.add(record);
    store.record(&books, &[]).await.unwrap();
}

/// Records one event that matched one endpoint.
async fn with_a_delivery(bed: &Bed) -> (Store, DeliveryId) {
    let store = bed.migrated().await;
    let considered = Considered::from_iter([(endpoint(), Verdict::Matched)]);
    let matched = EventRecord {
        event: event(),
        received_ms: RECEIVED_MS,
        considered,
        seen: None,
    };
    record(&store, Record::Event(matched)).await;
    (store, delivery().id())
}

/// Returns the record of the delivery's first attempt.
fn attempt(status: u16, then: Then) -> Record {
    Record::Attempt(AttemptRecord {
        id: AttemptId::generate(RECEIVED_MS, [u8::from(status == 204); 10]),
        delivery: delivery(),
        number: 1,
        began_ms: RECEIVED_MS,
        duration_ms: 10,
        status: Some(status),
        phase: None,
        failure: None,
        error: String::new(),
        response: bytes::Bytes::new(),
        then,
    })
}

async fn requested(store: &Store, id: &DeliveryId) -> Requested {
    let mut requested = store
        .request_resends(std::slice::from_ref(id), LATER_MS)
        .await
        .unwrap();
    requested.pop().unwrap()
}

async fn what_was_requested_is_unsent_until_it_is_marked(bed: Bed) {
    let (store, id) = with_a_delivery(&bed).await;
    record(&store, attempt(204, Then::Delivered)).await;
    let Requested::New(run) = requested(&store, &id).await else {
        panic!("what was delivered can be sent again")
    };
    let (endpoint, other) = (endpoint(), EndpointId::new("ep_2"));
    let runs = [run];
    let claimed = store
        .claim_requested(Some(&endpoint), None, LATER_MS, 60_000, 10)
        .await
        .unwrap();
    assert_eq!(claimed.len(), 1);
    for (endpoint, ids, unsent) in [
        (None, None, 1),
        (Some(&endpoint), None, 1),
        (Some(&other), None, 0),
        (None, Some(&runs[..]), 1),
        (None, Some(std::slice::from_ref(&id)), 0),
        (None, Some(&[][..]), 0),
    ] {
        assert_eq!(
            store.unsent(endpoint, ids).await.unwrap(),
            unsent,
            "{endpoint:?} {ids:?}"
        );
    }
    let both = [id, runs[0].clone()];
    assert_eq!(store.unsent_of(&both).await.unwrap(), runs);
    assert!(store.unsent_of(&[]).await.unwrap().is_empty());
    store.mark_sent(&runs, LATER_MS + 1).await.unwrap();
    assert_eq!(store.unsent(None, None).await.unwrap(), 0);
    assert!(store.unsent_of(&both).await.unwrap().is_empty());
}

async fn a_delivery_is_lost_when_it_is_late_and_overdue_and_only_then(bed: Bed) {
    let (store, id) = with_a_delivery(&bed).await;
    let next_ms = RECEIVED_MS + 30_000;
    record(&store, attempt(500, Then::Retry { at_ms: next_ms })).await;
    let lost = async |late_ms, due_ms| store.declare_lost(&id, late_ms, due_ms, LATER_MS).await.unwrap();
    assert!(!lost(RECEIVED_MS, LATER_MS).await, "it was just created");
    assert!(!lost(LATER_MS, next_ms).await, "its next attempt is not overdue");
    assert!(lost(RECEIVED_MS + 1, next_ms + 1).await);
    assert!(!lost(LATER_MS, LATER_MS).await, "it is dead already");
    let row = store.delivery(&id).await.unwrap().unwrap();
    assert_eq!(
        (row.standing.state, row.standing.reason.as_str()),
        (DeliveryState::Dead, "lost")
    );

    let Requested::New(run) = requested(&store, &id).await else {
        panic!("what is lost can be sent again")
    };
    let lost = store
        .declare_lost(&run, LATER_MS + 1, LATER_MS + 1, LATER_MS + 1)
        .await
        .unwrap();
    assert!(!lost, "what was not sent cannot be lost");
    store
        .mark_sent(std::slice::from_ref(&run), LATER_MS)
        .await
        .unwrap();
    assert!(
        store
            .declare_lost(&run, LATER_MS + 1, LATER_MS + 1, LATER_MS + 1)
            .await
            .unwrap()
    );
}

async fn what_was_taken_for_lost_and_is_delivered_after_all_is_delivered(bed: Bed) {
    let (store, id) = with_a_delivery(&bed).await;
    assert!(
        store
            .declare_lost(&id, LATER_MS, LATER_MS, LATER_MS)
            .await
            .unwrap()
    );
    record(&store, attempt(204, Then::Delivered)).await;
    let row = store.delivery(&id).await.unwrap().unwrap();
    assert_eq!(
        (row.standing.state, row.standing.reason.as_str()),
        (DeliveryState::Delivered, "")
    );
    let unknown = DeliveryId::new("dlv_unknown");
    assert!(
        !store
            .declare_lost(&unknown, LATER_MS, LATER_MS, LATER_MS)
            .await
            .unwrap()
    );
}
