//! The maximum number of endpoints of an organization.

use store::{EndpointChange, Error, Store};

use super::bed::{Bed, endpoint_id, new_endpoint, on_both_databases};

on_both_databases! {
    an_organization_has_no_more_endpoints_than_it_may_have,
    of_creations_at_once_those_within_the_limit_succeed,
}

async fn an_organization_has_no_more_endpoints_than_it_may_have(bed: Bed) {
    let store = bed.migrated().await;
    let limited = store.per_organization_max(2);
    let create = async |store: &Store, organization: &str, number| {
        let created = store.create_endpoint(new_endpoint(organization), endpoint_id(number), 1);
        created.await.map(drop)
    };
    for number in 0..2 {
        create(&limited, "org_1", number).await.unwrap();
    }
    let before = store.load_registry().await.unwrap();
    let error = create(&limited, "org_1", 2).await.unwrap_err();
    assert!(
        matches!(error, Error::OrganizationFull { max: 2, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("org_1 has 2 endpoints"), "{error}");
    assert_eq!(store.load_registry().await.unwrap(), before);

    create(&limited, "org_2", 2).await.unwrap();
    // An existing endpoint can still be changed, and a higher limit allows another one.
    limited
        .update_endpoint(&endpoint_id(0), EndpointChange::default(), 2)
        .await
        .unwrap();
    create(&store.per_organization_max(3), "org_1", 3).await.unwrap();
    // With a lower limit the organization keeps its endpoints. Deleted endpoints do not count.
    for number in [0, 1] {
        create(&limited, "org_1", 4).await.unwrap_err();
        store.delete_endpoint(&endpoint_id(number), 3).await.unwrap();
    }
    create(&limited, "org_1", 4).await.unwrap();
}

async fn of_creations_at_once_those_within_the_limit_succeed(bed: Bed) {
    let store = bed.migrated().await.per_organization_max(5);
    let tasks: Vec<_> = (0..12)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                let created = store.create_endpoint(new_endpoint("org_1"), endpoint_id(number), 1);
                created.await.is_ok()
            })
        })
        .collect();
    let mut created = 0;
    for task in tasks {
        created += usize::from(task.await.unwrap());
    }
    assert_eq!(created, 5);
}
