//! Rejected messages.

use bytes::Bytes;
use store::RejectedRow;
use webhook::journal::Books;

use super::{
    super::bed::{Bed, on_both_databases},
    samples::T,
};

on_both_databases! {
    a_rejected_message_is_kept_once_and_as_it_was,
    rejected_messages_are_listed_newest_first,
    a_message_is_marked_as_redriven_once,
    what_was_not_redriven_is_counted_by_reason,
}

fn rejected(number: u8) -> RejectedRow {
    let body = Bytes::copy_from_slice(&[b'{', number, 0, 0xff]);
    let rejected_ms = T + u64::from(number / 2);
    RejectedRow {
        id: RejectedRow::id_of(rejected_ms, "events", None, "{}", &body),
        rejected_ms,
        source: "events".to_owned(),
        reason: "not_json".to_owned(),
        detail: "the body is not JSON".to_owned(),
        message_id: None,
        event_type: Some("lead.created".to_owned()),
        headers: "{}".to_owned(),
        body,
        redriven_ms: None,
    }
}

async fn what_was_not_redriven_is_counted_by_reason(bed: Bed) {
    let store = bed.migrated().await;
    let of_reason = |number, reason: &str| RejectedRow {
        reason: reason.to_owned(),
        ..rejected(number)
    };
    let all = [
        of_reason(2, "a"),
        of_reason(3, "b"),
        of_reason(4, "b"),
        of_reason(5, "a"),
        of_reason(6, "a"),
    ];
    store.record(&Books::default(), &all).await.unwrap();
    store.mark_redriven(&all[3].id, 1).await.unwrap();
    let counted = async |since_ms, until_ms| store.count_rejected(since_ms, until_ms).await.unwrap();
    let count = |reason: &str, count| (reason.to_owned(), count);
    assert_eq!(counted(T, T + 9).await, [count("a", 2), count("b", 2)]);
    assert_eq!(counted(T + 2, T + 3).await, [count("b", 1)]);
    assert_eq!(counted(T + 9, T + 99).await, []);
}

async fn a_rejected_message_is_kept_once_and_as_it_was(bed: Bed) {
    let store = bed.migrated().await;
    let mut odd = rejected(1);
    odd.message_id = Some("a\0b".to_owned());
    odd.redriven_ms = Some(5);
    for _ in 0..2 {
        store
            .record(&Books::default(), &[odd.clone(), rejected(2)])
            .await
            .unwrap();
    }
    let found = store.rejected_message(&odd.id).await.unwrap();
    let expected = RejectedRow {
        message_id: Some("a\u{fffd}b".to_owned()),
        redriven_ms: None,
        ..odd
    };
    assert_eq!(found, Some(expected));
    assert_eq!(
        store.rejected_message(&rejected(2).id).await.unwrap(),
        Some(rejected(2))
    );
    assert_eq!(store.rejected_message("rej_0").await.unwrap(), None);
    assert_eq!(bed.number("SELECT COUNT(*) FROM rejected").await, 2);
}

async fn rejected_messages_are_listed_newest_first(bed: Bed) {
    let store = bed.migrated().await;
    let all: Vec<_> = (0..10).map(rejected).collect();
    store.record(&Books::default(), &all).await.unwrap();
    store.mark_redriven(&all[3].id, T + 100).await.unwrap();

    let mut listed = Vec::new();
    let mut before = None;
    loop {
        let page = store
            .rejected_messages(None, None, None, before.as_ref(), 3)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.into());
        listed.extend(page);
    }
    assert_eq!(listed.len(), 10);
    let key = |rejected: &RejectedRow| (rejected.rejected_ms, rejected.id.clone());
    assert!(listed.windows(2).all(|pair| key(&pair[0]) > key(&pair[1])));

    let redriven = store
        .rejected_messages(None, None, Some(true), None, 99)
        .await
        .unwrap();
    assert_eq!((redriven.len(), &redriven[0].id), (1, &all[3].id));
    let window = store
        .rejected_messages(Some(T + 1), Some(T + 3), Some(false), None, 99)
        .await
        .unwrap();
    assert_eq!(window.len(), 3);
}

async fn a_message_is_marked_as_redriven_once(bed: Bed) {
    let store = bed.migrated().await;
    let message = rejected(1);
    store
        .record(&Books::default(), std::slice::from_ref(&message))
        .await
        .unwrap();
    assert!(store.mark_redriven(&message.id, T + 5).await.unwrap());
    assert!(!store.mark_redriven(&message.id, T + 9).await.unwrap());
    assert!(!store.mark_redriven("rej_0", T).await.unwrap());
    let found = store.rejected_message(&message.id).await.unwrap().unwrap();
    assert_eq!(found.redriven_ms, Some(T + 5));

    // The message was rejected again, under a new id.
    let again = RejectedRow::id_of(T + 7, "events", None, "{}", &message.body);
    assert_ne!(again, message.id);
}
