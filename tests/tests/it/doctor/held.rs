//! Tests the queues of held deliveries while workers start and stop.

use e2e::{Answer, Installation, Node, Receiver, Role, SOON, event, wait_until};

const CRASHES: usize = 6;

/// Returns the numbers of the queues of held deliveries, including those of workers that have ended.
async fn held(node: &Node) -> Vec<String> {
    let listed = node.ctl(&["-q", "list_queues", "name"]).await;
    let mut names: Vec<_> = listed
        .lines()
        .filter_map(|name| Some(name.split_once(".held.")?.1.to_owned()))
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_leaves_no_more_queues_than_there_were_workers_at_once() {
    let node = Node::start().await;
    let installation = Installation::with("held", node.url(), &[1000], &[]).await;
    for _ in 0..CRASHES {
        let worker = installation.worker().await;
        worker.kill().await;
    }
    assert_eq!(held(&node).await, ["1"]);
    let mut workers: Vec<Role> = Vec::new();
    for _ in 0..3 {
        workers.push(installation.worker().await);
    }
    assert_eq!(held(&node).await, ["1", "2", "3"]);
    for _ in 0..CRASHES {
        workers.remove(0).kill().await;
        workers.push(installation.worker().await);
    }
    assert_eq!(held(&node).await, ["1", "2", "3"]);
    for worker in workers {
        assert!(worker.terminate().await);
    }
    installation.delete().await;
}

/// The attempt hangs and its delivery is held when its worker dies. Another worker soon makes the attempt
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_that_died_has_held_is_attempted_by_another() {
    let node = Node::start().await;
    let installation = Installation::with("heir", node.url(), &[1000], &[]).await;
    let receiver = Receiver::new(|_, before| {
        if before == 0 {
            Answer::Hang
        } else {
            Answer::status(200)
        }
    })
    .await;
    installation.endpoint("org_1", &receiver.url()).await;
    let first = installation.worker().await;
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    first.wait_for_unacked("held", 1, SOON).await;
    first.kill().await;
    // The held message becomes due by itself; the second worker does not take over the queue.
    let second = installation.worker().await;
    assert_eq!(held(&node).await, ["1", "2"]);
    wait_until("it is attempted again", SOON, || receiver.accepted() == 1).await;
    second.wait_for_unacked("", 0, SOON).await;
    // The queue is empty again, so the next worker takes it.
    installation.amqp().wait_for_ready("held.1", 0, SOON).await;
    let third = installation.worker().await;
    assert_eq!(held(&node).await, ["1", "2"]);
    assert!(second.terminate().await && third.terminate().await);
    installation.delete().await;
}
