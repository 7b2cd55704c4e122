//! Queries for deliveries and their attempts.

use store::{DeliveryCursor, DeliveryFilter, Store};
use webhook::{
    DeadReason, DeferReason,
    journal::{AttemptRecord, DeliveryState, Record, Standing, Then},
};

use super::{
    super::bed::{Bed, on_both_databases},
    samples::{T, attempt, delivered, died, dlv, ep, event, event_of, evt, org, record, taken, to},
};

on_both_databases! {
    a_delivery_stands_where_its_last_record_left_it_and_has_every_attempt,
    deliveries_are_listed_newest_first_and_by_every_filter,
    pages_of_deliveries_are_complete_also_within_one_millisecond,
}

/// Records three attempts of one delivery, and returns them in the order in which they were made. The second
/// one repeats the first under the same number, because a worker died.
async fn record_attempts(store: &Store) -> [AttemptRecord; 3] {
    let event = event(1);
    let first = attempt(to(&event, 1, 0), 1, T + 1, Then::Retry { at_ms: T + 1_021 });
    let again = attempt(to(&event, 1, 0), 1, T + 5, Then::Retry { at_ms: T + 1_025 });
    let mut last = attempt(
        to(&event, 1, 0),
        2,
        T + 1_030,
        Then::Dead {
            reason: DeadReason::Gone,
        },
    );
    (last.status, last.phase, last.failure) = (Some(410), None, None);
    "status 410".clone_into(&mut last.error);
    last.response = b"gone\0\xff".to_vec().into();
    let records = [last.clone(), again.clone(), first.clone()].map(Record::Attempt);
    record(store, [taken(&event, T, "1:matched")]).await;
    record(store, records).await;
    [first, again, last]
}

async fn a_delivery_stands_where_its_last_record_left_it_and_has_every_attempt(bed: Bed) {
    let store = bed.migrated().await;
    let [first, again, last] = record_attempts(&store).await;

    let found = store.delivery(&dlv(1, 1, 0)).await.unwrap().unwrap();
    assert_eq!(
        (&found.id, &found.delivery),
        (&dlv(1, 1, 0), &to(&event(1), 1, 0))
    );
    assert_eq!(
        (found.created_ms, found.requested_ms, found.sent_ms),
        (T, None, None)
    );
    let expected = Standing {
        state: DeliveryState::Dead,
        attempts: 2,
        updated_ms: T + 1_050,
        next_ms: 0,
        reason: "gone".to_owned(),
        last_status: 410,
        last_error: "status 410".to_owned(),
    };
    assert_eq!(found.standing, expected);

    let attempts = store.attempts(&found.id).await.unwrap();
    let ids: Vec<_> = attempts.iter().map(|attempt| &attempt.id).collect();
    assert_eq!(ids, [&first.id, &again.id, &last.id]);
    assert_eq!(
        (&attempts[0].delivery_id, &attempts[0].endpoint_id),
        (&found.id, &ep(1))
    );
    assert_eq!((attempts[0].number, attempts[2].number), (1, 2));
    assert_eq!((attempts[0].began_ms, attempts[0].duration_ms), (T + 1, 20));
    assert_eq!((attempts[0].status, attempts[2].status), (None, Some(410)));
    let words = |at: usize| {
        (
            attempts[at].phase.as_str(),
            attempts[at].failure.as_str(),
            attempts[at].outcome.as_str(),
        )
    };
    assert_eq!(words(0), ("connect", "connection_refused", "retry"));
    assert_eq!(words(2), ("", "", "dead"));
    assert_eq!(
        (attempts[0].next_ms, attempts[2].next_ms),
        (Some(T + 1_021), None)
    );
    assert_eq!(
        (attempts[0].reason.as_str(), attempts[2].reason.as_str()),
        ("", "gone")
    );
    assert_eq!(
        (&attempts[0].response[..], &attempts[2].response[..]),
        (&b""[..], &b"gone\0\xff"[..])
    );

    assert_eq!(store.delivery(&dlv(2, 1, 0)).await.unwrap(), None);
    assert_eq!(store.attempts(&dlv(2, 1, 0)).await.unwrap(), []);
}

async fn deliveries_are_listed_newest_first_and_by_every_filter(bed: Bed) {
    let store = bed.migrated().await;
    let (one, two, other) = (event(1), event(2), event_of("lead.created", &org(2), 3));
    let then = Then::Deferred {
        reason: DeferReason::NoSlot,
        at_ms: T + 9,
    };
    let deferred = attempt(to(&other, 3, 0), 1, T + 2, then);
    record(
        &store,
        [
            delivered(&one, 1, T),
            died(&one, 2, 0, T + 1),
            Record::Attempt(deferred),
            died(&two, 1, 0, T + 3),
        ],
    )
    .await;

    let list = async |filter: DeliveryFilter| {
        let rows = store.deliveries(&filter, None, 10).await.unwrap();
        let rows = rows.into_iter();
        rows.map(|row| (row.delivery.event_id, row.delivery.endpoint_id))
            .collect::<Vec<_>>()
    };
    let all = DeliveryFilter::default;
    let [d1, d2, d3, d4] = [(evt(1), ep(1)), (evt(1), ep(2)), (evt(3), ep(3)), (evt(2), ep(1))];
    let (d1, d2, d3, d4) = (|| d1.clone(), || d2.clone(), || d3.clone(), || d4.clone());
    assert_eq!(list(all()).await, [d4(), d3(), d2(), d1()]);
    let organization = Some(org(1));
    assert_eq!(
        list(DeliveryFilter {
            organization,
            ..all()
        })
        .await,
        [d4(), d2(), d1()]
    );
    let endpoint = Some(ep(1));
    assert_eq!(list(DeliveryFilter { endpoint, ..all() }).await, [d4(), d1()]);
    let event = Some(evt(1));
    assert_eq!(list(DeliveryFilter { event, ..all() }).await, [d2(), d1()]);
    for (state, expected) in [
        (DeliveryState::Pending, vec![d3()]),
        (DeliveryState::Cancelled, vec![]),
        (DeliveryState::Dead, vec![d4(), d2()]),
        (DeliveryState::Delivered, vec![d1()]),
    ] {
        let state = Some(state);
        assert_eq!(list(DeliveryFilter { state, ..all() }).await, expected);
    }
    let (since_ms, until_ms) = (Some(T + 1), Some(T + 3));
    assert_eq!(
        list(DeliveryFilter {
            since_ms,
            until_ms,
            ..all()
        })
        .await,
        [d3(), d2()]
    );
}

async fn pages_of_deliveries_are_complete_also_within_one_millisecond(bed: Bed) {
    let store = bed.migrated().await;
    record(
        &store,
        (0..20).map(|number| delivered(&event(number), 1, T + u64::from(number / 4))),
    )
    .await;

    let mut listed = Vec::new();
    let mut before: Option<DeliveryCursor> = None;
    loop {
        let page = store
            .deliveries(&DeliveryFilter::default(), before.as_ref(), 3)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.into());
        listed.extend(page);
    }
    assert_eq!(listed.len(), 20);
    let key = |row: &store::DeliveryRow| (row.created_ms, row.id.clone());
    assert!(listed.windows(2).all(|pair| key(&pair[0]) > key(&pair[1])));
}
