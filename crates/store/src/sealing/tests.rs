use proptest::prelude::*;

use super::*;

fn key(byte: u8) -> SealingKey {
    SealingKey::generate([byte; 32])
}

fn keyring(keys: &[u8]) -> Keyring {
    let keys: Vec<_> = keys.iter().copied().map(key).collect();
    Keyring::new(&keys, "secrets.keys".to_owned())
}

fn secret() -> Secret {
    Secret::generate([9; 32])
}

#[test]
fn a_key_is_read_as_it_was_written_and_shown_by_its_id_alone() {
    let key = key(1);
    assert_eq!(key.expose().parse(), Ok(key.clone()));
    assert_eq!(format!("{key:?}"), format!("SealingKey({})", key.id()));
    for text in ["", "mgsk_", "mgsk_AAAA", "whsec_AAAA", &key.expose()[5..]] {
        assert_eq!(text.parse::<SealingKey>(), Err(BadSealingKey), "{text}");
    }
}

#[test]
fn any_key_of_the_ring_opens_and_a_missing_one_is_named() {
    let (organization, endpoint) = (OrganizationId::new("org_1"), EndpointId::new("ep_1"));
    let owner = Owner {
        organization: &organization,
        endpoint: &endpoint,
    };
    let sealed = keyring(&[1]).seal(&key(1).id(), &secret(), owner).unwrap();
    assert!(!sealed.contains(secret().expose()));
    assert_eq!(keyring(&[2, 1]).open(&sealed, owner), Ok(secret()));
    let missing = keyring(&[2]).open(&sealed, owner).unwrap_err();
    assert_eq!(missing, NotOpened::KeyMissing(key(1).id()));
    let error = keyring(&[2]).seal(&key(1).id(), &secret(), owner).unwrap_err();
    assert!(error.to_string().contains(&key(1).id()), "{error}");
    assert_eq!(
        keyring(&[1]).open(secret().expose(), owner),
        Err(NotOpened::Plain)
    );
}

proptest! {
    /// Includes pairs whose organization and endpoint, concatenated, yield the same text.
    #[test]
    fn what_is_sealed_for_one_endpoint_opens_for_no_other(
        one in "[a-c:1-3]{1,4}", its in "[a-c:1-3]{1,4}", other in "[a-c:1-3]{1,4}", others in "[a-c:1-3]{1,4}",
    ) {
        let ids = |organization: &str, endpoint: &str| (OrganizationId::new(organization), EndpointId::new(endpoint));
        let (first, second) = (ids(&one, &its), ids(&other, &others));
        let ring = keyring(&[1]);
        let sealed = ring.seal(ring.first(), &secret(), Owner { organization: &first.0, endpoint: &first.1 }).unwrap();
        let opened = ring.open(&sealed, Owner { organization: &second.0, endpoint: &second.1 });
        prop_assert_eq!(opened.is_ok(), first == second);
    }

    #[test]
    fn no_altered_text_opens_and_none_panics(at in 0_usize..200, byte in 0x20_u8..0x7f) {
        let (organization, endpoint) = (OrganizationId::new("org_1"), EndpointId::new("ep_1"));
        let owner = Owner { organization: &organization, endpoint: &endpoint };
        let ring = keyring(&[1]);
        let sealed = ring.seal(ring.first(), &secret(), owner).unwrap();
        let mut altered = sealed.clone().into_bytes();
        let at = at % altered.len();
        altered[at] = byte;
        let altered = String::from_utf8(altered).unwrap();
        prop_assert_eq!(ring.open(&altered, owner).is_ok(), altered == sealed);
        let _ = ring.open(&sealed[..at], owner);
    }
}
