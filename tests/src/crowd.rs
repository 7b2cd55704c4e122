//! Hundreds of endpoints whose receiver does not answer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::StreamExt as _;
use serde_json::json;

use crate::{Answer, Api, Installation, Receiver, SOON, event, wait_until};

/// The number of endpoints that are registered concurrently.
const AT_ONCE: usize = 8;

/// Endpoints at one receiver, which hangs. The endpoints are divided equally among a number of organizations.
pub struct Crowd {
    endpoints: usize,
    organizations: usize,
    /// The receiver of all endpoints.
    pub receiver: Receiver,
    hangs: Arc<AtomicBool>,
}

impl Crowd {
    /// Registers `endpoints` endpoints, divided equally among the organizations `org_0`, `org_1` and so on.
    /// They do not answer.
    pub async fn register(installation: &Installation, endpoints: usize, organizations: usize) -> Self {
        let hangs = Arc::new(AtomicBool::new(true));
        let told = Arc::clone(&hangs);
        let receiver = Receiver::new(move |_, _| {
            if told.load(Ordering::Relaxed) {
                Answer::Hang
            } else {
                Answer::status(200)
            }
        })
        .await;
        let api = Api::start(installation).await;
        for organization in 0..organizations {
            let key = installation
                .key(&format!("org_{organization}"), "endpoints:write")
                .await;
            let (api, key) = (&api, &key);
            let each = futures_util::stream::iter(0..endpoints / organizations).map(|number| {
                let url = format!("{}/{organization}/{number}", receiver.url());
                async move {
                    let created = api.send(
                        "POST",
                        "/v1/endpoints",
                        key,
                        &[],
                        json!({ "url": url }).to_string(),
                    );
                    assert_eq!(created.await.status, 201);
                }
            });
            each.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
        }
        assert!(api.role.terminate().await);
        Self {
            endpoints,
            organizations,
            receiver,
            hangs,
        }
    }

    /// Publishes one event for each organization.
    pub async fn wave(&self, installation: &Installation, lead: &str) {
        let events: Vec<_> = (0..self.organizations)
            .map(|organization| event(&format!("org_{organization}"), lead))
            .collect();
        installation.amqp().publish(&events).await;
    }

    /// Publishes one wave that every endpoint answers successfully. After that, the endpoints hang again.
    pub async fn begin_well(&self, installation: &Installation) {
        self.hangs.store(false, Ordering::Relaxed);
        self.wave(installation, "well").await;
        wait_until("all of them have answered", SOON, || {
            self.receiver.count() == self.endpoints
        })
        .await;
        self.hangs.store(true, Ordering::Relaxed);
    }
}
