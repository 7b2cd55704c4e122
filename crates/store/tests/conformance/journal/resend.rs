//! Requested runs: requesting a delivery again, and sending each requested run once.

use std::collections::BTreeSet;

use store::{Refusal, Requested, Store};
use webhook::{
    DeliveryId, Trigger,
    journal::{DeliveryState, Record, Then},
};

use super::{
    super::bed::{Bed, on_both_databases},
    samples::{MINUTE, T, attempt, delivered, died, dlv, ep, event, record, taken, to},
};

on_both_databases! {
    a_delivery_that_is_over_gets_a_new_run,
    asking_twice_gives_one_run,
    many_who_ask_at_once_get_one_run,
    what_cannot_be_sent_again_is_refused,
    what_is_claimed_can_be_published_and_is_claimed_by_nobody_else,
    two_who_claim_at_once_share,
    what_was_sent_or_seen_by_a_worker_is_not_claimed_again,
    a_claim_that_was_not_kept_expires,
    a_run_whose_event_is_gone_is_reported_and_not_published,
}

const CLAIM: u64 = MINUTE;

/// Records dead deliveries of the events 1 to `count` to endpoint 1. Higher numbers are older events.
async fn dead(store: &Store, count: u32) -> Vec<DeliveryId> {
    let records = (1..=count).flat_map(|number| {
        let received_ms = T - u64::from(number);
        let event = event(number);
        [
            taken(&event, received_ms, "1:matched"),
            died(&event, 1, 0, received_ms),
        ]
    });
    record(store, records).await;
    (1..=count).map(|number| dlv(number, 1, 0)).collect()
}

async fn claim(store: &Store, now_ms: u64, limit: u32) -> Vec<DeliveryId> {
    let claimed = store
        .claim_requested(None, None, now_ms, CLAIM, limit)
        .await
        .unwrap();
    claimed.into_iter().map(|claimed| claimed.id).collect()
}

async fn a_delivery_that_is_over_gets_a_new_run(bed: Bed) {
    let store = bed.migrated().await;
    dead(&store, 1).await;
    record(
        &store,
        [taken(&event(2), T, "1:matched"), delivered(&event(2), 1, T)],
    )
    .await;
    let requested = store
        .request_resends(&[dlv(1, 1, 0), dlv(2, 1, 0)], T + 9)
        .await
        .unwrap();
    assert_eq!(
        requested,
        [Requested::New(dlv(1, 1, 1)), Requested::New(dlv(2, 1, 1))]
    );

    let run = store.delivery(&dlv(1, 1, 1)).await.unwrap().unwrap();
    assert_eq!(run.delivery, to(&event(1), 1, 1));
    assert_eq!(
        (run.created_ms, run.requested_ms, run.sent_ms),
        (T + 9, Some(T + 9), None)
    );
    assert_eq!(
        (run.standing.state, run.standing.attempts),
        (DeliveryState::Pending, 0)
    );

    // Once the run has ended, the next request gets the next number, whichever run it names.
    record(&store, [died(&event(1), 1, 1, T + 20)]).await;
    let requested = store.request_resends(&[dlv(1, 1, 0)], T + 30).await.unwrap();
    assert_eq!(requested, [Requested::New(dlv(1, 1, 2))]);
}

async fn asking_twice_gives_one_run(bed: Bed) {
    let store = bed.migrated().await;
    dead(&store, 1).await;
    let twice = [dlv(1, 1, 0), dlv(1, 1, 0)];
    let requested = store.request_resends(&twice, T + 1).await.unwrap();
    assert_eq!(
        requested,
        [Requested::New(dlv(1, 1, 1)), Requested::Open(dlv(1, 1, 1))]
    );
    let requested = store.request_resends(&[dlv(1, 1, 1)], T + 2).await.unwrap();
    assert_eq!(requested, [Requested::Open(dlv(1, 1, 1))]);
    store.mark_sent(&[dlv(1, 1, 1)], T + 3).await.unwrap();
    let requested = store.request_resends(&twice[..1], T + 4).await.unwrap();
    assert_eq!(requested, [Requested::Open(dlv(1, 1, 1))]);
}

async fn many_who_ask_at_once_get_one_run(bed: Bed) {
    let store = bed.migrated().await;
    let ids = dead(&store, 10).await;
    let ask = |now_ms: u64| {
        let (bed, ids) = (bed.clone(), ids.clone());
        tokio::spawn(async move { bed.connect().await.request_resends(&ids, now_ms).await.unwrap() })
    };
    let mut answers = Vec::new();
    for asking in [T + 1, T + 2, T + 3, T + 4].map(ask) {
        answers.extend(asking.await.unwrap());
    }
    let new = answers
        .iter()
        .filter(|answer| matches!(answer, Requested::New(_)))
        .count();
    let open = answers
        .iter()
        .filter(|answer| matches!(answer, Requested::Open(_)))
        .count();
    assert_eq!((new, open), (10, 30));
    assert_eq!(
        bed.number("SELECT COUNT(*) FROM deliveries WHERE run = 1").await,
        10
    );
    assert_eq!(
        bed.number("SELECT COUNT(*) FROM deliveries WHERE run > 1").await,
        0
    );
}

async fn what_cannot_be_sent_again_is_refused(bed: Bed) {
    let store = bed.migrated().await;
    // One delivery is pending. Of the other one, the event is not stored.
    record(
        &store,
        [taken(&event(1), T, "1:matched"), died(&event(2), 1, 0, T)],
    )
    .await;
    let ids = [dlv(1, 1, 0), dlv(2, 1, 0), dlv(3, 1, 0)];
    let requested = store.request_resends(&ids, T + 1).await.unwrap();
    let refusals = [Refusal::StillPending, Refusal::EventMissing, Refusal::Unknown];
    assert_eq!(requested, refusals.map(Requested::Refused));
    assert_eq!(bed.number("SELECT COUNT(*) FROM deliveries").await, 2);
}

async fn what_is_claimed_can_be_published_and_is_claimed_by_nobody_else(bed: Bed) {
    let store = bed.migrated().await;
    let ids = dead(&store, 3).await;
    record(
        &store,
        [taken(&event(9), T, "2:matched"), died(&event(9), 2, 0, T)],
    )
    .await;
    store
        .request_resends(&[&ids[..], &[dlv(9, 2, 0)]].concat(), T + 1)
        .await
        .unwrap();

    let only = store
        .claim_requested(Some(&ep(2)), None, T + 2, CLAIM, 9)
        .await
        .unwrap();
    assert_eq!(only.len(), 1);
    let delivery = only[0].delivery.as_ref().unwrap();
    assert_eq!((&only[0].id, delivery.id()), (&dlv(9, 2, 1), dlv(9, 2, 1)));
    assert_eq!((&delivery.event, &delivery.endpoint_id), (&event(9), &ep(2)));
    assert_eq!(
        (delivery.run, delivery.attempt, delivery.trigger),
        (1, 1, Trigger::Resend)
    );

    let named = store
        .claim_requested(None, Some(&[dlv(2, 1, 1), dlv(9, 2, 1)]), T + 2, CLAIM, 9)
        .await
        .unwrap();
    assert_eq!(
        named.iter().map(|claimed| &claimed.id).collect::<Vec<_>>(),
        [&dlv(2, 1, 1)]
    );
    assert_eq!(
        store
            .claim_requested(None, Some(&[]), T + 2, CLAIM, 9)
            .await
            .unwrap(),
        []
    );
    // The run of the oldest event comes first.
    assert_eq!(claim(&store, T + 2, 1).await, [dlv(3, 1, 1)]);
    assert_eq!(claim(&store, T + 2, 9).await, [dlv(1, 1, 1)]);
    assert_eq!(claim(&store, T + 2, 9).await, []);
}

async fn two_who_claim_at_once_share(bed: Bed) {
    let store = bed.migrated().await;
    let ids = dead(&store, 40).await;
    store.request_resends(&ids, T + 1).await.unwrap();
    let claim = || {
        let bed = bed.clone();
        tokio::spawn(async move {
            let store = bed.connect().await;
            let mut claimed = Vec::new();
            loop {
                let more = claim(&store, T + 2, 3).await;
                if more.is_empty() {
                    return claimed;
                }
                claimed.extend(more);
            }
        })
    };
    let mut claimed = Vec::new();
    for claiming in [claim(), claim()] {
        claimed.extend(claiming.await.unwrap());
    }
    let distinct: BTreeSet<_> = claimed.iter().collect();
    assert_eq!((claimed.len(), distinct.len()), (40, 40));
}

async fn what_was_sent_or_seen_by_a_worker_is_not_claimed_again(bed: Bed) {
    let store = bed.migrated().await;
    let ids = dead(&store, 4).await;
    store.request_resends(&ids, T + 1).await.unwrap();
    assert_eq!(claim(&store, T + 2, 9).await.len(), 4);
    store.mark_sent(&[dlv(1, 1, 1)], T + 3).await.unwrap();
    // The publisher died after publishing: one run was attempted and one was deferred.
    let retry = Then::Retry { at_ms: T + 100 };
    let reason = webhook::DeferReason::NoSlot;
    let deferred = webhook::journal::StepRecord {
        delivery: to(&event(3), 1, 1),
        at_ms: T + 4,
        attempts: 0,
        last_status: None,
        last_error: String::new(),
        then: Then::Deferred { reason, at_ms: T + 5 },
    };
    let attempted = attempt(to(&event(2), 1, 1), 1, T + 4, retry);
    record(&store, [Record::Attempt(attempted), Record::Step(deferred)]).await;

    assert_eq!(claim(&store, T + 3 * CLAIM, 9).await, [dlv(4, 1, 1)]);
    let sent = store.delivery(&dlv(1, 1, 1)).await.unwrap().unwrap();
    assert_eq!((sent.sent_ms, sent.standing.next_ms), (Some(T + 3), T + 3));
    // Marking a run late does not reset its state.
    store
        .mark_sent(&[dlv(2, 1, 1), dlv(3, 1, 1)], T + 9)
        .await
        .unwrap();
    let attempted = store.delivery(&dlv(2, 1, 1)).await.unwrap().unwrap();
    assert_eq!(
        (attempted.sent_ms, attempted.standing.next_ms),
        (Some(T + 9), T + 100)
    );
    assert_eq!(
        (attempted.standing.attempts, attempted.standing.updated_ms),
        (1, T + 24)
    );
}

async fn a_claim_that_was_not_kept_expires(bed: Bed) {
    let store = bed.migrated().await;
    let ids = dead(&store, 1).await;
    store.request_resends(&ids, T).await.unwrap();
    assert_eq!(claim(&store, T, 9).await, [dlv(1, 1, 1)]);
    assert_eq!(claim(&store, T + CLAIM, 9).await, []);
    assert_eq!(claim(&store, T + CLAIM + 1, 9).await, [dlv(1, 1, 1)]);
}

async fn a_run_whose_event_is_gone_is_reported_and_not_published(bed: Bed) {
    let store = bed.migrated().await;
    let ids = dead(&store, 2).await;
    store.request_resends(&ids, T).await.unwrap();
    bed.execute("DELETE FROM events WHERE id = 'evt_1'; UPDATE events SET considered = 'what?'")
        .await;
    let claimed = store.claim_requested(None, None, T + 1, CLAIM, 9).await.unwrap();
    assert_eq!(claimed.len(), 2);
    assert!(claimed.iter().all(|claimed| claimed.delivery.is_none()));
}
