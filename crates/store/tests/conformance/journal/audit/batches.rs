//! Batches that never came, and records that a worker dropped.

use store::{Announcement, AuditLimits, Dropping, JournalTotals, LostCause, Position, Store};
use webhook::journal::{BatchStamp, Gap, Record};

use super::{
    super::{
        super::bed::{Bed, now_ms, on_both_databases},
        samples::{MINUTE, T, books, delivered, event, limits, taken},
    },
    audit,
};

on_both_databases! {
    batches_end_up_in_the_same_row_in_every_order,
    a_batch_that_never_came_is_lost_after_a_minute_and_explains_as_a_gap_does,
    what_was_announced_as_made_and_never_came_is_lost,
    a_worker_that_announced_that_it_drops_records_and_ended_has_lost_some,
}

/// Records a batch of worker `w1` with this number.
async fn record_batch(store: &Store, number: u64, records: impl IntoIterator<Item = Record>) {
    let mut books = books(records);
    books.stamp(&BatchStamp {
        worker: "w1".to_owned(),
        number,
        settled: number - 1,
        made_ms: T + number,
    });
    store.record(&books, &[]).await.unwrap();
}

async fn announce(store: &Store, journal: JournalTotals) {
    let announcement = Announcement {
        process: "w1",
        role: "worker",
        host: "host_1",
        position: Position::default(),
        journal,
        in_hand: 0,
        now_ms: now_ms(),
    };
    store.announce_role(&announcement).await.unwrap();
}

/// Returns the causes of all certain losses, over all time.
async fn lost(store: &Store) -> Vec<LostCause> {
    let audit = store.audit(0, u64::MAX, limits(T + MINUTE)).await.unwrap();
    let certain = audit.lost.into_iter().filter(|lost| lost.certain_in_ms == 0);
    certain.map(|lost| lost.cause).collect()
}

async fn batches_end_up_in_the_same_row_in_every_order(bed: Bed) {
    let store = bed.migrated().await;
    let mut row = None;
    for order in ["1234", "1324", "1243", "2134", "4321", "1423", "1332144"] {
        bed.execute("DELETE FROM batches").await;
        for number in order.bytes().map(|digit| u64::from(digit - b'0')) {
            record_batch(&store, number, []).await;
        }
        assert_eq!(bed.number("SELECT COUNT(*) FROM batches").await, 1, "{order}");
        let columns = ["first_number", "last_number", "from_ms", "until_ms", "settled"];
        let mut found = Vec::new();
        for column in columns {
            found.push(bed.number(&format!("SELECT {column} FROM batches")).await);
        }
        assert_eq!(*row.get_or_insert_with(|| found.clone()), found, "{order}");
    }
}

async fn a_batch_that_never_came_is_lost_after_a_minute_and_explains_as_a_gap_does(bed: Bed) {
    let store = bed.migrated().await;
    let one = event(1);
    record_batch(&store, 1, [taken(&one, T, "1:matched 2:matched")]).await;
    bed.execute("DELETE FROM deliveries WHERE endpoint_id = (SELECT MAX(endpoint_id) FROM deliveries)")
        .await;
    record_batch(&store, 4, [delivered(&one, 1, T + 1)]).await;
    record_batch(&store, 3, []).await;
    record_batch(&store, 3, []).await;
    let rows = "SELECT COUNT(*) FROM batches";
    assert_eq!(bed.number(rows).await, 2);
    assert_eq!(lost(&store).await, []);
    let found = audit(&store, T + MINUTE).await;
    assert!(found.lost[0].certain_in_ms > 0, "it may come: {found:?}");
    assert_eq!((found.unbalanced.total, found.unbalanced.in_gaps), (1, 1));

    bed.execute("UPDATE batches SET recorded_ms = recorded_ms - 61000")
        .await;
    announce(&store, JournalTotals::default()).await;
    let batches = 1;
    assert_eq!(lost(&store).await, [LostCause::Missing { batches }]);
    let found = audit(&store, T + MINUTE).await;
    assert_eq!((found.unbalanced.total, found.unbalanced.in_gaps), (1, 1));
    assert_eq!((found.lost[0].from_ms, found.lost[0].until_ms), (T + 1, T + 3));

    // The batch is accounted for once a gap names it.
    let late = Record::Gap(Gap {
        worker: "w1".to_owned(),
        from_ms: T,
        until_ms: T,
        count: 1,
        batches: Some((2, 2)),
    });
    record_batch(&store, 5, [late]).await;
    assert_eq!(bed.number(rows).await, 1);
    assert_eq!(lost(&store).await, []);
    store.delete_expired(0, 2 * T, 1_000).await.unwrap();
    assert_eq!(bed.number(rows).await, 1, "its worker is remembered");
    bed.execute("DELETE FROM roles").await;
    store.delete_expired(0, 2 * T, 1_000).await.unwrap();
    assert_eq!(bed.number(rows).await, 0);
}

async fn what_was_announced_as_made_and_never_came_is_lost(bed: Bed) {
    let store = bed.migrated().await;
    let made = |batches_made| JournalTotals {
        batches_made,
        ..JournalTotals::default()
    };
    record_batch(&store, 1, []).await;
    announce(&store, made(3)).await;
    assert_eq!(lost(&store).await, []);
    let due = store.batches_made().await.unwrap();
    assert_eq!(due, [("w1".to_owned(), 3)].into());
    let limits = AuditLimits {
        batches_due: due,
        ..limits(T + MINUTE)
    };
    let uncertain = store.audit(0, u64::MAX, limits).await.unwrap().lost;
    assert_eq!(uncertain[0].cause, LostCause::MissingInTheEnd { batches: 2 });
    assert!(uncertain[0].certain_in_ms > 0, "{uncertain:?}");
    bed.execute("UPDATE roles SET made_ms = made_ms - 61000").await;
    announce(&store, made(3)).await;
    let batches = 2;
    assert_eq!(lost(&store).await, [LostCause::MissingInTheEnd { batches }]);
    store.close_role("w1", "worker").await.unwrap();
    assert_eq!(lost(&store).await, [LostCause::MissingInTheEnd { batches }]);
    record_batch(&store, 2, []).await;
    record_batch(&store, 3, []).await;
    assert_eq!(lost(&store).await, []);
    announce(&store, made(4)).await;
    assert_eq!(lost(&store).await, [], "it may be on its way");
}

async fn a_worker_that_announced_that_it_drops_records_and_ended_has_lost_some(bed: Bed) {
    let store = bed.migrated().await;
    let dropping = JournalTotals {
        dropping: Some(Dropping {
            lasted: std::time::Duration::from_secs(5),
            batch: 2,
        }),
        batches_made: 2,
        batches_dropped: 1,
        records_made: 50,
        records_dropped: 40,
    };
    record_batch(&store, 1, []).await;
    announce(&store, dropping).await;
    let lost_so_far = |is_heard| LostCause::Dropping {
        records_min: 40,
        is_heard,
    };
    assert_eq!(lost(&store).await, [lost_so_far(true)]);
    bed.execute("UPDATE roles SET seen_ms = seen_ms - 4000").await;
    assert_eq!(lost(&store).await, [lost_so_far(false)]);
    let gap = Record::Gap(Gap {
        worker: "w1".to_owned(),
        from_ms: T,
        until_ms: T,
        count: 40,
        batches: Some((2, 2)),
    });
    record_batch(&store, 3, [gap]).await;
    assert_eq!(lost(&store).await, [], "the gap was recorded");
}
