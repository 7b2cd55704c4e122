//! Reads and writes of single endpoints, and pages of endpoints.

use store::{EndpointChange, Error, Lookup, Store};
use webhook::{Disabled, DisabledReason, Endpoint, EndpointId, OrganizationId, ProjectId};

use super::bed::{Bed, all_of, endpoint_id, new_endpoint, on_both_databases, since};

on_both_databases! {
    a_created_endpoint_is_read_back_as_it_was_returned,
    an_id_is_given_once,
    an_update_changes_the_fields_that_are_given_and_no_others,
    disabling_keeps_reason_and_time_until_it_is_enabled,
    a_410_disables_only_the_endpoint_it_was_about,
    of_many_attempts_that_got_a_410_one_disables,
    a_change_in_the_same_moment_as_a_410_is_never_undone,
    an_unknown_endpoint_is_named_by_the_error,
    pages_are_complete_ordered_and_of_one_organization,
    an_unreadable_row_is_named_and_its_secret_is_not_shown,
    a_refused_write_changes_nothing,
}

async fn a_created_endpoint_is_read_back_as_it_was_returned(bed: Bed) {
    let store = bed.migrated().await;
    let new = new_endpoint("org_1");
    let created = store
        .create_endpoint(new.clone(), endpoint_id(1), 1_700_000_000_123)
        .await
        .unwrap();

    let expected = Endpoint {
        id: endpoint_id(1),
        organization_id: new.organization_id,
        project_id: new.project_id,
        url: new.url,
        subscription: new.subscription,
        secret: new.secret,
        previous: None,
        disabled: None,
        version: 1,
        created_at_ms: 1_700_000_000_123,
        updated_at_ms: 1_700_000_000_123,
    };
    assert_eq!(created, expected);
    assert_eq!(
        store.endpoint(&created.id).await.unwrap(),
        Lookup::Found(expected)
    );

    let everywhere = store::NewEndpoint {
        project_id: None,
        ..new_endpoint("org_1")
    };
    let created = store
        .create_endpoint(everywhere, endpoint_id(2), 5)
        .await
        .unwrap();
    assert_eq!((created.project_id, created.version), (None, 2));
}

async fn an_id_is_given_once(bed: Bed) {
    let store = bed.migrated().await;
    let first = store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(1), 1)
        .await
        .unwrap();

    let error = store
        .create_endpoint(new_endpoint("org_2"), endpoint_id(1), 2)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::EndpointExists { id } if *id == first.id),
        "{error:?}"
    );
    assert!(!error.is_unavailable());
    assert_eq!(
        store.endpoint(&first.id).await.unwrap(),
        Lookup::Found(first.clone())
    );

    store.delete_endpoint(&first.id, 3).await.unwrap();
    let error = store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(1), 4)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::EndpointExists { .. }), "{error:?}");
    assert_eq!(store.endpoint(&first.id).await.unwrap(), Lookup::Deleted);
}

async fn an_update_changes_the_fields_that_are_given_and_no_others(bed: Bed) {
    let store = bed.migrated().await;
    let id = endpoint_id(1);
    let mut expected = store
        .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
        .await
        .unwrap();
    let bystander = store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(2), 1)
        .await
        .unwrap();

    let url = "https://elsewhere.example/".to_owned();
    let change = EndpointChange {
        url: Some(url.clone()),
        ..EndpointChange::default()
    };
    (expected.url, expected.version, expected.updated_at_ms) = (url, 3, 10);
    assert_eq!(store.update_endpoint(&id, change, 10).await.unwrap(), expected);

    let change = EndpointChange {
        project_id: Some(None),
        ..EndpointChange::default()
    };
    (expected.project_id, expected.version, expected.updated_at_ms) = (None, 4, 20);
    assert_eq!(store.update_endpoint(&id, change, 20).await.unwrap(), expected);

    let project = Some(ProjectId::new("proj_2"));
    let change = EndpointChange {
        project_id: Some(project.clone()),
        subscription: Some("*".parse().unwrap()),
        ..EndpointChange::default()
    };
    (expected.project_id, expected.version, expected.updated_at_ms) = (project, 5, 30);
    expected.subscription = "*".parse().unwrap();
    assert_eq!(store.update_endpoint(&id, change, 30).await.unwrap(), expected);

    (expected.version, expected.updated_at_ms) = (6, 40);
    assert_eq!(
        store
            .update_endpoint(&id, EndpointChange::default(), 40)
            .await
            .unwrap(),
        expected
    );
    assert_eq!(store.endpoint(&id).await.unwrap(), Lookup::Found(expected));
    assert_eq!(
        store.endpoint(&bystander.id).await.unwrap(),
        Lookup::Found(bystander)
    );
}

async fn disabling_keeps_reason_and_time_until_it_is_enabled(bed: Bed) {
    let store = bed.migrated().await;
    let id = endpoint_id(1);
    store
        .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
        .await
        .unwrap();

    let disabled = store
        .disable_endpoint(&id, DisabledReason::Manual, 10)
        .await
        .unwrap();
    assert_eq!(
        disabled.disabled,
        Some(Disabled {
            reason: DisabledReason::Manual,
            at_ms: 10
        })
    );
    let change = EndpointChange {
        project_id: Some(None),
        ..EndpointChange::default()
    };
    let updated = store.update_endpoint(&id, change, 20).await.unwrap();
    assert_eq!(updated.disabled, disabled.disabled);
    assert_eq!(store.endpoint(&id).await.unwrap(), Lookup::Found(updated));

    let again = store
        .disable_endpoint(&id, DisabledReason::Gone, 30)
        .await
        .unwrap();
    assert_eq!(
        again.disabled,
        Some(Disabled {
            reason: DisabledReason::Gone,
            at_ms: 30
        })
    );

    let enabled = store.enable_endpoint(&id, 40).await.unwrap();
    assert_eq!(
        (enabled.disabled, enabled.updated_at_ms, enabled.version),
        (None, 40, 5)
    );
}

async fn a_410_disables_only_the_endpoint_it_was_about(bed: Bed) {
    let store = bed.migrated().await;
    let id = endpoint_id(1);
    let seen = store
        .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
        .await
        .unwrap()
        .version;

    let change = EndpointChange {
        url: Some("https://new.example".to_owned()),
        ..EndpointChange::default()
    };
    let changed = store.update_endpoint(&id, change, 2).await.unwrap();
    let gone = DisabledReason::Gone;
    assert!(
        !store
            .disable_endpoint_unless_changed(&id, seen, gone, 3)
            .await
            .unwrap()
    );
    assert_eq!(store.endpoint(&id).await.unwrap(), Lookup::Found(changed.clone()));
    assert_eq!(store.registry_position().await.unwrap().version, changed.version);

    assert!(
        store
            .disable_endpoint_unless_changed(&id, changed.version, gone, 4)
            .await
            .unwrap()
    );
    let Lookup::Found(disabled) = store.endpoint(&id).await.unwrap() else {
        panic!("it exists")
    };
    assert_eq!(
        disabled.disabled,
        Some(Disabled {
            reason: gone,
            at_ms: 4
        })
    );
    let changes = store.registry_changes(&since(changed.version)).await.unwrap();
    assert_eq!(changes.endpoints, std::slice::from_ref(&disabled));

    store.delete_endpoint(&id, 5).await.unwrap();
    let last = store.registry_position().await.unwrap().version;
    for version in [disabled.version, last] {
        assert!(
            !store
                .disable_endpoint_unless_changed(&id, version, gone, 6)
                .await
                .unwrap()
        );
    }
    assert!(
        !store
            .disable_endpoint_unless_changed(&endpoint_id(9), 1, gone, 6)
            .await
            .unwrap()
    );
}

/// Disables the endpoint from six concurrent attempts that all saw version `seen`. Returns how many of them
/// disabled it.
async fn disable_six_times(store: &Store, id: &EndpointId, seen: i64) -> usize {
    let attempts = [(); 6].map(|()| {
        let (store, id) = (store.clone(), id.clone());
        tokio::spawn(async move {
            store
                .disable_endpoint_unless_changed(&id, seen, DisabledReason::Gone, 2)
                .await
                .unwrap()
        })
    });
    let mut disabled = 0;
    for attempt in attempts {
        disabled += usize::from(attempt.await.unwrap());
    }
    disabled
}

async fn of_many_attempts_that_got_a_410_one_disables(bed: Bed) {
    let store = bed.migrated().await;
    for number in 0..5 {
        let id = endpoint_id(number);
        let created = store
            .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
            .await
            .unwrap();
        assert_eq!(disable_six_times(&store, &id, created.version).await, 1);
    }
    assert_eq!(store.registry_position().await.unwrap().version, 10);
}

async fn a_change_in_the_same_moment_as_a_410_is_never_undone(bed: Bed) {
    let store = bed.migrated().await;
    for number in 0..10 {
        let id = endpoint_id(number);
        let created = store
            .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
            .await
            .unwrap();
        let (disabled, enabled) = tokio::join!(
            disable_six_times(&store, &id, created.version),
            store.enable_endpoint(&id, 3)
        );
        assert!(disabled <= 1, "{disabled}");
        assert_eq!(
            store.endpoint(&id).await.unwrap(),
            Lookup::Found(enabled.unwrap())
        );
    }
}

async fn an_unknown_endpoint_is_named_by_the_error(bed: Bed) {
    let store = bed.migrated().await;
    let id = EndpointId::new("ep_missing");
    assert_eq!(store.endpoint(&id).await.unwrap(), Lookup::Unknown);
    for error in [
        store
            .update_endpoint(&id, EndpointChange::default(), 1)
            .await
            .unwrap_err(),
        store.enable_endpoint(&id, 1).await.unwrap_err(),
        store
            .disable_endpoint(&id, DisabledReason::Manual, 1)
            .await
            .unwrap_err(),
        store.delete_endpoint(&id, 1).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::EndpointNotFound { .. }), "{error:?}");
        assert!(error.to_string().contains("ep_missing"), "{error}");
        assert!(!error.is_unavailable());
    }
    assert_eq!(store.registry_position().await.unwrap().version, 0);
}

async fn pages_are_complete_ordered_and_of_one_organization(bed: Bed) {
    let store = bed.migrated().await;
    for number in [5, 3, 8, 1, 9, 2, 7, 4, 6] {
        let organization = if number % 3 == 0 { "org_third" } else { "org_other" };
        store
            .create_endpoint(new_endpoint(organization), endpoint_id(number), 1)
            .await
            .unwrap();
    }
    store.delete_endpoint(&endpoint_id(4), 2).await.unwrap();
    store
        .disable_endpoint(&endpoint_id(6), DisabledReason::Manual, 2)
        .await
        .unwrap();

    let all_pages = async |organization: Option<&OrganizationId>, limit| {
        let mut ids: Vec<EndpointId> = Vec::new();
        loop {
            let page = store
                .list_endpoints(organization, ids.last(), limit)
                .await
                .unwrap();
            ids.extend(page.iter().map(|endpoint| endpoint.id.clone()));
            if page.len() < limit as usize {
                return ids;
            }
        }
    };
    let ids = |numbers: &[u32]| {
        numbers
            .iter()
            .map(|number| endpoint_id(*number))
            .collect::<Vec<_>>()
    };
    let third = OrganizationId::new("org_third");
    for limit in [1, 2, 3, 100] {
        assert_eq!(
            all_pages(None, limit).await,
            ids(&[1, 2, 3, 5, 6, 7, 8, 9]),
            "{limit}"
        );
        assert_eq!(all_pages(Some(&third), limit).await, ids(&[3, 6, 9]), "{limit}");
    }
    assert_eq!(all_pages(Some(&OrganizationId::new("org_none")), 10).await, []);
    assert_eq!(store.list_endpoints(None, None, 0).await.unwrap(), []);
}

async fn an_unreadable_row_is_named_and_its_secret_is_not_shown(bed: Bed) {
    for (column, value) in [
        ("subscription", "lead.teleported"),
        ("secret", "whsec_but-not-base64"),
        ("disabled_reason", "bored"),
        ("disabled_at_ms", ""),
        ("url", ""),
    ] {
        let store = bed.migrated().await;
        let id = endpoint_id(super::bed::next_number());
        store
            .create_endpoint(new_endpoint("org_1"), id.clone(), 1)
            .await
            .unwrap();
        store
            .disable_endpoint(&id, DisabledReason::Manual, 1)
            .await
            .unwrap();
        let value = if value.is_empty() {
            "NULL".to_owned()
        } else {
            format!("'{value}'")
        };
        bed.execute(&format!(
            "UPDATE endpoints SET {column} = {value} WHERE id = '{id}'"
        ))
        .await;

        let before = store.registry_position().await.unwrap().version;
        for error in [
            store.endpoint(&id).await.unwrap_err(),
            store.list_endpoints(None, None, 10).await.unwrap_err(),
            store
                .update_endpoint(&id, EndpointChange::default(), 2)
                .await
                .unwrap_err(),
        ] {
            let text = all_of(&error);
            assert!(
                matches!(error, Error::Undecodable { column: found, .. } if found == column),
                "{text}"
            );
            assert!(text.contains(id.as_str()) && text.contains(column), "{text}");
            assert!(!text.contains("whsec_"), "{text}");
        }
        assert_eq!(store.registry_position().await.unwrap().version, before);
        // It can still be deleted, and then no longer blocks other operations.
        store.delete_endpoint(&id, 3).await.unwrap();
        assert_eq!(store.load_registry().await.unwrap().endpoints, []);
    }
}

async fn a_refused_write_changes_nothing(bed: Bed) {
    let store = bed.migrated().await;
    let created = store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(1), 1)
        .await
        .unwrap();
    let before = store.load_registry().await.unwrap();

    store
        .create_endpoint(new_endpoint("org_1"), created.id.clone(), 2)
        .await
        .unwrap_err();
    store.delete_endpoint(&endpoint_id(2), 2).await.unwrap_err();
    bed.execute("UPDATE registry SET endpoint_count = 100000").await;
    let error = store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(3), 2)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooManyEndpoints), "{error:?}");

    assert_eq!(store.load_registry().await.unwrap(), before);
    // Deleting one endpoint makes room for one more.
    store.delete_endpoint(&created.id, 3).await.unwrap();
    store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(3), 4)
        .await
        .unwrap();
    store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(4), 5)
        .await
        .unwrap_err();
}
