//! The installation's id, and what running roles report.

use store::{Announcement, Position, Store};

use super::bed::{Bed, on_both_databases};

on_both_databases! {
    an_id_is_made_with_the_tables_and_stays,
    what_a_process_reports_stands_with_its_roles_until_they_end,
}

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
    };
    store.announce_role(&announced).await.unwrap();
}

async fn what_a_process_reports_stands_with_its_roles_until_they_end(bed: Bed) {
    let store = bed.migrated().await;
    assert!(
        !store.report_troubles("p1", Some("[1]")).await.unwrap(),
        "it has no roles yet"
    );
    announce(&store, "p1", "worker").await;
    announce(&store, "p1", "recorder").await;
    announce(&store, "p2", "worker").await;
    assert!(store.report_troubles("p1", Some("[\0]")).await.unwrap());
    announce(&store, "p1", "worker").await;
    let roles = store.running_roles().await.unwrap();
    let listed: Vec<_> = roles
        .iter()
        .map(|role| {
            (
                role.process.as_str(),
                role.role.as_str(),
                role.troubles.as_deref(),
            )
        })
        .collect();
    let reported = Some("[\u{fffd}]");
    assert_eq!(
        listed,
        [
            ("p1", "recorder", reported),
            ("p1", "worker", reported),
            ("p2", "worker", None)
        ]
    );
    assert!(
        roles.iter().all(|role| (0..1000).contains(&role.unseen_ms)),
        "{roles:?}"
    );
    store.report_troubles("p1", None).await.unwrap();
    store.close_role("p1", "worker").await.unwrap();
    let roles = store.running_roles().await.unwrap();
    assert_eq!(roles.len(), 2);
    assert!(roles.iter().all(|role| role.troubles.is_none()));
}
