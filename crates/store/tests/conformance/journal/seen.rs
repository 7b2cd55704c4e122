//! Why an endpoint that an event's record does not name did not get the event.

use std::sync::Arc;

use store::{EndpointChange, RecoverState, Store};
use webhook::{
    DisabledReason, EndpointId, Event,
    journal::{EventRecord, Record, Seen, Verdict},
};

use super::{
    super::bed::{Bed, new_endpoint, on_both_databases},
    samples::{T, delivered, ep, event, event_of, evt, org, record},
};

on_both_databases! {
    the_endpoints_history_explains_what_a_record_does_not_name,
    what_a_record_names_is_not_explained_otherwise,
    a_position_of_another_history_explains_nothing,
    what_a_worker_did_not_know_was_missed_whoever_recorded_it,
    of_two_positions_the_greater_one_is_stored,
    endpoints_of_before_the_migration_are_explained,
}

async fn seen(store: &Store) -> Seen {
    let position = store.registry_position().await.unwrap();
    Seen {
        version: position.version,
        change: position.change,
        stamp: position.stamp,
    }
}

fn taken(event: &Arc<Event>, received_ms: u64, matched: &[u32], seen: Seen) -> Record {
    let matched = matched.iter().map(|number| (ep(*number), Verdict::Matched));
    Record::Event(EventRecord {
        event: Arc::clone(event),
        received_ms,
        considered: matched.collect(),
        seen: Some(seen),
    })
}

async fn create(store: &Store, number: u32, events: &str) {
    let mut new = new_endpoint("org_1");
    new.subscription = events.parse().unwrap();
    store.create_endpoint(new, ep(number), 1).await.unwrap();
}

async fn verdicts(store: &Store, number: u32) -> Vec<(EndpointId, Verdict)> {
    let found = store.event(&evt(number), Some(&org(1))).await.unwrap();
    let mut verdicts = store.verdicts(&found[0]).await.unwrap();
    verdicts.sort();
    verdicts
}

async fn create_an_endpoint_of_each_kind(store: &Store) {
    for (number, events) in [
        (1, "*"),
        (2, "lead.failed"),
        (3, "*"),
        (4, "*"),
        (5, "lead.failed"),
    ] {
        create(store, number, events).await;
    }
    store
        .create_endpoint(new_endpoint("org_2"), ep(7), 1)
        .await
        .unwrap();
    store
        .disable_endpoint(&ep(3), DisabledReason::Manual, 77)
        .await
        .unwrap();
    let elsewhere = EndpointChange {
        project_id: Some(Some(webhook::ProjectId::new("proj_2"))),
        ..EndpointChange::default()
    };
    store.update_endpoint(&ep(4), elsewhere, 78).await.unwrap();
}

async fn change_endpoints(store: &Store) {
    create(store, 6, "*").await;
    store.delete_endpoint(&ep(5), 90).await.unwrap();
    store.enable_endpoint(&ep(3), 91).await.unwrap();
    let everything = EndpointChange {
        subscription: Some("*".parse().unwrap()),
        project_id: Some(None),
        ..EndpointChange::default()
    };
    for number in [2, 4] {
        store
            .update_endpoint(&ep(number), everything.clone(), 92)
            .await
            .unwrap();
    }
}

/// Endpoint 1 matches; 2 takes other types; 3 is disabled; 4 belongs to another project; 5 is deleted
/// afterwards; 6 is created afterwards; 7 belongs to another organization. Then all of them change.
async fn the_endpoints_history_explains_what_a_record_does_not_name(bed: Bed) {
    let store = bed.migrated().await;
    create_an_endpoint_of_each_kind(&store).await;
    let before = seen(&store).await;
    record(
        &store,
        [
            taken(&event(1), T, &[1], before),
            delivered(&event(1), 1, T),
            taken(&event_of("magnet.viewed", &org(1), 2), T, &[], before),
        ],
    )
    .await;

    change_endpoints(&store).await;
    let disabled = Verdict::Disabled {
        at_ms: 77,
        reason: DisabledReason::Manual,
    };
    let expected = [
        (ep(2), Verdict::EventType),
        (ep(3), disabled),
        (ep(4), Verdict::Project),
        (ep(5), Verdict::EventType),
    ];
    assert_eq!(verdicts(&store, 1).await, expected);
    // According to its history, endpoint 1 would have matched. The record does not name it, so no reason is
    // returned.
    assert_eq!(verdicts(&store, 2).await, expected);

    let after = seen(&store).await;
    record(&store, [taken(&event(3), T + 1, &[1, 2, 3, 4, 6], after)]).await;
    assert_eq!(
        verdicts(&store, 3).await,
        [],
        "the deleted one was not there any more"
    );
}

async fn what_a_record_names_is_not_explained_otherwise(bed: Bed) {
    let store = bed.migrated().await;
    create(&store, 1, "lead.failed").await;
    let position = seen(&store).await;
    let gone = Verdict::Disabled {
        at_ms: 5,
        reason: DisabledReason::Gone,
    };
    let named = EventRecord {
        event: event(1),
        received_ms: T,
        considered: [(ep(1), gone)].into_iter().collect(),
        seen: Some(position),
    };
    record(&store, [Record::Event(named)]).await;
    assert_eq!(verdicts(&store, 1).await, []);
    let found = store.event(&evt(1), Some(&org(1))).await.unwrap();
    assert_eq!(found[0].considered.get(&ep(1)), Some(gone));
}

async fn a_position_of_another_history_explains_nothing(bed: Bed) {
    let store = bed.migrated().await;
    create(&store, 1, "lead.failed").await;
    let mut position = seen(&store).await;
    position.stamp += 1;
    record(&store, [taken(&event(1), T, &[], position)]).await;
    assert_eq!(verdicts(&store, 1).await, []);
}

/// A worker received five events: two while it knew the endpoint in its first state, one while it did not
/// know the endpoint, one while the endpoint was disabled, and one in its last state. At the time of the
/// first event, the endpoint did not subscribe to it.
async fn what_a_worker_did_not_know_was_missed_whoever_recorded_it(bed: Bed) {
    let store = bed.migrated().await;
    let nothing = seen(&store).await;
    create(&store, 1, "lead.failed").await;
    let narrow = seen(&store).await;
    let everything = EndpointChange {
        subscription: Some("*".parse().unwrap()),
        ..EndpointChange::default()
    };
    store
        .update_endpoint(&ep(1), everything, T as i64 + 10)
        .await
        .unwrap();
    store
        .disable_endpoint(&ep(1), DisabledReason::Manual, T as i64 + 30)
        .await
        .unwrap();
    let disabled = seen(&store).await;
    let endpoint = store.enable_endpoint(&ep(1), T as i64 + 50).await.unwrap();
    record(
        &store,
        [
            taken(&event(1), T + 5, &[], narrow),
            taken(&event(2), T + 11, &[], narrow),
            taken(&event(3), T + 12, &[], nothing),
            taken(&event(4), T + 31, &[], disabled),
            taken(&event(5), T + 51, &[1], seen(&store).await),
            delivered(&event(5), 1, T + 51),
        ],
    )
    .await;
    let missed = store
        .recoverable(&endpoint, T, T + 100, RecoverState::Missed, None, 99)
        .await
        .unwrap();
    let missed: Vec<_> = missed.into_iter().map(|found| found.event_id).collect();
    assert_eq!(
        missed,
        [evt(2), evt(3), evt(4)],
        "the first one was not wanted then"
    );
}

async fn of_two_positions_the_greater_one_is_stored(bed: Bed) {
    let store = bed.migrated().await;
    create(&store, 1, "*").await;
    let first = seen(&store).await;
    create(&store, 2, "*").await;
    let second = seen(&store).await;
    record(&store, [taken(&event(1), T, &[1, 2], second)]).await;
    record(&store, [taken(&event(1), T + 1, &[1], first)]).await;
    let found = store.event(&evt(1), None).await.unwrap();
    assert_eq!(
        (found[0].seen, found[0].considered.matched().count()),
        (Some(second), 2)
    );
}

/// An older version disabled an endpoint without adding a row to its history.
async fn endpoints_of_before_the_migration_are_explained(bed: Bed) {
    let store = bed.migrated().await;
    create(&store, 1, "*").await;
    create(&store, 2, "*").await;
    store
        .disable_endpoint(&ep(2), DisabledReason::Gone, 44)
        .await
        .unwrap();
    let statements = include_str!("../../../migrations/0017_seen_and_totals.sql");
    let (_, data) = statements.split_once("UPDATE endpoint_history").unwrap();
    let (data, _) = data.split_once("CREATE TABLE").unwrap();
    bed.execute("DELETE FROM endpoint_history WHERE disabled_at_ms IS NOT NULL")
        .await;
    bed.execute(&format!("UPDATE endpoint_history{data}")).await;
    record(&store, [taken(&event(1), T, &[1], seen(&store).await)]).await;
    let disabled = Verdict::Disabled {
        at_ms: 44,
        reason: DisabledReason::Gone,
    };
    assert_eq!(verdicts(&store, 1).await, [(ep(2), disabled)]);
}
