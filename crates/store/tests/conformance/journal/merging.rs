//! Books that are written in any order, more than once, and by several recorders at once.

use proptest::{
    collection::vec, option, prelude::*, sample::select, strategy::ValueTree, test_runner::TestRunner,
};
use store::{DeliveryFilter, Store};
use webhook::{
    AttemptId, CancelReason, DeadReason, DeferReason, EndpointId,
    journal::{AttemptRecord, Books, DeliveryRef, Gap, Record, StepRecord, Then},
};

use super::{
    super::bed::{Bed, on_both_databases},
    samples::{T, attempt, books, delivered, dump, ep, event, event_of, org, record, taken, to},
};

on_both_databases! {
    every_order_and_duplication_ends_in_the_same_tables,
    recorders_that_write_the_same_at_once_end_in_the_same_tables,
    what_a_repetition_finds_unchanged_it_does_not_write,
    a_nul_in_a_text_is_replaced_and_found_again,
    an_event_that_somebody_broke_is_written_anew,
    many_records_are_written_in_chunks,
}

const CASES: usize = 24;

fn times() -> impl Strategy<Value = u64> {
    T..T + 3
}

fn deliveries() -> impl Strategy<Value = DeliveryRef> {
    (1..3_u32, 1..3_u32, 0..2_u32).prop_map(|(number, endpoint, run)| to(&event(number), endpoint, run))
}

fn thens() -> impl Strategy<Value = Then> {
    prop_oneof![
        Just(Then::Delivered),
        times().prop_map(|at_ms| Then::Retry { at_ms }),
        (times(), select(vec![DeferReason::NoSlot, DeferReason::Fault]))
            .prop_map(|(at_ms, reason)| Then::Deferred { reason, at_ms }),
        select(vec![DeadReason::Exhausted, DeadReason::Gone]).prop_map(|reason| Then::Dead { reason }),
        Just(Then::Cancelled {
            reason: CancelReason::EndpointDeleted
        }),
    ]
}

fn records() -> impl Strategy<Value = Record> {
    let verdicts = select(vec![
        "1:matched",
        "1:project",
        "2:matched 1:event_type",
        "2:disabled.gone.5",
        "",
    ]);
    // The third event has the id of the first one in another organization. The fourth has the key of the
    // second one and another body.
    let events = (1..5_u32, times(), verdicts).prop_map(|(number, received_ms, verdicts)| {
        let event = match number {
            3 => event_of("lead.created", &org(2), 1),
            4 => event_of("lead.failed", &org(1), 2),
            _ => event(number),
        };
        taken(&event, received_ms, verdicts)
    });
    // Texts whose order in a language's collation differs from the order of their bytes.
    let errors = || select(vec!["", "a", "B", "_a", "é", "status 500"]);
    let attempts = (
        any::<[u8; 10]>(),
        deliveries(),
        1..3_u32,
        times(),
        option::of(200..600_u16),
        errors(),
        thens(),
    )
        .prop_map(|(random, delivery, number, began_ms, status, error, then)| {
            Record::Attempt(AttemptRecord {
                id: AttemptId::generate(began_ms, random),
                status,
                error: error.to_owned(),
                ..attempt(delivery, number, began_ms, then)
            })
        });
    let steps = (
        deliveries(),
        times(),
        0..2_u32,
        option::of(500..502_u16),
        errors(),
        thens(),
    )
        .prop_map(|(delivery, at_ms, attempts, last_status, last_error, then)| {
            let last_error = last_error.to_owned();
            Record::Step(StepRecord {
                delivery,
                at_ms,
                attempts,
                last_status,
                last_error,
                then,
            })
        });
    let gaps = (select(vec!["one", "two"]), T..T + 2, T + 2..T + 4, 1..4_u64).prop_map(
        |(worker, from_ms, until_ms, count)| {
            let worker = worker.to_owned();
            Record::Gap(Gap {
                worker,
                from_ms,
                until_ms,
                count,
                batches: None,
            })
        },
    );
    prop_oneof![3 => events, 3 => attempts, 3 => steps, 1 => gaps]
}

async fn clear(bed: &Bed) {
    bed.execute("DELETE FROM events; DELETE FROM deliveries; DELETE FROM attempts; DELETE FROM gaps")
        .await;
}

/// Asserts that the tables contain the deliveries of [`Books`], which are computed without a database.
async fn assert_deliveries(store: &Store, books: &Books) {
    let stored = store
        .deliveries(&DeliveryFilter::default(), None, 1_000)
        .await
        .unwrap();
    assert_eq!(stored.len(), books.deliveries.len());
    for row in stored {
        let entry = &books.deliveries[&row.id];
        assert_eq!(
            (&row.delivery, row.created_ms, &row.standing),
            (&entry.delivery, entry.created_ms, &entry.standing)
        );
    }
}

async fn every_order_and_duplication_ends_in_the_same_tables(bed: Bed) {
    let store = bed.migrated().await;
    let mut runner = TestRunner::default();
    let batches = [vec(records(), 0..6), vec(records(), 0..6), vec(records(), 0..6)];
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for _ in 0..CASES {
        let batches = batches.new_tree(&mut runner).unwrap().current();
        let all = books(batches.iter().flatten().cloned());
        clear(&bed).await;
        store.record(&all, &[]).await.unwrap();
        let expected = dump(&store).await;
        assert_deliveries(&store, &all).await;
        for order in orders {
            clear(&bed).await;
            // The first batch is repeated at the end, and the second one immediately.
            for batch in [order[0], order[1], order[1], order[2], order[0]] {
                record(&store, batches[batch].clone()).await;
            }
            assert_eq!(dump(&store).await, expected, "{order:?} of {batches:#?}");
        }
    }
}

async fn recorders_that_write_the_same_at_once_end_in_the_same_tables(bed: Bed) {
    let store = bed.migrated().await;
    let mut runner = TestRunner::default();
    let batches: Vec<_> = (0..8)
        .map(|_| vec(records(), 20..40).new_tree(&mut runner).unwrap().current())
        .collect();
    store
        .record(&books(batches.iter().flatten().cloned()), &[])
        .await
        .unwrap();
    let expected = dump(&store).await;
    clear(&bed).await;

    let write = |first: usize| {
        let (bed, batches) = (bed.clone(), batches.clone());
        tokio::spawn(async move {
            let store = bed.connect().await;
            for at in 0..batches.len() {
                let books = books(batches[(first + at * 3) % batches.len()].clone());
                // Retries transient errors, like the recorder.
                while let Err(error) = store.record(&books, &[]).await {
                    assert!(error.is_unavailable(), "{error:?}");
                }
            }
        })
    };
    for recorder in [0, 3, 5, 6].map(write) {
        recorder.await.unwrap();
    }
    assert_eq!(dump(&store).await, expected);
}

async fn what_a_repetition_finds_unchanged_it_does_not_write(bed: Bed) {
    let store = bed.migrated().await;
    let event = event(1);
    let records = [taken(&event, T, "1:matched"), delivered(&event, 1, T + 1)];
    record(&store, records.clone()).await;
    if bed.sqlite_path().is_none() {
        // PostgreSQL writes every new version of a row to another place.
        let places = "SELECT SUM(hashtext(ctid::text || xmin::text)) FROM (SELECT ctid, xmin FROM events UNION ALL \
                      SELECT ctid, xmin FROM deliveries UNION ALL SELECT ctid, xmin FROM attempts) rows";
        let before = bed.number(places).await;
        record(&store, records).await;
        assert_eq!(bed.number(places).await, before);
    } else {
        let before = dump(&store).await;
        record(&store, records).await;
        assert_eq!(dump(&store).await, before);
    }
}

async fn a_nul_in_a_text_is_replaced_and_found_again(bed: Bed) {
    let store = bed.migrated().await;
    // A JSON escape; the body itself contains no NUL byte.
    let nul = event_of("lead.created", &webhook::OrganizationId::new("a\\u0000b"), 1);
    assert_eq!(nul.organization_id.as_str(), "a\0b");
    let failed = AttemptRecord {
        error: "it said \0".to_owned(),
        ..attempt(to(&nul, 1, 0), 1, T, Then::Retry { at_ms: T + 1_000 })
    };
    let records = [taken(&nul, T, "1:matched"), Record::Attempt(failed.clone())];
    record(&store, records.clone()).await;
    record(&store, records).await;

    let found = store.event(&nul.id, Some(&nul.organization_id)).await.unwrap();
    assert_eq!(found[0].event, nul);
    let deliveries = store
        .deliveries_of_event(&nul.organization_id, &nul.id)
        .await
        .unwrap();
    assert_eq!(deliveries[0].delivery.organization_id.as_str(), "a\u{fffd}b");
    assert_eq!(deliveries[0].standing.last_error, "it said \u{fffd}");
    let attempts = store.attempts(&failed.delivery.id()).await.unwrap();
    assert_eq!(attempts[0].error, "it said \u{fffd}");
}

async fn an_event_that_somebody_broke_is_written_anew(bed: Bed) {
    let store = bed.migrated().await;
    record(&store, [taken(&event(1), T, "1:matched")]).await;
    bed.execute("UPDATE events SET considered = 'what?', matched = 9")
        .await;
    let error = store.event(&event(1).id, None).await.unwrap_err();
    assert!(
        super::super::bed::all_of(&error).contains("considered"),
        "{error:?}"
    );
    assert!(!error.is_unavailable());

    record(&store, [taken(&event(1), T + 5, "2:matched")]).await;
    let found = store.event(&event(1).id, None).await.unwrap();
    let matched: Vec<&EndpointId> = found[0].considered.matched().collect();
    assert_eq!(matched, [&ep(2)]);
}

async fn many_records_are_written_in_chunks(bed: Bed) {
    let store = bed.migrated().await;
    // Chunks of 64, 64, 8 and 1 rows.
    let numbers = 0..137;
    let records = numbers.flat_map(|number| {
        let event = event(number);
        [
            taken(&event, T + u64::from(number), "1:matched"),
            delivered(&event, 1, T + u64::from(number)),
        ]
    });
    record(&store, records).await;
    for table in ["events", "deliveries", "attempts"] {
        assert_eq!(
            bed.number(&format!("SELECT COUNT(*) FROM {table}")).await,
            137,
            "{table}"
        );
    }
}
