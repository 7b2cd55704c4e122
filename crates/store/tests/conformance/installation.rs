//! The installation's id, and the reports of running roles.

use std::time::Duration;

use store::{Announcement, Position, RoleReport, Store};

use super::bed::{Bed, now_ms, on_both_databases};

on_both_databases! {
    an_id_is_made_with_the_tables_and_stays,
    what_a_role_reports_stands_with_it_until_it_ends,
}

const LISTED: Duration = Duration::from_secs(10);

async fn an_id_is_made_with_the_tables_and_stays(bed: Bed) {
    let store = bed.connect().await;
    assert!(store.installation_id().await.is_err(), "there are no tables yet");
    let other = bed.connect().await;
    let (one, another) = tokio::join!(store.migrate(), other.migrate());
    one.and(another).unwrap();
    let id = store.installation_id().await.unwrap();
    assert!(id.starts_with("ins_") && id.len() == 20, "{id}");
    store.migrate().await.unwrap();
    assert_eq!(bed.connect().await.installation_id().await.unwrap(), id);
}

async fn announce(store: &Store, process: &str, role: &str) {
    let announced = Announcement {
        process,
        role,
        host: "host_1",
        position: Position::default(),
        journal: store::JournalTotals::default(),
        in_hand: 0,
        now_ms: now_ms(),
    };
    store.announce_role(&announced).await.unwrap();
}

fn report(waits_for: Option<&str>, troubles: Option<&str>) -> RoleReport {
    RoleReport {
        waits_for: waits_for.map(str::to_owned),
        degraded: None,
        troubles: troubles.map(str::to_owned),
    }
}

async fn what_a_role_reports_stands_with_it_until_it_ends(bed: Bed) {
    let store = bed.migrated().await;
    let noticed = report(Some("broker"), Some("[\0]"));
    assert!(
        !store.report_role("p1", "worker", &noticed).await.unwrap(),
        "it has not announced itself yet"
    );
    announce(&store, "p1", "worker").await;
    announce(&store, "p1", "recorder").await;
    announce(&store, "p2", "worker").await;
    assert!(store.report_role("p1", "worker", &noticed).await.unwrap());
    announce(&store, "p1", "worker").await;
    let roles = store.running_roles(LISTED).await.unwrap();
    let listed: Vec<_> = roles
        .iter()
        .map(|role| (role.process.as_str(), role.role.as_str(), role.report.clone()))
        .collect();
    assert_eq!(
        listed,
        [
            ("p1", "recorder", RoleReport::default()),
            ("p1", "worker", report(Some("broker"), Some("[\u{fffd}]"))),
            ("p2", "worker", RoleReport::default())
        ]
    );
    assert!(
        roles
            .iter()
            .all(|role| (0..1000).contains(&role.unseen_ms) && role.is_heard()),
        "{roles:?}"
    );
    let well = RoleReport::default();
    assert!(store.report_role("p1", "worker", &well).await.unwrap());
    store.close_role("p1", "recorder").await.unwrap();
    let roles = store.running_roles(LISTED).await.unwrap();
    assert_eq!(roles.len(), 2);
    assert!(roles.iter().all(|role| role.report == well), "{roles:?}");
}
