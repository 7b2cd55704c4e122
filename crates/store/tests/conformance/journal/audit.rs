//! The audit: books that balance, and the findings if they do not.

mod attempts;
mod batches;

use store::{Audit, RejectedRow, StateCounts, Store};
use webhook::journal::{Record, Then};

use super::{
    super::bed::{Bed, on_both_databases},
    samples::{
        MINUTE, T, attempt, delivered, died, dlv, ep, event, evt, gap, limits, org, record, taken, to,
    },
};

on_both_databases! {
    books_that_balance_are_counted,
    a_deleted_row_is_found_whichever_it_is,
    what_lies_in_a_gap_is_said_to,
    a_gap_explains_no_more_than_was_lost_in_it,
    a_delivery_that_is_pending_for_too_long_is_late,
    what_must_stand_in_a_queue_is_counted_for_all_times,
    deliveries_count_with_their_events_whatever_clock_created_them,
    what_was_set_aside_is_counted_until_it_is_redriven,
    two_batches_set_aside_do_not_explain_what_is_lost_between_them,
}

async fn audit(store: &Store, now_ms: u64) -> Audit {
    store.audit(T, T + 60 * MINUTE, limits(now_ms)).await.unwrap()
}

/// Records three events with four deliveries, one of which is sent again.
async fn sample(store: &Store) {
    let (one, two, three) = (event(1), event(2), event(3));
    let retried = attempt(to(&two, 1, 0), 1, T + 1, Then::Retry { at_ms: T + MINUTE });
    let resent = attempt(to(&two, 2, 1), 1, T + 900, Then::Delivered);
    record(
        store,
        [
            taken(&one, T, "1:matched 2:matched 3:project"),
            delivered(&one, 1, T + 1),
            delivered(&one, 2, T + 1),
            taken(&two, T, "1:matched 2:matched"),
            Record::Attempt(retried),
            died(&two, 2, 0, T + 1),
            Record::Attempt(resent),
            taken(&three, T + 2, "1:event_type"),
        ],
    )
    .await;
}

async fn books_that_balance_are_counted(bed: Bed) {
    let store = bed.migrated().await;
    sample(&store).await;
    // The audit covers whole minutes: that of `T` and the sixty after it.
    let minute = T / MINUTE * MINUTE;
    record(
        &store,
        [
            taken(&event(8), minute - 1, "1:matched"),
            taken(&event(9), minute + 61 * MINUTE, "1:matched"),
        ],
    )
    .await;
    let audit = audit(&store, T + 500).await;
    assert_eq!((audit.events, audit.matched), (3, 4));
    let first_runs = StateCounts {
        pending: 1,
        dead: 1,
        delivered: 2,
        cancelled: 0,
    };
    let resends = StateCounts {
        delivered: 1,
        ..StateCounts::default()
    };
    assert_eq!((audit.first_runs, audit.resends), (first_runs, resends));
    assert_eq!(audit.first_runs.total(), audit.matched);
    assert_eq!(
        (audit.unbalanced.total, audit.unrecorded.total, audit.late.total),
        (0, 0, 0)
    );
    assert_eq!(audit.gaps, []);
}

async fn a_deleted_row_is_found_whichever_it_is(bed: Bed) {
    let store = bed.migrated().await;
    sample(&store).await;
    bed.execute(&format!("DELETE FROM deliveries WHERE id = '{}'", dlv(1, 2, 0)))
        .await;
    let found = audit(&store, T + 500).await;
    assert_eq!((found.unbalanced.total, found.unrecorded.total), (1, 0));
    let unbalanced = &found.unbalanced.items[0];
    assert_eq!(
        (&unbalanced.organization_id, &unbalanced.event_id),
        (&org(1), &evt(1))
    );
    assert_eq!(
        (unbalanced.matched, unbalanced.deliveries, unbalanced.received_ms),
        (Some(2), 1, T)
    );
    assert_eq!(found.unbalanced.in_gaps, 0);

    bed.execute("DELETE FROM events WHERE id = 'evt_2'").await;
    // Its record could still arrive. For 10 s it is not missed.
    for (after_ms, totals, until_ms) in [
        (10_000, (1, 0), 0),
        (10_001, (1, 1), T),
        (90_000, (1, 1), T),
        (90_001, (2, 0), 0),
    ] {
        let found = audit(&store, T + after_ms).await;
        assert_eq!(
            (found.unbalanced.total, found.awaited.total),
            totals,
            "{after_ms}"
        );
        assert_eq!(found.awaited_until_ms, until_ms, "{after_ms}");
    }
    let awaited = audit(&store, T + 90_000).await.awaited.items;
    assert_eq!((awaited.len(), &awaited[0].event_id), (1, &evt(2)));
    let found = audit(&store, T + 90_001).await;
    let missing = found
        .unbalanced
        .items
        .iter()
        .find(|found| found.event_id == evt(2))
        .unwrap();
    assert_eq!(
        (missing.matched, missing.deliveries, missing.received_ms),
        (None, 2, T)
    );

    bed.execute(&format!(
        "DELETE FROM attempts WHERE delivery_id = '{}'",
        dlv(1, 1, 0)
    ))
    .await;
    let found = audit(&store, T + 500).await;
    assert_eq!(found.unrecorded.total, 1);
    let unrecorded = &found.unrecorded.items[0];
    assert_eq!(
        (&unrecorded.delivery_id, &unrecorded.endpoint_id),
        (&dlv(1, 1, 0), &ep(1))
    );
    assert_eq!(
        (unrecorded.attempts, unrecorded.recorded, found.unrecorded.in_gaps),
        (1, 0, 0)
    );
}

async fn what_lies_in_a_gap_is_said_to(bed: Bed) {
    let store = bed.migrated().await;
    sample(&store).await;
    record(
        &store,
        [
            gap("near", T + 5 * MINUTE, T + 6 * MINUTE),
            gap("far", T - 30 * MINUTE, T - 20 * MINUTE),
        ],
    )
    .await;
    bed.execute("DELETE FROM deliveries WHERE event_id = 'evt_1'; DELETE FROM attempts")
        .await;
    let found = audit(&store, T + 60 * MINUTE).await;
    assert_eq!(
        (found.unbalanced.total, found.unrecorded.total, found.late.total),
        (1, 2, 1)
    );
    assert_eq!(
        (
            found.unbalanced.in_gaps,
            found.unrecorded.in_gaps,
            found.late.in_gaps
        ),
        (1, 2, 1)
    );
    let workers: Vec<_> = found.gaps.iter().map(|gap| gap.worker.as_str()).collect();
    assert_eq!(workers, ["near"]);
    assert_eq!(found.gaps[0].count, 7);

    bed.execute("DELETE FROM gaps WHERE worker = 'near'").await;
    let found = audit(&store, T + 60 * MINUTE).await;
    assert_eq!(
        (found.gaps.len(), found.unbalanced.in_gaps, found.late.in_gaps),
        (0, 0, 0)
    );
}

/// A gap of seven records, and eight findings of every kind that a gap may explain.
async fn a_gap_explains_no_more_than_was_lost_in_it(bed: Bed) {
    let store = bed.migrated().await;
    for number in 1..=8 {
        let (one, two, three) = (event(number), event(number + 10), event(number + 20));
        record(
            &store,
            [
                taken(&one, T, "1:matched"),
                delivered(&one, 1, T),
                taken(&two, T, "1:matched"),
                delivered(&two, 1, T),
                taken(&three, T, "1:matched"),
                Record::Attempt(attempt(to(&three, 1, 0), 1, T, Then::Retry { at_ms: T + 1 })),
            ],
        )
        .await;
        bed.execute(&format!(
            "DELETE FROM events WHERE id = '{}'; DELETE FROM attempts WHERE delivery_id = '{}'",
            evt(number),
            dlv(number + 10, 1, 0)
        ))
        .await;
    }
    let in_gaps = async |expected| {
        let found = audit(&store, T + 60 * MINUTE).await;
        let totals = [found.unbalanced.total, found.unrecorded.total, found.late.total];
        assert_eq!((totals, found.pending_settled), ([8; 3], 8));
        let in_gaps = [
            found.unbalanced.in_gaps,
            found.unrecorded.in_gaps,
            found.late.in_gaps,
        ];
        assert_eq!((in_gaps, found.pending_in_gaps), ([expected; 3], expected));
    };
    in_gaps(0).await;
    record(&store, [gap("w1", T, T + 1)]).await;
    in_gaps(7).await;
    record(&store, [gap("w2", T, T + 1)]).await;
    in_gaps(8).await;

    // A gap just after the window, which may come from a host with another clock.
    bed.execute("UPDATE gaps SET from_ms = from_ms + 120000, until_ms = until_ms + 120000")
        .await;
    let found = store.audit(T, T, limits(T + 60 * MINUTE)).await.unwrap();
    assert_eq!((found.gaps.len(), found.unbalanced.in_gaps), (0, 8));

    // A set-aside batch with an unknown number of records explains all findings.
    bed.execute("DELETE FROM gaps WHERE worker = 'w2'").await;
    in_gaps(7).await;
    store
        .record(
            &webhook::journal::Books::default(),
            &[rejected(1, "journal", "bad_batch")],
        )
        .await
        .unwrap();
    in_gaps(8).await;
}

async fn a_delivery_that_is_pending_for_too_long_is_late(bed: Bed) {
    let store = bed.migrated().await;
    sample(&store).await;
    assert_eq!(audit(&store, T + 10 * MINUTE).await.late.total, 0);
    let late = audit(&store, T + 10 * MINUTE + 1).await.late;
    assert_eq!((late.total, late.items.len()), (1, 1));
    assert_eq!(
        (&late.items[0].delivery_id, &late.items[0].event_id),
        (&dlv(2, 1, 0), &evt(2))
    );
    assert_eq!((late.items[0].created_ms, late.items[0].next_ms), (T, T + MINUTE));

    // A run that was requested and not sent yet is not late. Its time begins when it is sent.
    let requested = store.request_resends(&[dlv(1, 1, 0)], T + 1_000).await.unwrap();
    assert_eq!(requested, [store::Requested::New(dlv(1, 1, 1))]);
    let found = audit(&store, T + 50 * MINUTE).await;
    assert_eq!((found.late.total, found.unsent), (1, 1));
    store.mark_sent(&[dlv(1, 1, 1)], T + 45 * MINUTE).await.unwrap();
    assert_eq!(audit(&store, T + 50 * MINUTE).await.late.total, 1);
    let found = audit(&store, T + 56 * MINUTE).await;
    assert_eq!((found.late.total, found.unsent), (2, 0));
}

async fn what_must_stand_in_a_queue_is_counted_for_all_times(bed: Bed) {
    let store = bed.migrated().await;
    let due = [T, T + 1_000, T + 90_000, T + 100_000, T + 102_001, T + 200_000];
    let records = due.into_iter().zip(1..).map(|(at_ms, number)| {
        Record::Attempt(attempt(
            to(&event(number), 1, 0),
            1,
            T - 500 * MINUTE,
            Then::Retry { at_ms },
        ))
    });
    record(&store, records).await;
    // Those due long ago and those due far ahead are counted. The one due within 2 s and those due in the
    // last 90 s may be in hand.
    let found = audit(&store, T + 100_000).await;
    assert_eq!((found.pending_settled, found.first_runs.total()), (4, 0));

    // The attempts that were due before or at the end of the gap may be among the lost records. Those that
    // are not due yet are not.
    assert_eq!(found.pending_in_gaps, 0);
    record(&store, [gap("w", T + 12 * MINUTE, T + 13 * MINUTE)]).await;
    assert_eq!(audit(&store, T + 100_000).await.pending_in_gaps, 0);
    record(&store, [gap("w", T - MINUTE, T + 500)]).await;
    assert_eq!(audit(&store, T + 100_000).await.pending_in_gaps, 2);
}

async fn deliveries_count_with_their_events_whatever_clock_created_them(bed: Bed) {
    let store = bed.migrated().await;
    let minute = T / MINUTE * MINUTE;
    let end = minute + 61 * MINUTE;
    // Three events are received by a worker whose clock is ahead, and attempted by a worker whose clock is
    // right. The fourth event is received by a clock that is right, and attempted by one that is behind.
    for number in 1..=3 {
        let event = event(number);
        record(
            &store,
            [taken(&event, end + 5, "1:matched"), delivered(&event, 1, end - 5)],
        )
        .await;
    }
    let inside = event(4);
    record(
        &store,
        [taken(&inside, T, "1:matched"), delivered(&inside, 1, minute - 5)],
    )
    .await;
    let audit = audit(&store, end).await;
    assert_eq!((audit.events, audit.matched), (1, 1));
    let delivered = StateCounts {
        delivered: 1,
        ..StateCounts::default()
    };
    assert_eq!(audit.first_runs, delivered);
    assert_eq!(audit.unbalanced.total, 0, "{:?}", audit.unbalanced);
}

fn rejected(number: u64, source: &str, reason: &str) -> RejectedRow {
    RejectedRow {
        id: format!("rej_{number}"),
        rejected_ms: T + number,
        source: source.to_owned(),
        reason: reason.to_owned(),
        detail: String::new(),
        message_id: None,
        event_type: None,
        headers: "{}".to_owned(),
        body: bytes::Bytes::from_static(b"body"),
        redriven_ms: None,
    }
}

/// A set-aside batch explains what is missing at about the same time, but not what is missing between two
/// such batches.
async fn two_batches_set_aside_do_not_explain_what_is_lost_between_them(bed: Bed) {
    let store = bed.migrated().await;
    let both = [
        rejected(0, "journal", "bad_batch"),
        rejected(50 * MINUTE, "journal", "bad_batch"),
    ];
    store
        .record(&webhook::journal::Books::default(), &both)
        .await
        .unwrap();
    for (number, minute) in [(1, 45), (2, 25)] {
        let began_ms = T + minute * MINUTE;
        let retry = Then::Retry {
            at_ms: began_ms + 1_000,
        };
        let attempt = attempt(to(&event(number), 1, 0), 1, began_ms, retry);
        record(
            &store,
            [
                taken(&event(number), began_ms, "1:matched"),
                Record::Attempt(attempt),
            ],
        )
        .await;
    }
    let found = audit(&store, T + 200 * MINUTE).await;
    assert_eq!((found.late.total, found.late.in_gaps), (2, 1));
    assert_eq!(found.set_aside.len(), 1, "they are listed as one");
    assert_eq!((found.pending_settled, found.pending_in_gaps), (2, 1));
    // Pending deliveries of all times are explained, even in a window that contains none of them.
    let later = store
        .audit(T + 100 * MINUTE, T + 200 * MINUTE, limits(T + 200 * MINUTE))
        .await
        .unwrap();
    assert_eq!((later.set_aside.len(), later.late.total), (0, 0));
    assert_eq!((later.pending_settled, later.pending_in_gaps), (2, 1));
}

async fn what_was_set_aside_is_counted_until_it_is_redriven(bed: Bed) {
    let store = bed.migrated().await;
    let all = [
        rejected(1, "journal", "unrecordable"),
        rejected(2, "journal", "unrecordable"),
        rejected(3, "journal", "bad_batch"),
        rejected(4, "events", "not_json"),
    ];
    store
        .record(&webhook::journal::Books::default(), &all)
        .await
        .unwrap();
    // The event of this delivery is among the refused records.
    record(&store, [delivered(&event(1), 1, T)]).await;
    let found = audit(&store, T + 2 * MINUTE).await;
    let counts: Vec<_> = found
        .set_aside
        .iter()
        .map(|aside| (aside.reason.as_str(), aside.messages, aside.records()))
        .collect();
    assert_eq!(counts, [("bad_batch", 1, None), ("unrecordable", 2, Some(2))]);
    assert_eq!((found.unbalanced.total, found.unbalanced.in_gaps), (1, 1));
    for number in 1..=3 {
        assert!(store.mark_redriven(&format!("rej_{number}"), T).await.unwrap());
    }
    let found = audit(&store, T + 2 * MINUTE).await;
    assert_eq!((found.set_aside.len(), found.unbalanced.in_gaps), (0, 0));
}
