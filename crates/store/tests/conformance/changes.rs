//! The log of changes, and writes limited to one version.

use signature::Secret;
use store::{Actor, ChangeRow, EndpointChange, Error, Lookup, NewEndpoint, Store};
use webhook::{DisabledReason, OrganizationId};

use super::{
    api_keys::{key_id, new_key},
    bed::{Bed, SECRET, endpoint_id, new_endpoint, on_both_databases, sealing_key},
};

on_both_databases! {
    every_write_of_an_endpoint_is_told_with_who_did_it,
    making_and_revoking_a_key_is_told,
    what_is_told_holds_no_secret_and_no_path,
    a_refused_write_is_not_told,
    what_cannot_be_told_is_not_done,
    changes_are_listed_newest_first_in_pages_and_by_organization,
    writers_at_once_leave_no_gap_in_the_numbers,
    sealing_anew_and_using_a_key_are_no_changes,
    a_write_of_another_version_is_refused_and_changes_nothing,
    of_two_writes_of_one_version_exactly_one_wins,
}

/// Returns the changes, oldest first.
async fn told(store: &Store) -> Vec<ChangeRow> {
    let mut changes = store.changes(None, None, 1_000).await.unwrap();
    changes.reverse();
    changes
}

fn line(change: &ChangeRow) -> String {
    let ChangeRow {
        at_ms,
        actor,
        kind,
        detail,
        ..
    } = change;
    format!("{at_ms} {actor} {kind} {detail}")
}

fn to_url(url: &str) -> EndpointChange {
    EndpointChange {
        url: Some(url.to_owned()),
        ..EndpointChange::default()
    }
}

async fn every_write_of_an_endpoint_is_told_with_who_did_it(bed: Bed) {
    let store = bed.migrated().await;
    let (cli, worker) = (store.acting_as(Actor::Cli), store.acting_as(Actor::Worker));
    let by_key = store.acting_as(Actor::ApiKey(key_id(7)));
    let id = endpoint_id(1);
    cli.create_endpoint(new_endpoint("org_1"), id.clone(), 1)
        .await
        .unwrap();
    let change = EndpointChange {
        url: Some("https://other.example/in".to_owned()),
        project_id: Some(None),
        subscription: Some("*".parse().unwrap()),
    };
    by_key.update_endpoint(&id, change, 2).await.unwrap();
    by_key
        .update_endpoint(&id, EndpointChange::default(), 3)
        .await
        .unwrap();
    let enabled = cli.enable_endpoint(&id, 4).await.unwrap();
    let gone = DisabledReason::Gone;
    assert!(
        worker
            .disable_endpoint_unless_changed(&id, enabled.version, gone, 5)
            .await
            .unwrap()
    );
    cli.enable_endpoint(&id, 6).await.unwrap();
    store
        .disable_endpoint(&id, DisabledReason::Manual, 7)
        .await
        .unwrap();
    by_key
        .rotate_secret(&id, &Secret::generate([8; 32]), Some(90), 8)
        .await
        .unwrap();
    by_key
        .rotate_secret(&id, &Secret::generate([9; 32]), None, 9)
        .await
        .unwrap();
    cli.delete_endpoint(&id, 10).await.unwrap();

    let changes = told(&store).await;
    let key = key_id(7);
    assert_eq!(
        changes.iter().map(line).collect::<Vec<_>>(),
        [
            r#"1 cli endpoint.created {"events":"lead.completed,research.*","host":"hooks.example","project_id":"proj_1"}"#.to_owned(),
            format!(
                r#"2 {key} endpoint.updated {{"events":{{"from":"lead.completed,research.*","to":"*"}},"host":{{"from":"hooks.example","to":"other.example"}},"project_id":{{"from":"proj_1","to":null}},"url_changed":true}}"#
            ),
            format!("3 {key} endpoint.updated {{}}"),
            r#"4 cli endpoint.enabled {"was":null}"#.to_owned(),
            r#"5 worker endpoint.disabled {"reason":"gone"}"#.to_owned(),
            r#"6 cli endpoint.enabled {"was":"gone"}"#.to_owned(),
            r#"7 unknown endpoint.disabled {"reason":"manual"}"#.to_owned(),
            format!(r#"8 {key} endpoint.secret_rotated {{"old_secret_until_ms":90}}"#),
            format!(r#"9 {key} endpoint.secret_rotated {{"old_secret_until_ms":null}}"#),
            r#"10 cli endpoint.deleted {"events":"*","host":"other.example","project_id":null}"#.to_owned(),
        ]
    );
    let organization = Some(OrganizationId::new("org_1"));
    assert!(
        changes
            .iter()
            .all(|change| change.subject == id.as_str() && change.organization_id == organization)
    );
    assert!(changes.iter().map(|change| change.number).eq(1..=10));
}

async fn making_and_revoking_a_key_is_told(bed: Bed) {
    let store = bed.migrated().await.acting_as(Actor::Cli);
    store
        .create_api_key(new_key("org_1", 1), key_id(1), 1)
        .await
        .unwrap();
    for now_ms in [2, 3] {
        store.revoke_api_key(&key_id(1), now_ms).await.unwrap();
    }
    let detail = r#"{"expires_at_ms":null,"name":"the lead form's","prefix":"mgk_AQEBAQ","scopes":"events:write,endpoints:read"}"#;
    let changes = told(&store).await;
    assert_eq!(
        changes.iter().map(line).collect::<Vec<_>>(),
        [
            format!("1 cli api_key.created {detail}"),
            format!("2 cli api_key.revoked {detail}"),
        ]
    );
    assert!(changes.iter().all(|change| change.subject == key_id(1).as_str()));
}

async fn what_is_told_holds_no_secret_and_no_path(bed: Bed) {
    let store = bed.migrated().await;
    let id = endpoint_id(1);
    let new = NewEndpoint {
        url: "https://user:hunter2@hooks.example:8443/hunter2?hunter2#hunter2".to_owned(),
        ..new_endpoint("org_1")
    };
    store.create_endpoint(new, id.clone(), 1).await.unwrap();
    let same_host = to_url("https://hooks.example/hunter2/again");
    store.update_endpoint(&id, same_host, 2).await.unwrap();
    store
        .update_endpoint(&id, to_url("hunter2 is no URL"), 3)
        .await
        .unwrap();
    store
        .rotate_secret(&id, &Secret::generate([8; 32]), None, 4)
        .await
        .unwrap();
    store.delete_endpoint(&id, 5).await.unwrap();
    let lines: Vec<_> = told(&store).await.iter().map(line).collect();
    assert_eq!(lines[1], r#"2 unknown endpoint.updated {"url_changed":true}"#);
    for told in ["hunter2", "8443", SECRET, "whsec_", "sealed:"] {
        assert!(!lines.iter().any(|line| line.contains(told)), "{told}: {lines:?}");
    }
}

async fn a_refused_write_is_not_told(bed: Bed) {
    let store = bed.migrated().await;
    let id = endpoint_id(1);
    let created = store
        .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
        .await
        .unwrap();
    store
        .create_endpoint(new_endpoint("org_1"), id.clone(), 2)
        .await
        .unwrap_err();
    store.delete_endpoint(&endpoint_id(2), 2).await.unwrap_err();
    let stale = store.if_version(Some(created.version + 1));
    stale.enable_endpoint(&id, 2).await.unwrap_err();
    let gone = DisabledReason::Gone;
    assert!(
        !store
            .disable_endpoint_unless_changed(&id, 99, gone, 2)
            .await
            .unwrap()
    );
    let secret = Secret::generate([8; 32]);
    store.rotate_secret(&id, &secret, Some(90), 2).await.unwrap();
    store.rotate_secret(&id, &secret, Some(90), 2).await.unwrap_err();
    store.revoke_api_key(&key_id(1), 2).await.unwrap_err();
    let kinds: Vec<_> = told(&store)
        .await
        .iter()
        .map(|change| (change.number, change.kind.to_string()))
        .collect();
    let expected = [(1, "endpoint.created"), (2, "endpoint.secret_rotated")];
    assert_eq!(kinds, expected.map(|(number, kind)| (number, kind.to_owned())));
}

/// The endpoint and the log are written in one transaction: if the log refuses its row, nothing is written.
async fn what_cannot_be_told_is_not_done(bed: Bed) {
    let store = bed.migrated().await;
    let id = endpoint_id(1);
    let created = store
        .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
        .await
        .unwrap();
    // The next number is taken.
    bed.execute(
        "INSERT INTO changes (number, at_ms, organization_id, actor, kind, subject, detail) \
         VALUES (2, 1, 'org_1', 'nobody', 'endpoint.created', 'ep_1', '{}')",
    )
    .await;
    let before = store.load_registry().await.unwrap();
    store
        .update_endpoint(&id, to_url("https://other.example/"), 2)
        .await
        .unwrap_err();
    store
        .disable_endpoint(&id, DisabledReason::Manual, 2)
        .await
        .unwrap_err();
    store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(2), 2)
        .await
        .unwrap_err();
    store.delete_endpoint(&id, 2).await.unwrap_err();
    store
        .create_api_key(new_key("org_1", 1), key_id(1), 2)
        .await
        .unwrap_err();
    assert_eq!(store.load_registry().await.unwrap(), before);
    assert_eq!(before.endpoints, [created]);
    assert_eq!(store.operations(10).await.unwrap(), []);
    assert_eq!(store.api_keys(None, None, 10).await.unwrap(), []);
}

async fn changes_are_listed_newest_first_in_pages_and_by_organization(bed: Bed) {
    let store = bed.migrated().await;
    for number in 1..=6 {
        let organization = if number % 2 == 0 { "org_2" } else { "org_1" };
        store
            .create_endpoint(new_endpoint(organization), endpoint_id(number), i64::from(number))
            .await
            .unwrap();
    }
    let numbers = async |organization: Option<&str>, before, limit| -> Vec<u64> {
        let organization = organization.map(OrganizationId::new);
        let page = store.changes(organization.as_ref(), before, limit).await.unwrap();
        page.into_iter().map(|change| change.number).collect()
    };
    assert_eq!(numbers(None, None, 4).await, [6, 5, 4, 3]);
    assert_eq!(numbers(None, Some(3), 4).await, [2, 1]);
    assert_eq!(numbers(Some("org_1"), None, 2).await, [5, 3]);
    assert_eq!(numbers(Some("org_1"), Some(3), 2).await, [1]);
    assert!(numbers(Some("org_3"), None, 2).await.is_empty());
}

async fn writers_at_once_leave_no_gap_in_the_numbers(bed: Bed) {
    let stores = [bed.migrated().await, bed.connect().await];
    let writers = stores.iter().cloned().zip([0, 1]).map(|(store, which)| {
        tokio::spawn(async move {
            for number in 0..15 {
                let number = 2 * number + which;
                let id = endpoint_id(number);
                store.create_endpoint(new_endpoint("org_1"), id, 1).await.unwrap();
                let byte = number as u8;
                store
                    .create_api_key(new_key("org_1", byte), key_id(byte), 1)
                    .await
                    .unwrap();
                // This write is rolled back, and its number with it.
                store.enable_endpoint(&endpoint_id(1_000), 1).await.unwrap_err();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let changes = told(&stores[0]).await;
    assert!(changes.iter().map(|change| change.number).eq(1..=60));
    assert_eq!(bed.number("SELECT change_count FROM registry").await, 60);
    assert_eq!(stores[0].registry_position().await.unwrap().version, 30);
}

async fn sealing_anew_and_using_a_key_are_no_changes(bed: Bed) {
    let store = bed.migrated().await;
    store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(1), 1)
        .await
        .unwrap();
    store
        .create_api_key(new_key("org_1", 1), key_id(1), 1)
        .await
        .unwrap();
    let before = told(&store).await;
    store.note_api_key_uses(&[(key_id(1), 9)]).await.unwrap();
    let both = bed.connect_with(&[sealing_key(2), sealing_key(1)]).await;
    assert_eq!(both.reseal_secrets().await.unwrap(), 1);
    assert_eq!(told(&store).await, before);
}

async fn a_write_of_another_version_is_refused_and_changes_nothing(bed: Bed) {
    let store = bed.migrated().await;
    let id = endpoint_id(1);
    store
        .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
        .await
        .unwrap();
    let current = store.enable_endpoint(&id, 2).await.unwrap();
    let stale = store.if_version(Some(1));
    let secret = Secret::generate([8; 32]);
    for error in [
        stale
            .update_endpoint(&id, to_url("https://other.example/"), 3)
            .await
            .unwrap_err(),
        stale.enable_endpoint(&id, 3).await.unwrap_err(),
        stale
            .disable_endpoint(&id, DisabledReason::Manual, 3)
            .await
            .unwrap_err(),
        stale.rotate_secret(&id, &secret, None, 3).await.unwrap_err(),
        stale.delete_endpoint(&id, 3).await.unwrap_err(),
    ] {
        assert!(
            matches!(&error, Error::VersionMismatch { id: named, expected: 1, found: 2 } if *named == id),
            "{error:?}"
        );
        assert!(!error.is_unavailable());
    }
    assert_eq!(store.registry_position().await.unwrap().version, 2);
    assert_eq!(store.endpoint(&id).await.unwrap(), Lookup::Found(current));
    let error = stale.delete_endpoint(&endpoint_id(9), 3).await.unwrap_err();
    assert!(matches!(error, Error::EndpointNotFound { .. }), "{error:?}");

    let fresh = store.if_version(Some(2));
    let updated = fresh
        .update_endpoint(&id, to_url("https://other.example/"), 3)
        .await
        .unwrap();
    assert_eq!(updated.version, 3);
    store.if_version(Some(3)).delete_endpoint(&id, 4).await.unwrap();
    let again = store
        .if_version(Some(3))
        .delete_endpoint(&id, 4)
        .await
        .unwrap_err();
    assert!(matches!(again, Error::EndpointNotFound { .. }), "{again:?}");
}

async fn of_two_writes_of_one_version_exactly_one_wins(bed: Bed) {
    let stores = [bed.migrated().await, bed.connect().await];
    let id = endpoint_id(1);
    let mut seen = stores[0]
        .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
        .await
        .unwrap();
    for round in 0..20 {
        let writes = stores.iter().zip(["a", "b"]).map(|(store, host)| {
            let (store, id) = (store.if_version(Some(seen.version)), id.clone());
            let change = to_url(&format!("https://{host}.example/{round}"));
            tokio::spawn(async move { store.update_endpoint(&id, change, 2).await })
        });
        let mut won = Vec::new();
        for write in writes.collect::<Vec<_>>() {
            match write.await.unwrap() {
                Ok(updated) => won.push(updated),
                Err(Error::VersionMismatch { expected, found, .. }) => {
                    assert_eq!((expected, found), (seen.version, seen.version + 1));
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        let [winner] = &won[..] else { panic!("{won:?}") };
        assert_eq!(
            stores[1].endpoint(&id).await.unwrap(),
            Lookup::Found(winner.clone())
        );
        seen = winner.clone();
    }
    assert_eq!(told(&stores[0]).await.len(), 21);
}
