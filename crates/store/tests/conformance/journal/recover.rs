//! Events that an endpoint missed.

use store::{EndpointChange, EventCursor, RecoverState, Recoverable, Refusal, Requested, Store};
use webhook::{Endpoint, EventId};

use super::{
    super::bed::{Bed, new_endpoint, on_both_databases},
    samples::{T, delivered, died, dlv, ep, event, event_of, evt, org, record, taken},
};

on_both_databases! {
    what_is_dead_and_what_was_missed_is_found_oldest_first,
    only_what_matches_now_was_missed,
    only_the_named_endpoint_missed_it,
    pages_of_what_is_recoverable_are_complete,
    what_a_worker_did_not_know_was_missed,
    what_was_missed_gets_run_1_and_what_is_dead_the_next_one,
}

/// Endpoint 1 of `org_1`: project `proj_1`, `lead.completed,research.*`.
async fn endpoint(store: &Store) -> Endpoint {
    store
        .create_endpoint(new_endpoint("org_1"), ep(1), 1)
        .await
        .unwrap()
}

async fn find(store: &Store, endpoint: &Endpoint, state: RecoverState) -> Vec<Recoverable> {
    store
        .recoverable(endpoint, T, T + 100, state, None, 99)
        .await
        .unwrap()
}

fn ids(found: &[Recoverable]) -> Vec<EventId> {
    found
        .iter()
        .map(|recoverable| recoverable.event_id.clone())
        .collect()
}

const DISABLED: &str = "1:disabled.gone.1703123456000";

/// The deliveries of the events 1 to 6: delivered; dead; missed; dead and then delivered; dead before the
/// window; dead and requested again.
async fn sample(store: &Store) {
    record(
        store,
        [
            taken(&event(1), T + 1, "1:matched"),
            delivered(&event(1), 1, T + 1),
            taken(&event(2), T + 9, "1:matched"),
            died(&event(2), 1, 0, T + 9),
            taken(&event(3), T + 3, DISABLED),
            taken(&event(4), T + 4, "1:matched"),
            died(&event(4), 1, 0, T + 4),
            webhook::journal::Record::Attempt(super::samples::attempt(
                super::samples::to(&event(4), 1, 1),
                1,
                T + 50,
                webhook::journal::Then::Delivered,
            )),
            taken(&event(5), T - 1, "1:matched"),
            died(&event(5), 1, 0, T + 5),
            taken(&event(6), T + 6, "1:matched"),
            died(&event(6), 1, 0, T + 6),
        ],
    )
    .await;
    store.request_resends(&[dlv(6, 1, 0)], T + 60).await.unwrap();
}

async fn what_is_dead_and_what_was_missed_is_found_oldest_first(bed: Bed) {
    let store = bed.migrated().await;
    let endpoint = endpoint(&store).await;
    sample(&store).await;
    let dead = find(&store, &endpoint, RecoverState::Dead).await;
    assert_eq!(ids(&dead), [evt(2)]);
    assert_eq!(
        (dead[0].received_ms, dead[0].dead.as_ref()),
        (T + 9, Some(&dlv(2, 1, 0)))
    );
    assert_eq!(
        (&dead[0].organization_id, dead[0].event_type.as_str()),
        (&org(1), "lead.completed")
    );
    let missed = find(&store, &endpoint, RecoverState::Missed).await;
    assert_eq!((ids(&missed), missed[0].dead.as_ref()), (vec![evt(3)], None));
    assert_eq!(
        ids(&find(&store, &endpoint, RecoverState::All).await),
        [evt(3), evt(2)]
    );
}

async fn only_what_matches_now_was_missed(bed: Bed) {
    let store = bed.migrated().await;
    let endpoint = endpoint(&store).await;
    let viewed = event_of("magnet.viewed", &org(1), 2);
    record(
        &store,
        [taken(&event(1), T, DISABLED), taken(&viewed, T + 1, DISABLED)],
    )
    .await;
    assert_eq!(ids(&find(&store, &endpoint, RecoverState::All).await), [evt(1)]);

    let changed = EndpointChange {
        project_id: Some(None),
        subscription: Some("*".parse().unwrap()),
        ..EndpointChange::default()
    };
    let everything = store.update_endpoint(&ep(1), changed, 2).await.unwrap();
    assert_eq!(
        ids(&find(&store, &everything, RecoverState::Missed).await),
        [evt(1), evt(2)]
    );
    let changed = EndpointChange {
        project_id: Some(Some(webhook::ProjectId::new("proj_2"))),
        ..EndpointChange::default()
    };
    let elsewhere = store.update_endpoint(&ep(1), changed, 3).await.unwrap();
    assert_eq!(find(&store, &elsewhere, RecoverState::All).await, []);
}

async fn only_the_named_endpoint_missed_it(bed: Bed) {
    let store = bed.migrated().await;
    let endpoint = endpoint(&store).await;
    // In LIKE `_` matches any character. An id that differs only there is a different id.
    let mut like = endpoint.clone();
    like.id = webhook::EndpointId::new(endpoint.id.as_str().replace('0', "_"));
    // Changed after all events, so that events whose records do not name it do not count as missed.
    like.updated_at_ms = i64::MAX;
    record(
        &store,
        [
            taken(&event(1), T, "1:matched 2:disabled.manual.5"),
            taken(
                &event_of("magnet.viewed", &org(1), 2),
                T,
                "1:event_type 2:disabled.manual.5",
            ),
            taken(&event(3), T, "0:matched 1:disabled.manual.5 2:matched"),
            taken(&event_of("lead.completed", &org(2), 4), T, DISABLED),
        ],
    )
    .await;
    assert_eq!(
        ids(&find(&store, &endpoint, RecoverState::Missed).await),
        [evt(3)]
    );
    assert_eq!(find(&store, &like, RecoverState::Missed).await, []);
}

/// From time 1 on the endpoint takes `lead.completed` and `research.*` of `proj_1`, from T + 10 on all
/// events, and from T + 20 until T + 30 no `lead.completed`.
async fn what_a_worker_did_not_know_was_missed(bed: Bed) {
    let store = bed.migrated().await;
    endpoint(&store).await;
    let mut changed = None;
    for (events, at_ms) in [("*", T + 10), ("lead.failed", T + 20), ("*", T + 30)] {
        let change = EndpointChange {
            project_id: Some(None),
            subscription: Some(events.parse().unwrap()),
            ..EndpointChange::default()
        };
        let written = store.update_endpoint(&ep(1), change, at_ms as i64).await;
        changed = Some(written.unwrap());
    }
    let endpoint = changed.unwrap();
    let viewed = |number| event_of("magnet.viewed", &org(1), number);
    record(
        &store,
        [
            // The worker did not know the endpoint, or knew it as it was before its last change.
            taken(&event(1), T + 1, ""),
            taken(&event(2), T + 11, "2:matched"),
            taken(&viewed(3), T + 12, "1:event_type 2:matched"),
            taken(&event(4), T + 31, "1:event_type"),
            // Not subscribed to at that time.
            taken(&viewed(5), T + 2, "1:event_type"),
            taken(&event(6), T + 21, "2:matched"),
            // Known only from a dead letter: no record says which endpoints were considered.
            died(&event(7), 2, 0, T + 13),
            // The endpoint matched and the event was delivered.
            taken(&event(8), T + 14, "1:matched"),
            delivered(&event(8), 1, T + 14),
        ],
    )
    .await;
    let found = ids(&find(&store, &endpoint, RecoverState::Missed).await);
    assert_eq!(found, [evt(1), evt(2), evt(3), evt(4)]);
    // An endpoint that was created after all events missed none.
    let later = store
        .create_endpoint(new_endpoint("org_1"), ep(9), T as i64 + 90)
        .await
        .unwrap();
    assert_eq!(find(&store, &later, RecoverState::All).await, []);
    // The journal keeps the history for as long as the events of that time.
    store.delete_expired(0, T + 25, 99).await.unwrap();
    let kept = "SELECT COUNT(*) FROM endpoint_history";
    assert_eq!(
        bed.number(kept).await,
        3,
        "of endpoint 1 what it took from T + 20 on"
    );
    store.delete_endpoint(&ep(1), T as i64 + 95).await.unwrap();
    assert_eq!(
        bed.number(kept).await,
        3,
        "it still tells of events before the deletion"
    );
    store.delete_expired(0, T + 200, 99).await.unwrap();
    assert_eq!(bed.number(kept).await, 1, "the endpoint's row is removed");
}

async fn pages_of_what_is_recoverable_are_complete(bed: Bed) {
    let store = bed.migrated().await;
    let endpoint = endpoint(&store).await;
    record(
        &store,
        (0..20).map(|number| taken(&event(number), T + u64::from(number / 4), DISABLED)),
    )
    .await;
    let mut found = Vec::new();
    let mut after: Option<EventCursor> = None;
    loop {
        let state = RecoverState::All;
        let page = store
            .recoverable(&endpoint, T, T + 9, state, after.as_ref(), 3)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.into());
        found.extend(page);
    }
    assert_eq!(found.len(), 20);
    let key = |found: &Recoverable| (found.received_ms, found.event_id.clone());
    assert!(found.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])));
}

async fn what_was_missed_gets_run_1_and_what_is_dead_the_next_one(bed: Bed) {
    let store = bed.migrated().await;
    let endpoint = endpoint(&store).await;
    sample(&store).await;
    let found = find(&store, &endpoint, RecoverState::All).await;
    let requested = store.request_recoveries(&ep(1), &found, T + 70).await.unwrap();
    assert_eq!(
        requested,
        [Requested::New(dlv(3, 1, 1)), Requested::New(dlv(2, 1, 1))]
    );
    let again = store.request_recoveries(&ep(1), &found, T + 71).await.unwrap();
    assert_eq!(
        again,
        [Requested::Open(dlv(3, 1, 1)), Requested::Open(dlv(2, 1, 1))]
    );
    assert_eq!(find(&store, &endpoint, RecoverState::All).await, []);

    let claimed = store
        .claim_requested(Some(&ep(1)), None, T + 80, 1_000, 9)
        .await
        .unwrap();
    let claimed: Vec<_> = claimed.iter().map(|claimed| &claimed.id).collect();
    assert_eq!(claimed, [&dlv(3, 1, 1), &dlv(6, 1, 1), &dlv(2, 1, 1)]);

    bed.execute("DELETE FROM events WHERE id = 'evt_3'; DELETE FROM deliveries WHERE event_id = 'evt_3'")
        .await;
    let gone = store
        .request_recoveries(&ep(1), &found[..1], T + 90)
        .await
        .unwrap();
    assert_eq!(gone, [Requested::Refused(Refusal::EventMissing)]);
    // A missed event does not unbalance the books, because it never matched.
    let audit = store
        .audit(T, T + 100, super::samples::limits(T + 100))
        .await
        .unwrap();
    assert_eq!((audit.unbalanced.total, audit.unsent), (0, 2));
}
