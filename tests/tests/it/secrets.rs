//! Tests secrets that are rotated under load while the receiver has only one of them, and that never appear
//! in clear.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use e2e::{Answer, Endpoint, Installation, Ledger, Load, Receiver, SOON, chance, event, scaled, wait_until};
use signature::{SIGNATURE_HEADER, Secret, Verifier};

const LONG: Duration = Duration::from_secs(90);

/// A receiver like the samples of the contract. It has one secret, reads one header, and answers 401 to an
/// invalid signature.
struct OneSecret(Arc<Mutex<Secret>>);

impl OneSecret {
    fn new(secret: &str) -> Self {
        Self(Arc::new(Mutex::new(Secret::parse(secret).unwrap())))
    }

    async fn listen(&self) -> Receiver {
        let held = Arc::clone(&self.0);
        let header = SIGNATURE_HEADER.to_lowercase();
        Receiver::new(move |request, _| {
            let verifier = Verifier::new(&[held.lock().unwrap().clone()]);
            match verifier.verify(&request.body, request.header(&header)) {
                Ok(()) => Answer::status(200),
                Err(_) => Answer::status(401),
            }
        })
        .await
    }

    fn switch_to(&self, secret: &str) {
        *self.0.lock().unwrap() = Secret::parse(secret).unwrap();
    }
}

/// A placeholder: the receiver needs a secret before its endpoint exists, and only the endpoint determines
/// the secret.
const ANY: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_with_one_secret_switches_at_any_moment_of_the_overlap_and_loses_nothing() {
    let rotations = scaled(3, 20);
    let installation = Installation::with_delays("rotation", &[500, 500, 500]).await;
    let mut ledger = Ledger::new();
    let holder = OneSecret::new(ANY);
    let receiver = holder.listen().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    holder.switch_to(&endpoint.secret);
    let id = endpoint.id.clone();
    ledger.endpoint("rotating", endpoint, receiver);
    let workers = [
        installation.talkative_worker().await,
        installation.talkative_worker().await,
    ];
    let load = Load::start(&installation, "org_1", 200);
    let receiver = ledger.receiver("rotating");
    for rotation in 0..rotations {
        let more = |events: usize| {
            let reached = receiver.accepted() + events;
            move || receiver.accepted() >= reached
        };
        wait_until("events flow", SOON, more(50)).await;
        // This succeeds when the previous overlap has ended, which is long after the receiver has switched.
        let rotated = rotate_when_it_may(&installation, &id).await;
        let moment = chance(("moment", rotation), 100) as usize;
        wait_until("the receiver's moment comes", SOON, more(moment)).await;
        holder.switch_to(&rotated.secret);
    }
    ledger.published(load.stop().await);
    let books = ledger.settle(&installation, LONG).await;
    books.assert_balanced();
    assert_eq!((books.dead, books.duplicates), (0, 0), "{books}");
    let receiver = ledger.receiver("rotating");
    let mut twice = 0;
    for (lead, receipts) in receiver.receipts() {
        assert!(receipts.len() <= 2, "{lead}: {} requests", receipts.len());
        twice += receipts.len() - 1;
    }
    assert!(twice > 0, "no request met the other secret: nothing was tried");
    // At each worker, only requests that are in flight when the receiver switches are repeated.
    assert!(
        twice < rotations * 100,
        "{twice} requests too many: what was accepted is not remembered"
    );
    for worker in workers {
        assert!(worker.terminate().await);
    }
    installation.delete().await;
}

/// Rotates the secret as soon as the previous overlap has ended, and returns the endpoint with the new
/// secret.
async fn rotate_when_it_may(installation: &Installation, id: &str) -> Endpoint {
    e2e::wait_for("the last overlap ends", SOON, || async {
        let rotated = installation.rotate_secret(id, &["--overlap", "3s"]).await;
        if let Err(why) = &rotated {
            assert!(why.contains("already has two valid secrets"), "{why}");
        }
        rotated
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_secret_signs_nothing_any_more() {
    let installation = Installation::new("revoke").await;
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let worker = installation.talkative_worker().await;
    let publish = [
        "publish",
        "--event",
        "lead.created",
        "--org",
        "org_1",
        "--project",
        "p",
        "--lead",
        "l",
        "--data",
        "{}",
    ];
    let second = installation
        .rotate_secret(&endpoint.id, &[])
        .await
        .unwrap()
        .secret;
    let why = installation.rotate_secret(&endpoint.id, &[]).await.unwrap_err();
    assert!(why.contains("--revoke-now"), "{why}");
    let given = "whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
    let revoke = ["--revoke-now", "--secret", given];
    let revoked = installation.rotate_secret(&endpoint.id, &revoke).await.unwrap();
    assert_eq!(revoked.secret, given);
    let fits = |secret: &str| {
        let requests = receiver.requests();
        let request = requests.last().unwrap();
        let verifier = Verifier::new(&[Secret::parse(secret).unwrap()]);
        let header = SIGNATURE_HEADER.to_lowercase();
        let verified = verifier.verify(&request.body, request.header(&header)).is_ok();
        let standard = request.header("webhook-signature").split(' ').count();
        (verified, standard)
    };
    installation.cli_ok(&publish).await;
    wait_until("it arrives", SOON, || receiver.count() == 1).await;
    assert_eq!(
        fits(given),
        (true, 1),
        "the worker signs with the new secret alone"
    );
    assert!(!fits(&endpoint.secret).0 && !fits(&second).0);
    assert!(worker.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_the_secrets_is_changed_and_a_process_without_it_ends_and_says_so() {
    const KEYS: &str = "MAGNETITE_SECRETS__KEYS";
    let mut installation = Installation::new("keys").await;
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let old = std::fs::read_to_string(installation.directory().join("magnetite.db.key")).unwrap();
    let made = installation.cli(&["secrets", "new-key"]).await;
    let (new, note) = (
        String::from_utf8(made.stdout).unwrap(),
        String::from_utf8(made.stderr).unwrap(),
    );
    let id = note
        .split([' ', '.'])
        .nth(1)
        .expect("the note begins with the key's id");
    let (old, new) = (old.trim(), new.trim());

    installation.set(KEYS, &format!("{new},{old}"));
    assert_eq!(
        installation.cli_ok(&["secrets", "reseal"]).await.trim(),
        "resealed 1"
    );
    installation.set(KEYS, new);
    let worker = installation.worker().await;
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    wait_until("it arrives", SOON, || receiver.count() == 1).await;
    receiver.requests()[0].verify(&endpoint.secret);
    assert!(worker.terminate().await);

    installation.set(KEYS, old);
    for command in [["worker"].as_slice(), &["endpoint", "list"], &["doctor"]] {
        let output = installation.cli(command).await;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        assert!(
            said.contains(id) && said.contains("secrets.keys"),
            "{command:?}: {said}"
        );
    }
    installation.delete().await;
}
