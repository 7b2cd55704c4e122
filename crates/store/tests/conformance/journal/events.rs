//! Queries for events.

use store::{EventCursor, EventFilter, StateCounts, Store};
use webhook::{EventType, LeadId, OrganizationId, ProjectId, journal::DeliveryState};

use super::{
    super::bed::{Bed, on_both_databases},
    samples::{T, attempt, books, delivered, died, ep, event, event_of, evt, org, record, taken, to},
};

on_both_databases! {
    an_event_is_read_back_with_everything_that_is_known_of_it,
    an_id_that_two_organizations_use_is_two_events,
    events_are_listed_newest_first_and_by_every_filter,
    pages_of_events_are_complete_also_within_one_millisecond,
}

async fn an_event_is_read_back_with_everything_that_is_known_of_it(bed: Bed) {
    let store = bed.migrated().await;
    let mut traced = (*event(1)).clone();
    traced.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    let traced = std::sync::Arc::new(traced);
    let considered = "1:matched 2:project 3:event_type 4:disabled.gone.1703123456789";
    let books = books([taken(&traced, T, considered)]);
    store.record(&books, &[]).await.unwrap();

    let found = store.event(&evt(1), None).await.unwrap();
    assert_eq!(found, books.events.into_values().collect::<Vec<_>>());
    assert_eq!(store.event(&evt(2), None).await.unwrap(), []);
    assert_eq!(store.event(&evt(1), Some(&org(2))).await.unwrap(), []);
}

async fn an_id_that_two_organizations_use_is_two_events(bed: Bed) {
    let store = bed.migrated().await;
    let (one, two) = (
        event_of("lead.failed", &org(1), 1),
        event_of("lead.created", &org(2), 1),
    );
    record(
        &store,
        [
            taken(&two, T, "2:matched"),
            taken(&one, T, "1:matched"),
            delivered(&one, 1, T),
        ],
    )
    .await;

    let found = store.event(&evt(1), None).await.unwrap();
    assert_eq!([&found[0].event, &found[1].event], [&one, &two]);
    let found = store.event(&evt(1), Some(&org(2))).await.unwrap();
    assert_eq!((found.len(), &found[0].event), (1, &two));
    let deliveries = store.deliveries_of_event(&org(2), &evt(1)).await.unwrap();
    assert_eq!(
        (deliveries.len(), &deliveries[0].delivery.endpoint_id),
        (1, &ep(2))
    );
    assert_eq!(deliveries[0].standing.state, DeliveryState::Pending);
}

/// Records three events: one whose deliveries have ended, one with a pending delivery, and one that matched no
/// endpoint.
async fn record_events(store: &Store) {
    let (one, two) = (event(1), event_of("research.failed", &org(1), 2));
    let three = event_of("lead.created", &org(2), 3);
    let resent = attempt(to(&one, 1, 1), 1, T + 50, webhook::journal::Then::Delivered);
    record(
        store,
        [
            taken(&one, T, "1:matched 2:matched"),
            died(&one, 1, 0, T),
            webhook::journal::Record::Attempt(resent),
            delivered(&one, 2, T),
            taken(&two, T + 1, "1:matched"),
            taken(&three, T + 2, ""),
        ],
    )
    .await;
}

async fn events_are_listed_newest_first_and_by_every_filter(bed: Bed) {
    let store = bed.migrated().await;
    record_events(&store).await;

    let list = async |filter: EventFilter| {
        let rows = store.events(&filter, None, 10).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let all = EventFilter::default;
    assert_eq!(list(all()).await, [evt(3), evt(2), evt(1)]);
    let organization = Some(org(1));
    assert_eq!(
        list(EventFilter {
            organization,
            ..all()
        })
        .await,
        [evt(2), evt(1)]
    );
    let project = Some(ProjectId::new("proj_2"));
    assert_eq!(list(EventFilter { project, ..all() }).await, []);
    let lead = Some(LeadId::new("lead_2"));
    assert_eq!(list(EventFilter { lead, ..all() }).await, [evt(2)]);
    let event_type = Some(EventType::LeadCreated.into());
    assert_eq!(list(EventFilter { event_type, ..all() }).await, [evt(3)]);
    let (since_ms, until_ms) = (Some(T + 1), Some(T + 2));
    assert_eq!(
        list(EventFilter {
            since_ms,
            until_ms,
            ..all()
        })
        .await,
        [evt(2)]
    );
    let state = Some(DeliveryState::Dead);
    assert_eq!(list(EventFilter { state, ..all() }).await, [evt(1)]);
    let state = Some(DeliveryState::Pending);
    assert_eq!(list(EventFilter { state, ..all() }).await, [evt(2)]);
    let both = EventFilter {
        organization: Some(OrganizationId::new("org_1")),
        lead: Some(LeadId::new("lead_1")),
        state: Some(DeliveryState::Delivered),
        ..all()
    };
    assert_eq!(list(both).await, [evt(1)]);

    let rows = store.events(&all(), None, 10).await.unwrap();
    let counts = StateCounts {
        dead: 1,
        delivered: 2,
        ..StateCounts::default()
    };
    assert_eq!((rows[2].matched, rows[2].deliveries), (2, counts));
    assert_eq!((rows[2].timestamp_ms, rows[2].received_ms), (T, T));
    assert_eq!((rows[0].matched, rows[0].deliveries.total()), (0, 0));
}

async fn pages_of_events_are_complete_also_within_one_millisecond(bed: Bed) {
    let store = bed.migrated().await;
    let taken_at = |number: u32| taken(&event(number), T + u64::from(number / 4), "1:matched");
    record(&store, (0..20).map(taken_at)).await;
    record(&store, [taken(&event_of("lead.created", &org(2), 5), T + 1, "")]).await;

    let mut listed = Vec::new();
    let mut before: Option<EventCursor> = None;
    loop {
        let page = store
            .events(&EventFilter::default(), before.as_ref(), 3)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.into());
        listed.extend(page);
    }
    assert_eq!(listed.len(), 21);
    let key = |row: &store::EventRow| (row.received_ms, row.id.clone(), row.organization_id.clone());
    assert!(listed.windows(2).all(|pair| key(&pair[0]) > key(&pair[1])));
}
