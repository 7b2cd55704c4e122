//! Tests records that a worker dropped before it ended, and batches that disappeared. The audit reports them,
//! whatever happened to the worker.

use e2e::{Audit, Installation, Node, Receiver, Role, SOON, wait_for, wait_until};

use sqlx::{Connection as _, SqliteConnection};

use super::LONG;

const EVENTS: usize = 200;
async fn scene(name: &str) -> (Node, Installation, Receiver) {
    let node = Node::start().await;
    let installation = Installation::with(name, node.url(), &[500, 1000], &[]).await;
    let receiver = Receiver::ok().await;
    installation.endpoint("org_1", &receiver.url()).await;
    (node, installation, receiver)
}

async fn fill_journal(node: &Node) {
    let policy = ["set_policy", "--apply-to", "queues", "small", "journal$"];
    node.ctl(
        &[
            &policy[..],
            &[r#"{"max-length-bytes":1,"overflow":"reject-publish"}"#],
        ]
        .concat(),
    )
    .await;
}

async fn publish(installation: &Installation, receiver: &Receiver, count: usize) {
    let before = receiver.accepted();
    let events: Vec<_> = (0..count)
        .map(|lead| e2e::event("org_1", &format!("lead_{before}_{lead}")))
        .collect();
    installation.amqp().publish(&events).await;
    wait_until("all are delivered", SOON, || {
        receiver.accepted() == before + count
    })
    .await;
}

/// Publishes while the journal's queue accepts nothing, until the worker has acknowledged everything without
/// its records.
async fn drop_records(node: &Node, installation: &Installation, receiver: &Receiver, worker: &Role) {
    fill_journal(node).await;
    // The first records may still be accepted, because the limit applies only from the next message on.
    publish(installation, receiver, 1).await;
    publish(installation, receiver, EVENTS).await;
    worker.wait_for_unacked("", 0, SOON).await;
    assert!(worker.metric("magnetite_journal_dropped_total", "").await > 300.0);
}

/// Waits until the audit reports a gap and nothing that no gap explains, and returns the audit.
async fn with_a_gap(installation: &Installation) -> Audit {
    wait_for("the audit names a gap and balances otherwise", LONG, || async {
        let audit = installation.audit().await;
        if audit.balances && !audit.of_kind("gap").is_empty() {
            Ok(audit)
        } else {
            Err(format!("{audit:#?}"))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_dropped_before_it_was_killed_is_named_as_a_gap() {
    let (node, installation, receiver) = scene("killed").await;
    let worker = installation.worker().await;
    drop_records(&node, &installation, &receiver, &worker).await;
    worker.kill().await;
    node.ctl(&["clear_policy", "small"]).await;
    let recorder = installation.recorder().await;
    let audit = with_a_gap(&installation).await;
    let gaps = audit.of_kind("gap");
    assert_eq!(gaps.len(), 1, "{audit:#?}");
    assert!(gaps[0]["count"].is_null(), "{audit:#?}");
    let said = installation.cli_ok(&["audit"]).await;
    assert!(
        !said.contains("the books balance\n") && said.contains("gap  "),
        "{said}"
    );
    // The next worker is a different run, so its records do not explain anything about the first worker's.
    let worker = installation.worker().await;
    publish(&installation, &receiver, 10).await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    assert_eq!(with_a_gap(&installation).await.of_kind("gap").len(), 1);
    assert!(recorder.terminate().await && worker.terminate().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_dropped_before_it_was_terminated_is_counted_in_a_gap() {
    let (node, installation, receiver) = scene("terminated").await;
    let worker = installation.worker().await;
    drop_records(&node, &installation, &receiver, &worker).await;
    let dropped = worker.metric("magnetite_journal_dropped_total", "").await as u64;
    assert!(worker.terminate().await);
    node.ctl(&["clear_policy", "small"]).await;
    let recorder = installation.recorder().await;
    let audit = with_a_gap(&installation).await;
    let gaps = audit.of_kind("gap");
    assert_eq!(gaps.len(), 1, "{audit:#?}");
    assert_eq!(gaps[0]["count"], dropped, "{audit:#?}");
    assert!(recorder.terminate().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_drops_records_is_named_while_it_does() {
    let (node, installation, receiver) = scene("dropping").await;
    let worker = installation.worker().await;
    drop_records(&node, &installation, &receiver, &worker).await;
    let audit = installation.audit().await;
    assert_eq!(audit.of_kind("gap")[0]["cause"], "dropping", "{audit:#?}");
    let recorder = installation.recorder().await;
    node.ctl(&["clear_policy", "small"]).await;
    wait_for("the worker's own gap takes its place", LONG, || async {
        let audit = with_a_gap(&installation).await;
        let dropped = worker.metric("magnetite_journal_dropped_total", "").await as u64;
        let gaps = audit.of_kind("gap");
        match gaps.iter().map(|gap| gap["count"].as_u64()).sum::<Option<u64>>() {
            Some(count) if count == dropped => Ok(()),
            other => Err(format!("{other:?} of {dropped}: {audit:#?}")),
        }
    })
    .await;
    assert!(recorder.terminate().await && worker.terminate().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_killed_and_dropped_nothing_has_no_gap() {
    let (_node, installation, receiver) = scene("harmless").await;
    let recorder = installation.recorder().await;
    for _ in 0..3 {
        let worker = installation.worker().await;
        let before = receiver.accepted();
        let events: Vec<_> = (0..EVENTS)
            .map(|lead| e2e::event("org_1", &format!("lead_{before}_{lead}")))
            .collect();
        installation.amqp().publish(&events).await;
        wait_until("some are delivered", SOON, || {
            receiver.accepted() > before + EVENTS / 4
        })
        .await;
        worker.kill().await;
    }
    let worker = installation.worker().await;
    installation.amqp().wait_for_ready("events", 0, SOON).await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    let audit = installation.audit().await;
    audit.assert_settled();
    assert!(audit.of_kind("gap").is_empty(), "{audit:#?}");
    assert_eq!(audit.number("/events"), 3 * EVENTS as u64);
    assert!(recorder.terminate().await && worker.terminate().await);
}

/// Makes everything look more than a minute older, as if what is missing had been missing for that long.
async fn a_minute_passes(installation: &Installation) {
    let path = installation.directory().join("magnetite.db");
    let url = format!("sqlite://{}", path.display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    for earlier in [
        "UPDATE batches SET recorded_ms = recorded_ms - 61000",
        "UPDATE roles SET made_ms = made_ms - 61000",
    ] {
        sqlx::query(earlier).execute(&mut database).await.unwrap();
    }
}

/// Waits until the audit reports neither that the books balance nor that records are lost.
async fn neither_right_nor_wrong(installation: &Installation) {
    wait_for("the audit does not know yet", SOON, || async {
        let audit = installation.audit().await;
        match (audit.code, audit.findings().as_slice()) {
            (Some(3), ["lost_batches"]) => Ok(()),
            _ => Err(format!("{audit:#?}")),
        }
    })
    .await;
}

/// The batches are confirmed but never recorded, first in the middle of the worker's run, and then at its
/// end.
#[tokio::test(flavor = "multi_thread")]
async fn batches_that_vanish_from_the_journals_queue_are_missed() {
    let (node, installation, receiver) = scene("vanished").await;
    let worker = installation.worker().await;
    publish(&installation, &receiver, 20).await;
    worker.wait_for_unacked("", 0, SOON).await;
    let journal = format!("{}.journal", installation.prefix());
    node.ctl(&["purge_queue", &journal]).await;
    publish(&installation, &receiver, 1).await;
    let recorder = installation.recorder().await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    let missed = |count: usize| {
        let installation = &installation;
        move || async move {
            let audit = installation.audit().await;
            let is_found = audit.findings().contains(&"lost_batches");
            if is_found && audit.of_kind("gap").len() == count {
                Ok(())
            } else {
                Err(format!("{audit:#?}"))
            }
        }
    };
    neither_right_nor_wrong(&installation).await;
    a_minute_passes(&installation).await;
    wait_for("the audit misses them", SOON, missed(1)).await;

    assert!(recorder.terminate().await);
    publish(&installation, &receiver, 20).await;
    worker.wait_for_unacked("", 0, SOON).await;
    wait_for("the purge finds them", SOON, || async {
        let ready = installation.amqp().ready("journal").await;
        if ready > 0 {
            Ok(())
        } else {
            Err("nothing is ready".to_owned())
        }
    })
    .await;
    assert!(worker.terminate().await);
    node.ctl(&["purge_queue", &journal]).await;
    let recorder = installation.recorder().await;
    a_minute_passes(&installation).await;
    wait_for("the audit misses the last ones, too", SOON, missed(2)).await;
    assert!(recorder.terminate().await);
}
