//! Whether the books balance, and what is said when they do not.

use store::{Audit, AuditLimits, StateCounts, Store};
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
    a_delivery_that_is_pending_for_too_long_is_late,
    what_must_stand_in_a_queue_is_counted_for_all_times,
    attempts_are_counted_by_their_numbers,
    an_attempt_long_after_the_window_is_found,
}

async fn audit(store: &Store, now_ms: u64) -> Audit {
    store.audit(T, T + 60 * MINUTE, limits(now_ms)).await.unwrap()
}

/// Three events with four deliveries, one of them resent.
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
    record(
        &store,
        [
            taken(&event(8), T - 1, "1:matched"),
            taken(&event(9), T + 60 * MINUTE, "1:matched"),
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
    let found = audit(&store, T + 500).await;
    assert_eq!(found.unbalanced.total, 2);
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

    // What was requested and not yet sent is nobody's fault; once sent, its time begins.
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
    // Long due and far ahead; the one due within 2 s and those of the last 90 s may be in hand.
    let found = audit(&store, T + 100_000).await;
    assert_eq!((found.pending_settled, found.first_runs.total()), (4, 0));

    // The attempts that were due at its end and before may be among what was lost; those that are not due yet are not.
    assert_eq!(found.pending_in_gaps, 0);
    record(&store, [gap("w", T + 12 * MINUTE, T + 13 * MINUTE)]).await;
    assert_eq!(audit(&store, T + 100_000).await.pending_in_gaps, 0);
    record(&store, [gap("w", T - MINUTE, T + 500)]).await;
    assert_eq!(audit(&store, T + 100_000).await.pending_in_gaps, 2);
}

async fn attempts_are_counted_by_their_numbers(bed: Bed) {
    let store = bed.migrated().await;
    let event = event(1);
    let attempts = [(1, T + 1), (1, T + 2), (3, T + 3)].map(|(number, began_ms)| {
        Record::Attempt(attempt(
            to(&event, 1, 0),
            number,
            began_ms,
            Then::Retry { at_ms: T + MINUTE },
        ))
    });
    record(
        &store,
        attempts.into_iter().chain([taken(&event, T, "1:matched")]),
    )
    .await;
    let found = audit(&store, T + 500).await;
    assert_eq!(found.unrecorded.total, 1);
    assert_eq!(
        (
            found.unrecorded.items[0].attempts,
            found.unrecorded.items[0].recorded
        ),
        (3, 2)
    );
}

async fn an_attempt_long_after_the_window_is_found(bed: Bed) {
    let store = bed.migrated().await;
    let event = event(1);
    let late = attempt(to(&event, 1, 0), 1, T + 500 * MINUTE, Then::Delivered);
    record(&store, [taken(&event, T, "1:matched"), Record::Attempt(late)]).await;
    assert_eq!(audit(&store, T + 600 * MINUTE).await.unrecorded.total, 0);
    // No bound overflows.
    let limits = AuditLimits {
        now_ms: u64::MAX,
        in_hand_ms: 0,
        late_ms: u64::MAX,
    };
    let all = store.audit(0, u64::MAX, limits).await.unwrap();
    assert_eq!(
        (all.events, all.unrecorded.total, all.unbalanced.total),
        (1, 0, 0)
    );
}
