//! A worker whose retry is nacked, or never confirmed, while 63 others are in flight with it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise"
)]

use std::time::Duration;

use e2e::{
    Answer, Confirms, Installation, Receiver, Role, Strike, chance, event, report, wait_for, wait_until,
};

const SOON: Duration = Duration::from_secs(20);
const IN_FLIGHT: usize = 64;
/// As many groups as a worker commits at once: with all of them waiting, what comes next becomes one group.
const GROUPS: usize = 4;

/// Everything fails once, so everything owes a retry.
struct Scene {
    installation: Installation,
    confirms: Confirms,
    receiver: Receiver,
    worker: Role,
    victim: String,
}

impl Scene {
    async fn set(name: &str) -> Self {
        let mut installation = Installation::with_delays(name, &[1000]).await;
        let confirms = Confirms::to(installation.broker_url()).await;
        installation.set("MAGNETITE_BROKER__URL", &confirms.url());
        let receiver =
            Receiver::new(|request, _| Answer::status(if request.attempt() == 1 { 500 } else { 200 })).await;
        installation.endpoint("org_1", &receiver.url()).await;
        Self {
            worker: installation.worker().await,
            victim: format!("lead_{}", chance("victim", IN_FLIGHT as u64)),
            installation,
            confirms,
            receiver,
        }
    }

    /// Brings 64 retries in flight on one channel, of which one is struck.
    async fn strike(&self, strike: Strike) {
        let amqp = self.installation.amqp();
        self.confirms.hold_until(usize::MAX);
        for group in 0..GROUPS {
            amqp.publish(&[event("org_1", &format!("before_{group}"))]).await;
            wait_until("a group waits", SOON, || {
                self.retries(&format!("before_{group}")).len() == 1
            })
            .await;
        }
        // The second publish is not confirmed before the test has had a look.
        for strike in [strike, Strike::Late] {
            self.confirms.strike(marker(&self.victim), strike);
        }
        let events: Vec<_> = (0..IN_FLIGHT)
            .map(|lead| event("org_1", &format!("lead_{lead}")))
            .collect();
        amqp.publish(&events).await;
        wait_for("all attempts have failed", SOON, || async {
            let failed = self.worker.metric("magnetite_attempts_total", "retry").await as usize;
            if failed == GROUPS + IN_FLIGHT {
                Ok(())
            } else {
                Err(format!("{failed} attempts"))
            }
        })
        .await;
        assert_eq!(
            self.confirms.unacked(),
            GROUPS + IN_FLIGHT,
            "nothing is acked before its retry is confirmed"
        );
        self.confirms.hold_until(IN_FLIGHT);
        wait_until("the retries are in flight", SOON, || {
            self.retries(&self.victim)
                .first()
                .is_some_and(|it| it.together == IN_FLIGHT)
        })
        .await;
    }

    fn retries(&self, lead: &str) -> Vec<e2e::Published> {
        self.confirms.published(&marker(lead))
    }

    /// The struck retry alone is published again; its message is the only one that is not acked, until that is confirmed.
    async fn only_the_victim_is_published_again_and_then_acked(&self) {
        wait_until("the victim is published again", SOON, || {
            self.retries(&self.victim).len() == 2
        })
        .await;
        wait_until("its neighbours are acked", SOON, || self.confirms.unacked() <= 1).await;
        assert_eq!(
            self.confirms.unacked(),
            1,
            "the victim was acked without a confirm"
        );
        let again = &self.retries(&self.victim)[1];
        assert_eq!(again.together, 1, "it is published alone");
        self.confirms.release();
        wait_until("the victim is acked", SOON, || self.confirms.unacked() == 0).await;
    }

    /// Every lead is delivered. The broker had the victim's first retry, so there are two of it.
    async fn all_are_delivered(&self) {
        wait_until("all second attempts arrive", SOON, || {
            self.receiver.attempts().values().map(Vec::len).sum::<usize>() == 2 * (GROUPS + IN_FLIGHT) + 1
        })
        .await;
        for (lead, attempts) in self.receiver.attempts() {
            let expected: &[u32] = if lead == self.victim { &[1, 2, 2] } else { &[1, 2] };
            assert_eq!(attempts, expected, "{lead}");
            let retries = self.retries(&lead).len();
            assert_eq!(retries, attempts.len() - 1, "{lead}");
        }
    }

    async fn end(self, campaign: &str) {
        let amqp = self.installation.amqp();
        self.installation.wait_until_drained(SOON).await;
        assert_eq!(amqp.ready("dead").await + amqp.ready("rejected").await, 0);
        assert!(self.worker.terminate().await);
        let (requests, victim) = (self.receiver.count(), &self.victim);
        report(
            campaign,
            format!(
                "{IN_FLIGHT} in flight, {victim} hit: published again alone, 63 acked, {requests} requests, lost 0"
            ),
        );
        self.installation.delete().await;
    }
}

/// What only bodies about this lead contain.
fn marker(lead: &str) -> String {
    format!(r#""lead_id":"{lead}","data""#)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_retries_in_flight_the_one_that_is_nacked_is_published_again_and_no_other() {
    let scene = Scene::set("nacked").await;
    scene.strike(Strike::Nack).await;
    scene.only_the_victim_is_published_again_and_then_acked().await;
    scene.all_are_delivered().await;
    scene.end("a retry nacked among 64").await;
}

/// Takes as long as a worker waits for a confirm: 10 s.
#[tokio::test(flavor = "multi_thread")]
async fn of_64_retries_in_flight_the_one_without_a_confirm_is_published_again_and_no_other() {
    let scene = Scene::set("unconfirmed").await;
    scene.strike(Strike::Silence).await;
    scene.only_the_victim_is_published_again_and_then_acked().await;
    scene.all_are_delivered().await;
    scene.end("a retry without a confirm among 64").await;
}
