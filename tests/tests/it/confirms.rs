//! Tests a worker whose retry is nacked, confirmed late or never confirmed, while 63 others are in flight
//! with it.

use e2e::{
    Answer, Confirms, Installation, Receiver, Role, SOON, Strike, chance, event, report, wait_for, wait_until,
};

const IN_FLIGHT: usize = 64;
/// The number of groups that a worker commits concurrently. While all of them wait for confirms, the retries
/// that follow are collected into one group.
const GROUPS: usize = 4;

/// A worker and an endpoint that fails every first attempt, so that each event results in a retry.
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

    /// Puts 64 retries in flight on one channel. The first strike applies to the victim's retry, and the
    /// other strikes apply to later publishes of it.
    async fn strike(&self, strikes: &[Strike]) {
        let amqp = self.installation.amqp();
        self.confirms.hold_until(usize::MAX);
        for group in 0..GROUPS {
            amqp.publish(&[event("org_1", &format!("before_{group}"))]).await;
            wait_until("a group waits", SOON, || {
                self.retries(&format!("before_{group}")).len() == 1
            })
            .await;
        }
        for strike in strikes {
            self.confirms.strike(marker(&self.victim), *strike);
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

    /// Panics unless only the struck retry is published again, and only its message stays unacked until the
    /// second publish is confirmed.
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

    /// Waits until the worker reports late confirms. The messages without a confirm stay unacked for longer
    /// than the worker's timeout of 10 s, and nothing is published again.
    async fn is_known_to_be_late(&self) {
        wait_for("the worker says that confirms are late", SOON, || async {
            let waiting = self.worker.metric("magnetite_unconfirmed_messages", "").await as usize;
            if waiting > 0 && waiting == self.confirms.unacked() {
                Ok(())
            } else {
                Err(format!("{waiting} wait, {} are unacked", self.confirms.unacked()))
            }
        })
        .await;
        assert_eq!(self.retries(&self.victim).len(), 1, "it may still be confirmed");
    }

    /// Waits until every lead is delivered with the second attempt. If `twice`, the broker has also stored
    /// the victim's first retry.
    async fn all_are_delivered(&self, events: usize, twice: bool) {
        wait_until("all second attempts arrive", SOON, || {
            self.receiver.attempts().values().map(Vec::len).sum::<usize>() == 2 * events + usize::from(twice)
        })
        .await;
        for (lead, attempts) in self.receiver.attempts() {
            let expected: &[u32] = if twice && lead == self.victim {
                &[1, 2, 2]
            } else {
                &[1, 2]
            };
            assert_eq!(attempts, expected, "{lead}");
            let retries = self.retries(&lead).len();
            assert_eq!(retries, attempts.len() - 1, "{lead}");
        }
    }

    async fn end(self, campaign: &str, what: &str) {
        let amqp = self.installation.amqp();
        self.installation.wait_until_drained(SOON).await;
        assert_eq!(amqp.ready("dead").await + amqp.ready("rejected").await, 0);
        assert!(self.worker.terminate().await);
        let (requests, victim) = (self.receiver.count(), &self.victim);
        report(
            campaign,
            format!("{IN_FLIGHT} in flight, {victim} hit: {what}, {requests} requests, lost 0"),
        );
        self.installation.delete().await;
    }
}

/// Returns a text that only bodies about this lead contain.
fn marker(lead: &str) -> String {
    format!(r#""lead_id":"{lead}","data""#)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_retries_in_flight_the_one_that_is_nacked_is_published_again_and_no_other() {
    let scene = Scene::set("nacked").await;
    // The second publish is not confirmed until the test has checked that its message is unacked.
    scene.strike(&[Strike::Nack, Strike::Late]).await;
    scene.only_the_victim_is_published_again_and_then_acked().await;
    scene.all_are_delivered(GROUPS + IN_FLIGHT, true).await;
    let what = "published again alone, 63 acknowledged";
    scene.end("a retry nacked among 64", what).await;
}

/// Takes as long as a worker waits for a confirm, which is 10 s. Publishing the retry again would start a
/// second chain of retries.
#[tokio::test(flavor = "multi_thread")]
async fn of_64_retries_in_flight_one_that_is_confirmed_late_is_published_once_and_holds_up_no_new_one() {
    let scene = Scene::set("late").await;
    scene.strike(&[Strike::Late]).await;
    scene.is_known_to_be_late().await;
    let events: Vec<_> = (0..IN_FLIGHT)
        .map(|lead| event("org_1", &format!("more_{lead}")))
        .collect();
    scene.installation.amqp().publish(&events).await;
    wait_until("others are delivered meanwhile", SOON, || {
        let attempts = scene.receiver.attempts();
        let is_delivered = |lead: usize| {
            attempts
                .get(&format!("more_{lead}"))
                .is_some_and(|attempts| attempts.len() == 2)
        };
        (0..IN_FLIGHT).all(is_delivered)
    })
    .await;
    scene.is_known_to_be_late().await;
    scene.confirms.release();
    wait_until("all are acknowledged", SOON, || scene.confirms.unacked() == 0).await;
    scene.all_are_delivered(GROUPS + 2 * IN_FLIGHT, false).await;
    scene
        .end("a retry confirmed late among 64", "each published once")
        .await;
}

/// The end of the connection tells the worker that the missing confirm will not arrive.
#[tokio::test(flavor = "multi_thread")]
async fn of_64_retries_in_flight_the_one_without_a_confirm_is_published_again_once_its_connection_has_ended()
{
    let scene = Scene::set("unconfirmed").await;
    scene.strike(&[Strike::Silence]).await;
    scene.is_known_to_be_late().await;
    wait_until("its neighbours are acknowledged", SOON, || {
        scene.confirms.unacked() == 1
    })
    .await;
    scene.confirms.release();
    scene.confirms.cut();
    scene.all_are_delivered(GROUPS + IN_FLIGHT, true).await;
    let what = "published again when its connection had ended";
    scene.end("a retry without a confirm among 64", what).await;
}
