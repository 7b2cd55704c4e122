//! The totals by minute: the number of rows that were ever added.

use store::{Store, Vanished};

use super::{
    super::bed::{Bed, on_both_databases},
    samples::{MINUTE, T, delivered, died, dlv, event, evt, limits, record, taken},
};

on_both_databases! {
    whatever_comes_twice_and_in_parts_is_counted_once,
    an_event_that_is_deleted_with_all_that_belongs_to_it_is_missed,
    a_requested_run_is_missed,
    retention_deletes_totals_and_rows_in_step,
    rows_of_before_there_were_totals_are_not_missed,
    a_row_that_moves_to_another_minute_hides_none,
}

async fn vanished(store: &Store) -> Vanished {
    in_window(store, T - 9 * MINUTE).await
}

async fn in_window(store: &Store, from_ms: u64) -> Vanished {
    let until_ms = T + 9 * MINUTE;
    let audit = store.audit(from_ms, until_ms, limits(until_ms)).await;
    audit.unwrap().vanished
}

/// The second worker received the event one minute before the first one.
async fn whatever_comes_twice_and_in_parts_is_counted_once(bed: Bed) {
    let store = bed.migrated().await;
    for _ in 0..2 {
        record(
            &store,
            [taken(&event(1), T, "1:matched"), delivered(&event(1), 1, T)],
        )
        .await;
        record(&store, [delivered(&event(1), 1, T)]).await;
        record(&store, [taken(&event(1), T - MINUTE, "1:matched 2:matched")]).await;
        record(&store, [delivered(&event(1), 2, T + 2 * MINUTE)]).await;
        assert_eq!(vanished(&store).await, Vanished::default());
    }
    let sums =
        "SELECT CAST(SUM(events * 1000 + matched * 100 + deliveries * 10 + attempts) AS BIGINT) FROM totals";
    assert_eq!(bed.number(sums).await, 1_000 + 200 + 20 + 2);
    let early = format!("{sums} WHERE minute_ms < {}", T / MINUTE * MINUTE);
    assert_eq!(
        bed.number(&early).await,
        1_000 + 200 + 20,
        "of the minute that is in the rows now"
    );
}

async fn an_event_that_is_deleted_with_all_that_belongs_to_it_is_missed(bed: Bed) {
    let store = bed.migrated().await;
    for number in 1..4 {
        let taken = taken(&event(number), T, "1:matched 2:matched");
        record(
            &store,
            [
                taken,
                delivered(&event(number), 1, T),
                died(&event(number), 2, 0, T),
            ],
        )
        .await;
    }
    assert_eq!(vanished(&store).await, Vanished::default());
    bed.execute(
        "DELETE FROM attempts WHERE delivery_id IN (SELECT id FROM deliveries WHERE event_id = 'evt_2'); \
         DELETE FROM deliveries WHERE event_id = 'evt_2'; DELETE FROM events WHERE id = 'evt_2'",
    )
    .await;
    let audit = store
        .audit(T - MINUTE, T + MINUTE, limits(T + MINUTE))
        .await
        .unwrap();
    assert_eq!(
        (audit.unbalanced.total, audit.unrecorded.total, audit.matched),
        (0, 0, 4),
        "what is left balances"
    );
    let expected = Vanished {
        events: 1,
        matched: 2,
        deliveries: 2,
        attempts: 1,
        first_ms: Some(T / MINUTE * MINUTE),
    };
    assert_eq!(vanished(&store).await, expected);
    let elsewhere = in_window(&store, T + 2 * MINUTE).await;
    assert_eq!(elsewhere, Vanished::default(), "in a window without it");
}

async fn a_requested_run_is_missed(bed: Bed) {
    let store = bed.migrated().await;
    record(
        &store,
        [taken(&event(1), T, "1:matched"), died(&event(1), 1, 0, T)],
    )
    .await;
    store
        .request_resends(&[dlv(1, 1, 0)], T + 3 * MINUTE)
        .await
        .unwrap();
    store
        .request_resends(&[dlv(1, 1, 0)], T + 3 * MINUTE)
        .await
        .unwrap();
    record(&store, [died(&event(1), 1, 1, T + 4 * MINUTE)]).await;
    assert_eq!(vanished(&store).await, Vanished::default());
    bed.execute("DELETE FROM deliveries WHERE run = 1").await;
    let found = vanished(&store).await;
    assert_eq!(
        (found.deliveries, found.first_ms),
        (1, Some((T + 3 * MINUTE) / MINUTE * MINUTE))
    );
}

/// Event 1 is pending and stays, event 2 expires, and event 3 is too recent.
async fn retention_deletes_totals_and_rows_in_step(bed: Bed) {
    let store = bed.migrated().await;
    for (number, at_ms) in [(1, T), (2, T + 1), (3, T + 5 * MINUTE)] {
        record(&store, [taken(&event(number), at_ms, "1:matched")]).await;
    }
    for (number, at_ms) in [(2, T + 1), (3, T + 5 * MINUTE)] {
        record(&store, [delivered(&event(number), 1, at_ms)]).await;
    }
    let mut from_ms = 0;
    while from_ms < T + MINUTE {
        from_ms = store
            .delete_expired(from_ms, T + MINUTE, 1)
            .await
            .unwrap()
            .until_ms;
        assert_eq!(vanished(&store).await, Vanished::default());
    }
    assert_eq!(bed.number("SELECT COUNT(*) FROM events").await, 2);
    assert!(store.event(&evt(2), None).await.unwrap().is_empty());
    // A late row of the minute that was partly deleted.
    record(&store, [delivered(&event(1), 1, T + 2)]).await;
    assert_eq!(vanished(&store).await, Vanished::default());
    bed.execute("DELETE FROM events WHERE id = 'evt_3'").await;
    assert_eq!(vanished(&store).await.events, 1);
}

async fn rows_of_before_there_were_totals_are_not_missed(bed: Bed) {
    let store = bed.migrated().await;
    for number in 1..9 {
        record(&store, [taken(&event(number), T, "1:matched")]).await;
    }
    bed.execute("DELETE FROM totals; DELETE FROM events WHERE id = 'evt_4'")
        .await;
    assert_eq!(vanished(&store).await, Vanished::default());
    record(&store, [taken(&event(9), T + 1, "1:matched")]).await;
    assert_eq!(vanished(&store).await, Vanished::default());
    record(&store, [taken(&event(10), T + 3 * MINUTE, "1:matched")]).await;
    bed.execute("DELETE FROM events WHERE id = 'evt_10'").await;
    assert_eq!(vanished(&store).await.events, 1);
}

/// The number of events stays the same, but two of them move to the minute between their original ones.
async fn a_row_that_moves_to_another_minute_hides_none(bed: Bed) {
    let store = bed.migrated().await;
    for number in 1..6 {
        record(
            &store,
            [taken(&event(number), T + u64::from(number) * MINUTE, "1:matched")],
        )
        .await;
    }
    bed.execute(
        "UPDATE events SET received_ms = received_ms + 60000 WHERE id = 'evt_1'; \
         UPDATE events SET received_ms = received_ms - 60000 WHERE id = 'evt_3'",
    )
    .await;
    let found = vanished(&store).await;
    assert_eq!((found.events, found.matched), (2, 2));
}
