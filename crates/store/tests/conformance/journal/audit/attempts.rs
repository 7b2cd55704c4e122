//! Attempts that a delivery counts, compared with those that are recorded.

use std::collections::BTreeMap;

use store::AuditLimits;
use webhook::journal::{Record, Then};

use super::{
    super::{
        super::bed::{Bed, on_both_databases},
        samples::{MINUTE, T, attempt, event, record, taken, to},
    },
    audit,
};

on_both_databases! {
    attempts_are_counted_by_their_numbers,
    an_attempt_long_after_the_window_is_found,
    attempts_that_come_in_any_order_are_known_to_be_recorded,
    more_attempts_than_a_row_has_bits_for_are_counted,
    rows_of_an_older_version_are_compared_with_their_attempts,
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
    bed.execute("DELETE FROM attempts").await;
    assert_eq!(audit(&store, T + 600 * MINUTE).await.unrecorded.total, 1);
    let late = attempt(to(&event, 1, 0), 1, T + 501 * MINUTE, Then::Delivered);
    record(&store, [Record::Attempt(late)]).await;
    // No bound overflows.
    let limits = AuditLimits {
        now_ms: u64::MAX,
        in_hand_ms: 0,
        late_ms: u64::MAX,
        batches_due: BTreeMap::default(),
    };
    let all = store.audit(0, u64::MAX, limits).await.unwrap();
    assert_eq!(
        (all.events, all.unrecorded.total, all.unbalanced.total),
        (1, 0, 0)
    );
}

/// Returns the records of attempts of one delivery, one second apart.
fn attempts(numbers: impl IntoIterator<Item = u32>) -> impl Iterator<Item = Record> {
    let retry = |number| {
        let began_ms = T + u64::from(number) * 1_000;
        let then = Then::Retry {
            at_ms: began_ms + 1_000,
        };
        Record::Attempt(attempt(to(&event(1), 1, 0), number, began_ms, then))
    };
    numbers.into_iter().map(retry)
}

/// Counts the deliveries that have to be compared with their attempts.
const SUSPECTS: &str = "SELECT COUNT(*) FROM deliveries WHERE CASE WHEN recorded IS NULL OR attempts > 62 THEN 1 \
    ELSE (~recorded) & ((CAST(1 AS BIGINT) << CAST(attempts AS INTEGER)) - 1) END <> 0";

async fn attempts_that_come_in_any_order_are_known_to_be_recorded(bed: Bed) {
    let store = bed.migrated().await;
    for numbers in [&[2, 5][..], &[], &[4], &[5, 4], &[1]] {
        let taken = taken(&event(1), T, "1:matched");
        record(&store, attempts(numbers.iter().copied()).chain([taken])).await;
    }
    let found = audit(&store, T + MINUTE).await.unrecorded;
    assert_eq!(
        (found.total, found.items[0].attempts, found.items[0].recorded),
        (1, 5, 4)
    );
    assert_eq!(bed.number(SUSPECTS).await, 1);
    // The attempt that is recorded last does not change the delivery's standing.
    record(&store, attempts([3])).await;
    assert_eq!(audit(&store, T + MINUTE).await.unrecorded.total, 0);
    let recorded = "SELECT recorded FROM deliveries";
    assert_eq!(
        (bed.number(SUSPECTS).await, bed.number(recorded).await),
        (0, 0b11111)
    );
}

async fn more_attempts_than_a_row_has_bits_for_are_counted(bed: Bed) {
    let store = bed.migrated().await;
    let taken = taken(&event(1), T, "1:matched");
    record(&store, attempts(1..=62).chain([taken])).await;
    assert_eq!(bed.number(SUSPECTS).await, 0);
    assert_eq!(audit(&store, T + 3 * MINUTE).await.unrecorded.total, 0);
    record(&store, attempts((63..=70).filter(|number| *number != 65))).await;
    let found = audit(&store, T + 3 * MINUTE).await.unrecorded;
    assert_eq!(
        (found.total, found.items[0].attempts, found.items[0].recorded),
        (1, 70, 69)
    );
    record(&store, attempts([65])).await;
    assert_eq!(audit(&store, T + 3 * MINUTE).await.unrecorded.total, 0);
}

async fn rows_of_an_older_version_are_compared_with_their_attempts(bed: Bed) {
    let store = bed.migrated().await;
    let taken = taken(&event(1), T, "1:matched");
    record(&store, attempts([1, 3]).chain([taken])).await;
    bed.execute("UPDATE deliveries SET recorded = NULL").await;
    record(&store, attempts([4])).await;
    assert_eq!(
        bed.number("SELECT COUNT(*) FROM deliveries WHERE recorded IS NULL")
            .await,
        1
    );
    assert_eq!(audit(&store, T + MINUTE).await.unrecorded.total, 1);
    record(&store, attempts([2])).await;
    assert_eq!(audit(&store, T + MINUTE).await.unrecorded.total, 0);
}
