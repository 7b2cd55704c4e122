//! The health of endpoints.

use std::{ops::Range, time::Duration};

use store::{
    Activity, Announcement, Dropping, EndpointChange, EndpointCounts, Health, JournalTotals, Overview,
    Pending, Position, Store,
};
use webhook::{
    DisabledReason,
    journal::{Record, Then},
};

use super::{
    super::bed::{Bed, endpoint_id, new_endpoint, on_both_databases},
    samples::{MINUTE, T, attempt, delivered, died, ep, event, event_of, gap, org, record, taken, to},
};

on_both_databases! {
    an_endpoint_without_attempts_has_no_health,
    health_counts_the_last_hour_and_says_since_when_it_fails,
    percentiles_are_of_all_attempts_of_the_last_hour,
    an_endpoint_that_fails_for_days_is_found,
    short_outages_days_apart_are_not_one_long_one,
    a_change_gives_a_failing_endpoint_its_days_anew,
    what_fails_now_is_listed_with_why_and_how_much_waits,
    the_present_state_is_counted,
    what_happens_in_one_organization_is_counted_without_the_others,
}

const DAY: u64 = 24 * 60 * MINUTE;

fn failed(number: u32, endpoint: u32, began_ms: u64) -> Record {
    Record::Attempt(attempt(
        to(&event(number), endpoint, 0),
        1,
        began_ms,
        Then::Retry {
            at_ms: began_ms + 1_000,
        },
    ))
}

/// Endpoint 1 fails and has succeeded before; 2 never succeeded and was disabled for it; 3 succeeded last; 4
/// fails and is disabled manually; 5 had no attempt; 6 fails and belongs to another organization; 7 fails and
/// is deleted.
async fn what_fails_now_is_listed_with_why_and_how_much_waits(bed: Bed) {
    let store = bed.migrated().await;
    for number in 1..8 {
        let organization = if number == 6 { "org_2" } else { "org_1" };
        store
            .create_endpoint(new_endpoint(organization), ep(number), 1)
            .await
            .unwrap();
    }
    let records = [
        delivered(&event(1), 1, T),
        failed(2, 1, T + 5),
        failed(3, 1, T + 9),
        failed(4, 2, T - 90 * MINUTE),
        failed(5, 3, T + 1),
        delivered(&event(6), 3, T + 2),
        failed(7, 4, T),
        failed(8, 6, T),
        failed(9, 7, T),
    ];
    record(&store, records).await;
    for (number, reason) in [(2, DisabledReason::Failing), (4, DisabledReason::Manual)] {
        store.disable_endpoint(&ep(number), reason, 5).await.unwrap();
    }
    store.delete_endpoint(&ep(7), 6).await.unwrap();
    let found = store.failing(Some(&org(1)), None, 9, T + MINUTE).await.unwrap();
    let ids: Vec<_> = found.iter().map(|found| found.endpoint.id.clone()).collect();
    assert_eq!(ids, [ep(1), ep(2)]);
    let [first, second] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(
        (
            first.last_success_ms,
            first.failing_since_ms,
            first.last_failure_ms
        ),
        (Some(T), T + 5, T + 9)
    );
    assert_eq!((first.attempts_hour, first.successes_hour), (3, 1));
    assert_eq!((first.pending, first.oldest_pending_ms), (2, Some(T + 5)));
    assert_eq!(
        (second.last_success_ms, second.attempts_hour, second.pending),
        (None, 0, 1)
    );
    assert!(!first.last_error.is_empty(), "{first:?}");

    let all = store.failing(None, Some(&ep(1)), 1, T + MINUTE).await.unwrap();
    assert_eq!(all[0].endpoint.id, ep(2));
    let all = store.failing(None, Some(&ep(2)), 9, T + MINUTE).await.unwrap();
    assert_eq!((all.len(), &all[0].endpoint.id), (1, &ep(6)));
}

/// One event and two attempts within the last minute. One worker has recorded a gap, and another one drops
/// records.
async fn the_present_state_is_counted(bed: Bed) {
    let store = bed.migrated().await;
    let now_ms = T + 2 * MINUTE;
    let overview = store.overview(now_ms, T, now_ms).await.unwrap();
    assert_eq!(overview, Overview::default());
    assert_eq!(store.pending().await.unwrap(), Pending::default());
    let records = [
        taken(&event(1), T, "1:matched"),
        taken(&event(2), now_ms - 9, "1:matched"),
        failed(1, 1, T),
        delivered(&event(2), 1, now_ms - 9),
        failed(3, 1, now_ms - 5),
        died(&event(4), 1, 0, T + 1),
        gap("w1", T, T + 1),
        gap("w1", T - 9, T - 1),
    ];
    record(&store, records).await;
    let announced = Announcement {
        process: "w2",
        role: "worker",
        host: "host_1",
        position: Position::default(),
        journal: JournalTotals {
            dropping: Some(Dropping {
                lasted: Duration::from_secs(5),
                batch: 1,
            }),
            ..JournalTotals::default()
        },
        in_hand: 0,
        now_ms,
    };
    store.announce_role(&announced).await.unwrap();
    let activity = Activity {
        events_minute: 1,
        attempts_minute: vec![("delivered".to_owned(), 1), ("retry".to_owned(), 1)],
        last_attempt_ms: Some(now_ms - 5),
        pending: 2,
        oldest_pending_ms: Some(T),
        overdue: 1,
        dead: 1,
    };
    let expected = Overview {
        activity: activity.clone(),
        gaps: 2,
        missing_batches: 0,
    };
    let overdue_ms = now_ms - 1_000;
    assert_eq!(store.overview(now_ms, T, overdue_ms).await.unwrap(), expected);
    let pending = Pending {
        count: activity.pending,
        oldest_ms: activity.oldest_pending_ms,
    };
    assert_eq!(store.pending().await.unwrap(), pending);
}

/// `org_1` has the endpoints 1, 2, which is disabled, and 3, which is deleted. `org_2` has endpoint 4, and an
/// event with the id of one of `org_1`.
async fn what_happens_in_one_organization_is_counted_without_the_others(bed: Bed) {
    let store = bed.migrated().await;
    let (now_ms, other) = (T + 2 * MINUTE, org(2));
    let read = async |number: u32| {
        let overdue_ms = now_ms - 1_000;
        store.activity(&org(number), now_ms, T, overdue_ms).await.unwrap()
    };
    assert_eq!(read(1).await, (EndpointCounts::default(), Activity::default()));
    for (number, organization) in [(1, "org_1"), (2, "org_1"), (3, "org_1"), (4, "org_2")] {
        store
            .create_endpoint(new_endpoint(organization), ep(number), 1)
            .await
            .unwrap();
    }
    let manual = DisabledReason::Manual;
    store.disable_endpoint(&ep(2), manual, 5).await.unwrap();
    store.delete_endpoint(&ep(3), 6).await.unwrap();
    let foreign = |number| event_of("lead.completed", &other, number);
    let records = [
        taken(&event(1), T, "1:matched"),
        taken(&event(2), now_ms - 9, "1:matched"),
        taken(&foreign(2), now_ms - 8, "4:matched"),
        failed(1, 1, T),
        delivered(&event(2), 1, now_ms - 9),
        failed(3, 1, now_ms - 5),
        died(&event(4), 2, 0, T + 1),
        died(&event(5), 2, 0, T - 1),
        delivered(&foreign(2), 4, now_ms - 3),
        died(&foreign(6), 4, 0, T + 2),
    ];
    record(&store, records).await;
    let (endpoints, activity) = read(1).await;
    assert_eq!((endpoints.all, endpoints.disabled), (2, 1));
    let expected = Activity {
        events_minute: 1,
        attempts_minute: vec![("delivered".to_owned(), 1), ("retry".to_owned(), 1)],
        last_attempt_ms: Some(now_ms - 5),
        pending: 2,
        oldest_pending_ms: Some(T),
        overdue: 1,
        dead: 1,
    };
    assert_eq!(activity, expected);
    let (endpoints, activity) = read(2).await;
    assert_eq!((endpoints.all, endpoints.disabled), (1, 0));
    let expected = Activity {
        events_minute: 1,
        attempts_minute: vec![("delivered".to_owned(), 1)],
        last_attempt_ms: Some(now_ms - 3),
        dead: 1,
        ..Activity::default()
    };
    assert_eq!(activity, expected);
}

async fn an_endpoint_without_attempts_has_no_health(bed: Bed) {
    let store = bed.migrated().await;
    assert_eq!(store.endpoint_health(&ep(1), T).await.unwrap(), Health::default());
}

async fn health_counts_the_last_hour_and_says_since_when_it_fails(bed: Bed) {
    let store = bed.migrated().await;
    let now = T + 60 * MINUTE;
    record(
        &store,
        [
            failed(1, 1, T - 9),
            failed(2, 1, T - 5),
            delivered(&event(3), 2, T + 50),
        ],
    )
    .await;
    let health = store.endpoint_health(&ep(1), now).await.unwrap();
    assert_eq!(
        (health.last_success_ms, health.failing_since_ms),
        (None, Some(T - 9))
    );
    assert_eq!((health.attempts_hour, health.p50_ms), (0, None));

    record(
        &store,
        [delivered(&event(4), 1, T), delivered(&event(5), 1, T + 1)],
    )
    .await;
    let health = store.endpoint_health(&ep(1), now).await.unwrap();
    assert_eq!(
        (health.last_success_ms, health.failing_since_ms),
        (Some(T + 1), None)
    );
    assert_eq!((health.attempts_hour, health.successes_hour), (2, 2));

    record(&store, [failed(6, 1, T + 8), failed(7, 1, T + 3)]).await;
    let health = store.endpoint_health(&ep(1), now).await.unwrap();
    assert_eq!(
        (health.last_success_ms, health.failing_since_ms),
        (Some(T + 1), Some(T + 3))
    );
    assert_eq!((health.attempts_hour, health.successes_hour), (4, 2));
}

async fn percentiles_are_of_all_attempts_of_the_last_hour(bed: Bed) {
    let store = bed.migrated().await;
    let attempts = (1..=100).map(|number: u32| {
        let then = if number.is_multiple_of(2) {
            Then::Delivered
        } else {
            Then::Retry { at_ms: T }
        };
        let mut attempt = attempt(to(&event(number), 1, 0), 1, T, then);
        attempt.duration_ms = u64::from(number) * 10;
        Record::Attempt(attempt)
    });
    let mut old = attempt(to(&event(999), 1, 0), 1, T - 1, Then::Delivered);
    old.duration_ms = 30_000;
    record(&store, attempts.chain([Record::Attempt(old)])).await;
    let health = store.endpoint_health(&ep(1), T + 60 * MINUTE).await.unwrap();
    assert_eq!(
        (health.attempts_hour, health.p50_ms, health.p99_ms),
        (100, Some(500), Some(990))
    );
}

async fn failing(store: &Store, now_ms: u64) -> Vec<(webhook::EndpointId, u64)> {
    let failing = store
        .failing_endpoints(now_ms - DAY, 5 * DAY, now_ms)
        .await
        .unwrap();
    let failing = failing.into_iter();
    failing
        .map(|(endpoint, since_ms)| (endpoint.id, since_ms))
        .collect()
}

/// Returns two failures on each of these days since [`T`], the first at the beginning of the day.
fn failed_on(days: Range<u64>, endpoint: u32) -> impl Iterator<Item = Record> {
    let halves = days.start * 2..days.end * 2;
    halves.map(move |half| failed(100 * endpoint + half as u32, endpoint, T + half * DAY / 2))
}

async fn an_endpoint_that_fails_for_days_is_found(bed: Bed) {
    let store = bed.migrated().await;
    for number in 1..=6 {
        store
            .create_endpoint(new_endpoint("org_1"), endpoint_id(number), 1)
            .await
            .unwrap();
    }
    let today = T + 5 * DAY;
    // Endpoint 1 never succeeded; 2 succeeded before the failures and 3 between them; 4 has been failing
    // since yesterday; 5 is disabled; 6 gets no more requests.
    let some = [
        failed(1, 2, T - 1),
        delivered(&event(2), 2, T - 5),
        delivered(&event(3), 3, T + 5),
    ];
    let days = [(1, 0..5), (2, 0..5), (3, 0..5), (4, 4..5), (5, 0..5), (6, 0..4)];
    let failures = days.map(|(endpoint, days)| failed_on(days, endpoint));
    record(&store, failures.into_iter().flatten().chain(some)).await;
    store
        .disable_endpoint(&ep(5), DisabledReason::Manual, T as i64)
        .await
        .unwrap();
    assert_eq!(failing(&store, today - 1).await, [(ep(2), T - 1)]);
    assert_eq!(failing(&store, today).await, [(ep(1), T), (ep(2), T - 1)]);
    // As a newer version may write it.
    let id = ep(1);
    bed.execute(&format!(
        "UPDATE endpoints SET subscription = 'no such type' WHERE id = '{id}'"
    ))
    .await;
    assert_eq!(failing(&store, today).await, [(ep(2), T - 1)]);
}

async fn short_outages_days_apart_are_not_one_long_one(bed: Bed) {
    let store = bed.migrated().await;
    let today = T + 5 * DAY;
    let outage = |from_ms: u64| (0..20).map(move |n| from_ms + n * 3 * MINUTE);
    let two_outages = || outage(T).chain(outage(today - 60 * MINUTE)).collect::<Vec<_>>();
    let without_day = |day: u64| {
        let days = (1..4).filter(|other| *other != day);
        [two_outages(), days.map(|day| T + day * DAY).collect()].concat()
    };
    let spread = |times: u64| (0..times).map(|n| T + n * 5 * DAY / times).collect::<Vec<_>>();
    let early = [vec![T - 1], spread(20).split_off(4)].concat();
    let failures = [
        two_outages(),
        without_day(1),
        without_day(2),
        without_day(3),
        early,
        spread(9),
        spread(10),
        spread(10),
    ];
    let mut records = vec![delivered(&event(9_999), 8, T + 2 * DAY + 7)];
    for (endpoint, times) in (1..).zip(failures) {
        store
            .create_endpoint(new_endpoint("org_1"), ep(endpoint), 1)
            .await
            .unwrap();
        records.extend(
            (1000 * endpoint..)
                .zip(times)
                .map(|(number, at_ms)| failed(number, endpoint, at_ms)),
        );
    }
    record(&store, records).await;
    assert_eq!(failing(&store, today).await, [(ep(7), T)]);
}

async fn a_change_gives_a_failing_endpoint_its_days_anew(bed: Bed) {
    let store = bed.migrated().await;
    store
        .create_endpoint(new_endpoint("org_1"), ep(1), 1)
        .await
        .unwrap();
    let (day_2, day_5, day_8) = (T + 2 * DAY, T + 5 * DAY, T + 8 * DAY);
    let first = [failed(1, 1, day_2 + 7)];
    record(&store, failed_on(0..2, 1).chain(first).chain(failed_on(3..8, 1))).await;
    store
        .update_endpoint(&ep(1), EndpointChange::default(), day_2 as i64)
        .await
        .unwrap();
    assert_eq!(failing(&store, day_5).await, []);
    assert_eq!(failing(&store, day_8).await, [(ep(1), day_2 + 7)]);
}
