//! Values that a database would refuse are stored in a form that it accepts. A refused transaction does not
//! affect the next one.

use std::{collections::BTreeMap, sync::Arc};

use store::{DeliveryFilter, EventFilter};
use webhook::{Event, EventId, LeadId, OrganizationId, journal::Record};

use super::{
    super::bed::{Bed, on_both_databases},
    samples::{T, attempt, books, delivered, event, org, record, taken, to},
};

on_both_databases! {
    long_ids_from_an_older_version_are_stored_shortened_and_found,
    texts_that_a_database_does_not_take_are_stored_without_them,
    a_refused_transaction_leaves_the_next_one_alone,
}

/// Returns an event as an older version accepted it. Its ids are random characters, which an index cannot
/// compress.
fn carried(organization: &str, project: &str, lead: &str) -> Arc<Event> {
    let body = serde_json::json!({
        "event": "lead.completed", "timestamp": 9_007_199_254_740_991_u64, "organization_id": organization,
        "project_id": project, "lead_id": lead, "data": {"text": "\u{0}"},
    });
    let event = Event::from_delivery(Some("evt_1"), None, body.to_string().into());
    Arc::new(event.expect("it was valid when it came"))
}

fn noise(chars: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from_u32(0x4e00 + (state >> 40) as u32 % 20_000).expect("a CJK character")
    };
    (0..chars).map(|_| next()).collect()
}

async fn long_ids_from_an_older_version_are_stored_shortened_and_found(bed: Bed) {
    let store = bed.migrated().await;
    let (organization, project, lead) = (noise(3_000), noise(3_001), noise(3_002));
    let event = carried(&organization, &project, &lead);
    let records = || [taken(&event, T, "1:matched"), delivered(&event, 1, T)];
    record(&store, records()).await;
    record(&store, records()).await;

    let id = EventId::new("evt_1");
    let found = store
        .event(&id, Some(&OrganizationId::new(&*organization)))
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].event, event, "its body says what it was");
    let by_lead = EventFilter {
        lead: Some(LeadId::new(&*lead)),
        ..EventFilter::default()
    };
    let listed = store.events(&by_lead, None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].deliveries.delivered, 1);
    for id in [
        listed[0].organization_id.as_str(),
        listed[0].project_id.as_str(),
        listed[0].lead_id.as_str(),
    ] {
        assert!(id.len() <= webhook::ID_BYTES_MAX, "{} bytes", id.len());
    }
    // The ids as listed find the rows again.
    let by_lead = EventFilter {
        organization: Some(listed[0].organization_id.clone()),
        lead: Some(listed[0].lead_id.clone()),
        ..EventFilter::default()
    };
    assert_eq!(store.events(&by_lead, None, 10).await.unwrap(), listed);
    let deliveries = store
        .deliveries(&DeliveryFilter::default(), None, 10)
        .await
        .unwrap();
    assert_eq!(deliveries.len(), 1);
    let limits = store::AuditLimits {
        now_ms: T + 1,
        in_hand_ms: 0,
        late_ms: 1_000,
        batches_due: BTreeMap::default(),
    };
    let audit = store.audit(0, T + 1, limits).await.unwrap();
    assert_eq!(audit.matched, 1, "{audit:?}");
}

async fn texts_that_a_database_does_not_take_are_stored_without_them(bed: Bed) {
    let store = bed.migrated().await;
    let event = carried("org\u{0}", "proj\u{0}", "lead \u{0} \u{10ffff}");
    let mut failed = attempt(
        to(&event, 1, 0),
        1,
        u64::MAX,
        webhook::journal::Then::Retry { at_ms: u64::MAX },
    );
    failed.error = format!("\u{0}{}", noise(100_000));
    failed.duration_ms = 0;
    record(
        &store,
        [taken(&event, u64::MAX, "1:matched"), Record::Attempt(failed)],
    )
    .await;
    let found = store.event(&EventId::new("evt_1"), None).await.unwrap();
    assert_eq!(found[0].event, event);
    let listed = store.events(&EventFilter::default(), None, 10).await.unwrap();
    assert_eq!(listed[0].lead_id.as_str(), "lead \u{fffd} \u{10ffff}");
    assert_eq!(listed[0].received_ms, i64::MAX as u64);
}

/// SQLite rolls back by itself here, as it does when its disk is full.
async fn a_refused_transaction_leaves_the_next_one_alone(bed: Bed) {
    let store = bed.migrated().await;
    bed.execute(if bed.sqlite_path().is_some() {
        "CREATE TRIGGER refusing BEFORE INSERT ON events WHEN NEW.lead_id = 'lead_1' \
         BEGIN SELECT RAISE(ROLLBACK, 'refused'); END"
    } else {
        "ALTER TABLE events ADD CONSTRAINT refusing CHECK (lead_id <> 'lead_1')"
    })
    .await;
    for _ in 0..2 {
        let refused = store
            .record(&books([taken(&event(1), T, "1:matched")]), &[])
            .await;
        assert!(!refused.unwrap_err().is_unavailable());
        record(
            &store,
            [taken(&event(2), T, "1:matched"), delivered(&event(2), 1, T)],
        )
        .await;
    }
    let listed = store.events(&EventFilter::default(), None, 10).await.unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|row| row.organization_id.clone())
            .collect::<Vec<_>>(),
        [org(1)]
    );
}
