//! API keys: lookup by hash, expiry, revocation and noted uses.

use store::{API_KEYS_MAX, ApiKeyRow, Error, NewApiKey, Store};
use webhook::{ApiKey, ApiKeyId, OrganizationId};

use super::{
    bed::{Bed, endpoint_id, new_endpoint, on_both_databases},
    schema::ALL,
};

on_both_databases! {
    a_key_is_found_by_its_hash_and_is_not_stored,
    an_expired_or_revoked_key_is_found_and_says_so,
    a_key_is_revoked_once_and_an_unknown_one_is_named,
    the_last_use_only_moves_forward,
    an_id_and_a_key_are_given_once,
    keys_are_listed_in_pages_and_by_organization,
    a_platform_key_belongs_to_no_organization,
    an_organization_without_an_id_gets_no_key,
    an_organization_has_a_limited_number_of_keys_that_are_not_revoked,
    a_platform_key_belongs_to_an_organization_without_objects_for_older_versions,
    a_database_from_before_keys_keeps_its_endpoints,
}

pub(super) fn key(byte: u8) -> ApiKey {
    ApiKey::generate([byte; 32])
}

pub(super) fn key_id(byte: u8) -> ApiKeyId {
    ApiKeyId::generate([byte; 16])
}

pub(super) fn new_key(organization: &str, byte: u8) -> NewApiKey {
    NewApiKey {
        organization_id: Some(OrganizationId::new(organization)),
        name: "the lead form's".to_owned(),
        scopes: "events:write,endpoints:read".parse().unwrap(),
        key: key(byte),
        expires_at_ms: None,
    }
}

pub(super) fn new_platform_key(byte: u8) -> NewApiKey {
    NewApiKey {
        organization_id: None,
        ..new_key("", byte)
    }
}

async fn created(store: &Store, organization: &str, byte: u8) -> ApiKeyRow {
    let new = new_key(organization, byte);
    store.create_api_key(new, key_id(byte), 100).await.unwrap()
}

async fn found(store: &Store, byte: u8) -> Option<ApiKeyRow> {
    store.api_key_by_hash(&key(byte).hash()).await.unwrap()
}

async fn a_key_is_found_by_its_hash_and_is_not_stored(bed: Bed) {
    let store = bed.migrated().await;
    let created = created(&store, "org_1", 1).await;
    let expected = ApiKeyRow {
        id: key_id(1),
        organization_id: Some(OrganizationId::new("org_1")),
        name: "the lead form's".to_owned(),
        scopes: "events:write,endpoints:read".parse().unwrap(),
        prefix: "mgk_AQEBAQ".to_owned(),
        created_at_ms: 100,
        expires_at_ms: None,
        last_used_at_ms: None,
        revoked_at_ms: None,
    };
    assert_eq!(created, expected);
    assert_eq!(found(&store, 1).await, Some(expected));
    assert_eq!(found(&store, 2).await, None);

    let text = key(1).expose().to_owned();
    let shown = bed
        .number(&format!(
            "SELECT COUNT(*) FROM api_keys k, changes c \
             WHERE '{text}' IN (k.id, k.name, k.scopes, k.prefix) OR c.detail LIKE '%{text}%'"
        ))
        .await;
    assert_eq!(shown, 0);
    assert_eq!(
        bed.number("SELECT COUNT(*) FROM api_keys WHERE length(hash) = 32")
            .await,
        1
    );
}

async fn an_expired_or_revoked_key_is_found_and_says_so(bed: Bed) {
    let store = bed.migrated().await;
    let new = NewApiKey {
        expires_at_ms: Some(1_000),
        ..new_key("org_1", 1)
    };
    store.create_api_key(new, key_id(1), 100).await.unwrap();
    created(&store, "org_1", 2).await;

    let expiring = found(&store, 1).await.unwrap();
    assert_eq!(expiring.expires_at_ms, Some(1_000));
    assert!(expiring.is_valid_at(999) && !expiring.is_valid_at(1_000));

    assert!(found(&store, 2).await.unwrap().is_valid_at(u64::MAX));
    store.revoke_api_key(&key_id(2), 500).await.unwrap();
    let revoked = found(&store, 2).await.unwrap();
    assert_eq!(revoked.revoked_at_ms, Some(500));
    assert!(!revoked.is_valid_at(500) && !revoked.is_valid_at(0));
}

async fn a_key_is_revoked_once_and_an_unknown_one_is_named(bed: Bed) {
    let store = bed.migrated().await;
    created(&store, "org_1", 1).await;
    for now_ms in [500, 900] {
        let revoked = store.revoke_api_key(&key_id(1), now_ms).await.unwrap();
        assert_eq!(revoked.revoked_at_ms, Some(500));
    }
    let error = store.revoke_api_key(&key_id(9), 500).await.unwrap_err();
    assert!(
        matches!(&error, Error::ApiKeyNotFound { id } if *id == key_id(9)),
        "{error:?}"
    );
    assert!(error.to_string().contains(key_id(9).as_str()), "{error}");
    assert!(!error.is_unavailable());
    assert_eq!(
        store.api_key(&key_id(1)).await.unwrap(),
        found(&store, 1).await.unwrap()
    );
    let error = store.api_key(&key_id(9)).await.unwrap_err();
    assert!(matches!(error, Error::ApiKeyNotFound { .. }), "{error:?}");
}

async fn the_last_use_only_moves_forward(bed: Bed) {
    let store = bed.migrated().await;
    for byte in [1, 2, 3] {
        created(&store, "org_1", byte).await;
    }
    let uses =
        |uses: &[(u8, u64)]| -> Vec<_> { uses.iter().map(|(byte, at_ms)| (key_id(*byte), *at_ms)).collect() };
    // In any order, and including unknown keys.
    let first = uses(&[(2, 300), (1, 200), (9, 100)]);
    let second = uses(&[(1, 150), (2, 400)]);
    store.note_api_key_uses(&first).await.unwrap();
    store.note_api_key_uses(&second).await.unwrap();
    store.note_api_key_uses(&[]).await.unwrap();
    let mut last_uses = Vec::new();
    for byte in [1, 2, 3] {
        last_uses.push(found(&store, byte).await.unwrap().last_used_at_ms);
    }
    assert_eq!(last_uses, [Some(200), Some(400), None]);
}

async fn an_id_and_a_key_are_given_once(bed: Bed) {
    let store = bed.migrated().await;
    let first = created(&store, "org_1", 1).await;
    for (same, id) in [(new_key("org_2", 2), key_id(1)), (new_key("org_2", 1), key_id(2))] {
        let error = store.create_api_key(same, id.clone(), 200).await.unwrap_err();
        assert!(
            matches!(&error, Error::ApiKeyExists { id: named } if *named == id),
            "{error:?}"
        );
    }
    assert_eq!(store.api_keys(None, None, 10).await.unwrap(), [first]);
}

async fn keys_are_listed_in_pages_and_by_organization(bed: Bed) {
    let store = bed.migrated().await;
    for (organization, byte) in [("org_1", 3), ("org_2", 2), ("org_1", 1), ("org_1", 4)] {
        created(&store, organization, byte).await;
    }
    store.revoke_api_key(&key_id(3), 500).await.unwrap();
    let listed = async |organization: Option<&str>, after: Option<u8>, limit| -> Vec<ApiKeyId> {
        let (organization, after) = (organization.map(OrganizationId::new), after.map(key_id));
        let page = store.api_keys(organization.as_ref(), after.as_ref(), limit).await;
        page.unwrap().into_iter().map(|key| key.id).collect()
    };
    assert_eq!(listed(None, None, 10).await, [1, 2, 3, 4].map(key_id));
    assert_eq!(listed(Some("org_1"), None, 2).await, [1, 3].map(key_id));
    assert_eq!(listed(Some("org_1"), Some(3), 2).await, [4].map(key_id));
    assert_eq!(listed(Some("org_3"), None, 2).await, []);
}

async fn a_platform_key_belongs_to_no_organization(bed: Bed) {
    let store = bed.migrated().await;
    created(&store, "org_1", 1).await;
    let platform = store
        .create_api_key(new_platform_key(2), key_id(2), 100)
        .await
        .unwrap();
    assert_eq!(platform.organization_id, None);
    assert_eq!(found(&store, 2).await, Some(platform));
    let listed = async |organization: Option<&str>| -> Vec<ApiKeyId> {
        let organization = organization.map(OrganizationId::new);
        let page = store.api_keys(organization.as_ref(), None, 10).await;
        page.unwrap().into_iter().map(|key| key.id).collect()
    };
    assert_eq!(listed(None).await, [1, 2].map(key_id));
    assert_eq!(listed(Some("org_1")).await, [key_id(1)]);
    store.revoke_api_key(&key_id(2), 500).await.unwrap();

    let changes = store.changes(None, None, 10).await.unwrap();
    let told: Vec<_> = changes
        .iter()
        .map(|change| (change.kind.as_str(), change.organization_id.is_some()))
        .collect();
    assert_eq!(
        told,
        [
            ("api_key.revoked", false),
            ("api_key.created", false),
            ("api_key.created", true)
        ]
    );
    let organization = OrganizationId::new("org_1");
    let own = store.changes(Some(&organization), None, 10).await.unwrap();
    assert_eq!(own, changes[2..]);
}

/// An organization whose id was lost must not result in a platform key.
async fn an_organization_without_an_id_gets_no_key(bed: Bed) {
    let store = bed.migrated().await;
    let refused = store.create_api_key(new_key("", 1), key_id(1), 100).await;
    assert!(
        matches!(&refused, Err(Error::EmptyOrganization { id }) if *id == key_id(1)),
        "{refused:?}"
    );
    assert_eq!(store.api_keys(None, None, 10).await.unwrap(), []);
    assert_eq!(store.changes(None, None, 10).await.unwrap(), []);
}

async fn an_organization_has_a_limited_number_of_keys_that_are_not_revoked(bed: Bed) {
    let store = bed.migrated().await;
    bed.execute(&format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {API_KEYS_MAX}) \
         INSERT INTO api_keys (id, organization_id, name, scopes, prefix, hash, created_at_ms, expires_at_ms) \
         SELECT 'key_' || n, 'org_1', 'full', 'admin', 'mgk_', CAST('' || n AS BYTEA), 1, 2 FROM numbers"
    ))
    .await;
    let refused = store.create_api_key(new_key("org_1", 1), key_id(1), 100).await;
    assert!(
        matches!(
            &refused,
            Err(Error::TooManyApiKeys {
                max: API_KEYS_MAX,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(found(&store, 1).await, None);
    assert_eq!(store.changes(None, None, 10).await.unwrap(), []);
    created(&store, "org_2", 2).await;
    store
        .create_api_key(new_platform_key(3), key_id(3), 100)
        .await
        .unwrap();
    store.revoke_api_key(&ApiKeyId::new("key_7"), 100).await.unwrap();
    created(&store, "org_1", 1).await;
}

/// Versions before platform keys read `organization_id` as the id of an organization.
async fn a_platform_key_belongs_to_an_organization_without_objects_for_older_versions(bed: Bed) {
    let store = bed.migrated().await;
    created(&store, "org_1", 1).await;
    // The schema as the version before platform keys left it.
    bed.execute(
        "DROP INDEX api_keys_not_revoked; DROP INDEX api_keys_revoked; DROP INDEX api_keys_expiring; \
         DROP TABLE relays; DROP INDEX deliveries_undelivered_by_organization; \
         DELETE FROM magnetite_migrations WHERE version >= 21",
    )
    .await;
    let before = store.api_keys(None, None, 10).await.unwrap();
    let migrated = bed.connect().await.migrate().await.unwrap();
    assert_eq!(migrated, ALL[15..]);
    assert_eq!(store.api_keys(None, None, 10).await.unwrap(), before);
    let platform = new_platform_key(2);
    store.create_api_key(platform, key_id(2), 100).await.unwrap();
    let with_empty_id = "SELECT COUNT(*) FROM api_keys WHERE organization_id = ''";
    assert_eq!(bed.number(with_empty_id).await, 1);
}

async fn a_database_from_before_keys_keeps_its_endpoints(bed: Bed) {
    let store = bed.migrated().await;
    let created = store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(1), 1)
        .await
        .unwrap();
    // The schema as the version before API keys left it.
    bed.execute(
        "DROP TABLE relays; DROP TABLE api_keys; DROP TABLE changes; DROP TABLE roles; DROP TABLE installation; DROP TABLE batches; DROP TABLE delays; DROP TABLE totals; ALTER TABLE events DROP COLUMN seen; DROP INDEX deliveries_undelivered_by_organization; DROP INDEX deliveries_unrecorded; ALTER TABLE deliveries DROP COLUMN recorded; ALTER TABLE deliveries DROP COLUMN replaced_ms; DROP TABLE endpoint_history; DROP TABLE retention; DROP TABLE retention_stops; \
         ALTER TABLE registry DROP COLUMN low_version; DROP INDEX endpoints_existing; DROP INDEX endpoints_deleted; \
         ALTER TABLE registry DROP COLUMN change_count; DELETE FROM magnetite_migrations WHERE version >= 4",
    )
    .await;
    let store = bed.connect().await;
    assert_eq!(store.migrate().await.unwrap(), ALL[3..]);
    let snapshot = store.load_registry().await.unwrap();
    assert_eq!(
        (snapshot.position.version, &snapshot.endpoints[..]),
        (1, &[created][..])
    );
    assert_eq!(store.changes(None, None, 10).await.unwrap(), []);
    let enabled = store.enable_endpoint(&endpoint_id(1), 2).await.unwrap();
    assert_eq!(enabled.version, 2);
    assert_eq!(store.changes(None, None, 10).await.unwrap()[0].number, 1);
}
