//! Retention deletes only while the clocks agree.

use store::{Announcement, ClockDoubt, JournalTotals, Position, Store, UNWATCHED_MAX_MS};
use webhook::journal::Then;

use super::{
    super::bed::{Bed, now_ms, on_both_databases},
    samples::{attempt, delivered, event, record, taken, to},
};

on_both_databases! {
    retention_counts_from_the_earlier_of_clock_and_newest_record,
    a_clock_that_jumps_stops_retention_until_an_operator_confirms_the_time,
    a_record_from_the_future_stops_retention_until_it_is_confirmed,
    a_clock_that_differs_from_the_database_is_confirmed_by_none,
    a_role_whose_clock_is_wrong_stops_retention_while_it_runs,
}

const MINUTE: u64 = 60_000;
const DAY: u64 = UNWATCHED_MAX_MS;

async fn look(store: &Store, host: &str) -> Result<u64, ClockDoubt> {
    store.look_at_clocks(host, now_ms()).await.unwrap()
}

async fn stops(store: &Store) -> Vec<(String, String)> {
    let stops = store.retention_stops().await.unwrap();
    stops.into_iter().map(|stop| (stop.host, stop.reason)).collect()
}

/// Sets the time of the last check.
async fn looked(bed: &Bed, at_ms: u64) {
    bed.execute(&format!("UPDATE retention SET looked_ms = {at_ms}"))
        .await;
}

async fn retention_counts_from_the_earlier_of_clock_and_newest_record(bed: Bed) {
    let store = bed.migrated().await;
    let counted_ms = look(&store, "a").await.unwrap();
    assert!(
        counted_ms <= now_ms() && counted_ms + MINUTE > now_ms(),
        "nothing is recorded yet"
    );

    let bed_is_fresh = "UPDATE retention SET looked_ms = NULL";
    bed.execute(bed_is_fresh).await;
    let newest_ms = now_ms() - 30 * MINUTE;
    record(
        &store,
        [
            taken(&event(1), newest_ms - MINUTE, "1:matched"),
            delivered(&event(1), 1, newest_ms),
        ],
    )
    .await;
    assert_eq!(look(&store, "a").await, Ok(newest_ms));
    // From now on the checks show that time passes, even if nothing is recorded.
    assert!(look(&store, "a").await.unwrap() > newest_ms);
    assert_eq!(stops(&store).await, []);
}

async fn a_clock_that_jumps_stops_retention_until_an_operator_confirms_the_time(bed: Bed) {
    let store = bed.migrated().await;
    // The clock has jumped forward: the last check is 31 days old.
    looked(&bed, now_ms() - 31 * DAY).await;
    let failed = attempt(to(&event(1), 1, 0), 1, now_ms(), Then::Retry { at_ms: now_ms() });
    for _ in 0..2 {
        let doubt = look(&store, "a").await.unwrap_err();
        assert!(
            matches!(doubt, ClockDoubt::Unwatched { for_ms } if for_ms >= 31 * DAY),
            "{doubt}"
        );
        assert_eq!(stops(&store).await, [("a".to_owned(), doubt.to_string())]);
        // What the same host records meanwhile does not resolve the doubt.
        record(&store, [webhook::journal::Record::Attempt(failed.clone())]).await;
    }
    assert_eq!(store.confirm_time(now_ms()).await.unwrap(), Ok(()));
    assert_eq!(stops(&store).await, []);
    look(&store, "a").await.unwrap();

    // The clock of host `b` is two days behind the last check.
    looked(&bed, now_ms() + 2 * DAY).await;
    let doubt = look(&store, "b").await.unwrap_err();
    assert!(matches!(doubt, ClockDoubt::Backwards { .. }), "{doubt}");
    looked(&bed, now_ms()).await;
    look(&store, "b").await.unwrap();
    assert_eq!(stops(&store).await, [], "they agree again");
}

async fn a_record_from_the_future_stops_retention_until_it_is_confirmed(bed: Bed) {
    let store = bed.migrated().await;
    let ahead_ms = now_ms() + 2 * DAY;
    record(&store, [taken(&event(1), ahead_ms, "1:matched")]).await;
    let doubt = look(&store, "a").await.unwrap_err();
    assert!(matches!(doubt, ClockDoubt::RecordAhead { .. }), "{doubt}");
    assert_eq!(store.confirm_time(now_ms()).await.unwrap(), Ok(()));
    assert!(look(&store, "a").await.unwrap() <= now_ms());
    record(&store, [delivered(&event(1), 1, ahead_ms + 1)]).await;
    look(&store, "a").await.unwrap_err();
}

async fn a_clock_that_differs_from_the_database_is_confirmed_by_none(bed: Bed) {
    let store = bed.migrated().await;
    for wrong_ms in [now_ms() - 2 * DAY, now_ms() + 31 * DAY] {
        let looked = store.look_at_clocks("a", wrong_ms).await.unwrap();
        assert!(matches!(looked, Err(ClockDoubt::Database { .. })), "{looked:?}");
        let confirmed = store.confirm_time(wrong_ms).await.unwrap();
        assert!(
            matches!(confirmed, Err(ClockDoubt::Database { .. })),
            "{confirmed:?}"
        );
    }
    assert_eq!(stops(&store).await.len(), 1);
    look(&store, "a").await.unwrap();
    assert_eq!(stops(&store).await, []);
}

/// Records of a worker whose clock is 31 days behind would be deleted at once.
async fn a_role_whose_clock_is_wrong_stops_retention_while_it_runs(bed: Bed) {
    let store = bed.migrated().await;
    let announce = async |process, ahead_ms: i64| {
        let announcement = Announcement {
            process,
            role: "worker",
            host: "host_2",
            position: Position::default(),
            journal: JournalTotals::default(),
            in_hand: 0,
            now_ms: now_ms().saturating_add_signed(ahead_ms),
        };
        store.announce_role(&announcement).await.unwrap();
    };
    let (minute, month) = (MINUTE as i64, (31 * DAY + MINUTE) as i64);
    for right in [0, 59 * minute, -59 * minute] {
        announce("w1", right).await;
        look(&store, "a").await.unwrap();
    }
    for (wrong, by) in [
        (-month, "31 days"),
        (month, "31 days"),
        (61 * minute + minute / 2, "61 minutes"),
    ] {
        announce("w1", wrong).await;
        let doubt = look(&store, "a").await.unwrap_err().to_string();
        assert!(
            doubt.contains("host_2, where a worker runs") && doubt.ends_with(by),
            "{doubt}"
        );
        assert_eq!(stops(&store).await, [("a".to_owned(), doubt.clone())]);
        // An operator's confirmation is refused, and the role's records do not hide the doubt.
        let refused = store.confirm_time(now_ms()).await.unwrap().unwrap_err();
        assert_eq!(refused.to_string(), doubt);
        let recorded_ms = now_ms().saturating_add_signed(wrong);
        record(&store, [taken(&event(1), recorded_ms, "1:matched")]).await;
        assert_eq!(look(&store, "a").await.unwrap_err().to_string(), doubt);
        bed.execute("DELETE FROM events; DELETE FROM deliveries").await;
    }
    // The doubt ends when the role's clock is set, and when the role ends, with or without an announcement.
    announce("w1", 0).await;
    look(&store, "a").await.unwrap();
    announce("w1", month).await;
    look(&store, "a").await.unwrap_err();
    store.close_role("w1", "worker").await.unwrap();
    look(&store, "a").await.unwrap();
    announce("w2", month).await;
    look(&store, "a").await.unwrap_err();
    bed.execute("UPDATE roles SET seen_ms = seen_ms - 121000").await;
    look(&store, "a").await.unwrap();
    assert_eq!(stops(&store).await, []);
}
