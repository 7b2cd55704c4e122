//! Chooses the secret with which a request is signed.
//!
//! After a secret rotation the receiver may use either secret until the overlap ends, and may switch at any
//! moment. The signature header of Standard Webhooks can contain signatures of both. `X-Magnetite-Signature`
//! has room for one: the worker first uses the old secret. An endpoint that responds with 401 or 403 gets a
//! second request, signed with the other secret, and the secret that it accepted last is used first for its
//! next request. When the overlap ends, only the new secret remains.

use std::sync::atomic::{AtomicBool, Ordering};

use signature::SigningKey;
use webhook::Endpoint;

/// An endpoint's secrets, prepared for signing.
#[derive(Debug)]
pub(crate) struct Signing {
    current: SigningKey,
    previous: Option<Previous>,
}

#[derive(Debug)]
struct Previous {
    key: SigningKey,
    until_ms: i64,
    /// Whether the endpoint last accepted the current secret rather than the previous one.
    switched: AtomicBool,
}

/// One of the secrets that are valid now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signer<'a> {
    current: &'a SigningKey,
    /// The previous secret; `None` after the overlap.
    previous: Option<&'a Previous>,
    with_current: bool,
}

impl Signing {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        Self {
            current: SigningKey::new(&endpoint.secret),
            previous: endpoint.previous.as_ref().map(|previous| Previous {
                key: SigningKey::new(&previous.secret),
                until_ms: previous.until_ms,
                switched: AtomicBool::new(false),
            }),
        }
    }

    /// Copies which secret was accepted last from an earlier state of the endpoint with the same secrets.
    pub(crate) fn go_on_from(&self, earlier: &Self) {
        if let (Some(previous), Some(earlier)) = (&self.previous, &earlier.previous) {
            let switched = earlier.switched.load(Ordering::Relaxed);
            previous.switched.store(switched, Ordering::Relaxed);
        }
    }

    /// Returns the secret to try first.
    pub(crate) fn first(&self, now_ms: i64) -> Signer<'_> {
        let previous = self
            .previous
            .as_ref()
            .filter(|previous| now_ms < previous.until_ms);
        Signer {
            current: &self.current,
            previous,
            with_current: previous.is_none_or(|previous| previous.switched.load(Ordering::Relaxed)),
        }
    }
}

impl<'a> Signer<'a> {
    /// Returns the other secret; `None` if only one is valid.
    pub(crate) fn other(self) -> Option<Self> {
        self.previous.is_some().then_some(Self {
            with_current: !self.with_current,
            ..self
        })
    }

    /// Notes that the endpoint accepted a signature made with this secret.
    pub(crate) fn accepted(self) {
        if let Some(previous) = self.previous {
            previous.switched.store(self.with_current, Ordering::Relaxed);
        }
    }

    /// Returns the value of `X-Magnetite-Signature`.
    pub(crate) fn sign(self, body: &[u8]) -> String {
        self.key().sign(body)
    }

    /// Returns the value of `webhook-signature`, with a signature by each valid secret.
    pub(crate) fn sign_standard(self, id: &str, now_s: i64, body: &[u8]) -> String {
        let mut signatures = self.current.sign_standard(id, now_s, body);
        if let Some(previous) = self.previous {
            signatures.push(' ');
            signatures.push_str(&previous.key.sign_standard(id, now_s, body));
        }
        signatures
    }

    fn key(self) -> &'a SigningKey {
        match self.previous {
            Some(previous) if !self.with_current => &previous.key,
            _ => self.current,
        }
    }
}

#[cfg(test)]
mod tests {
    use signature::{Secret, Verifier};
    use webhook::{EndpointId, OrganizationId, PreviousSecret, Subscription};

    use super::*;

    fn secret(byte: u8) -> Secret {
        Secret::generate([byte; 32])
    }

    fn signing() -> Signing {
        Signing::of(&Endpoint {
            id: EndpointId::new("ep_1"),
            organization_id: OrganizationId::new("org_1"),
            project_id: None,
            url: "https://example.com".to_owned(),
            subscription: "*".parse::<Subscription>().unwrap(),
            secret: secret(2),
            previous: Some(PreviousSecret {
                secret: secret(1),
                until_ms: 1_000,
            }),
            disabled: None,
            version: 1,
            created_at_ms: 0,
            updated_at_ms: 0,
        })
    }

    fn fits(signer: Signer<'_>, byte: u8) -> bool {
        Verifier::new(&[secret(byte)])
            .verify(b"body", &signer.sign(b"body"))
            .is_ok()
    }

    #[test]
    fn the_old_secret_is_tried_first_then_the_one_that_was_taken_and_in_the_end_the_new_one() {
        let signing = signing();
        let first = signing.first(0);
        assert!(fits(first, 1) && fits(first.other().unwrap(), 2));
        first.accepted();
        assert!(fits(signing.first(0), 1), "the old secret is still first");
        first.other().unwrap().accepted();
        assert!(fits(signing.first(0), 2), "the new secret is first now");
        assert!(fits(signing.first(0).other().unwrap(), 1));
        signing.first(0).other().unwrap().accepted();
        assert!(fits(signing.first(0), 1), "the old secret is first again");
        assert!(fits(signing.first(1_000), 2), "the overlap has ended");
        assert!(signing.first(1_000).other().is_none());
    }

    #[test]
    fn the_standard_signature_fits_either_secret_within_the_overlap() {
        let signing = signing();
        let fits = |signer: Signer<'_>, byte| {
            let signatures = signer.sign_standard("evt_1", 5, b"body");
            let verifier = Verifier::new(&[secret(byte)]);
            verifier
                .verify_standard("evt_1", "5", &signatures, b"body", 5, 0)
                .is_ok()
        };
        assert!(fits(signing.first(0), 1) && fits(signing.first(0), 2));
        assert!(!fits(signing.first(1_000), 1) && fits(signing.first(1_000), 2));
    }

    #[test]
    fn what_was_taken_is_still_known_after_the_endpoint_was_changed() {
        let before = signing();
        before.first(0).other().unwrap().accepted();
        let after = signing();
        after.go_on_from(&before);
        assert!(fits(after.first(0), 2));
    }
}
