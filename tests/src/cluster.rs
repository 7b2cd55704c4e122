//! Three RabbitMQ nodes of a test's own, in one cluster.

use std::time::Duration;

use serde_json::Value;

use crate::{Node, wait_for};

/// The nodes are there, and every queue has all its members, within this time.
const WHOLE: Duration = Duration::from_mins(2);

/// Three private nodes; stopped and deleted when dropped.
pub struct Cluster {
    nodes: Vec<Node>,
    has_khepri: bool,
}

impl Cluster {
    /// Starts three nodes, the second and third of which join the first, with Khepri where there is that: on
    /// 4.0.5 without it a node that was stopped for 90 s stays apart from the others.
    pub async fn start() -> Self {
        let mut nodes = vec![Node::start().await];
        for _ in 0..2 {
            nodes.push(nodes[0].start_beside().await);
        }
        let flags = nodes[0].ctl(&["-q", "list_feature_flags", "name"]).await;
        let has_khepri = flags.contains("khepri_db");
        if has_khepri {
            let enable = ["-q", "enable_feature_flag", "--opt-in", "khepri_db"];
            nodes[0].ctl(&enable).await;
        }
        Self { nodes, has_khepri }
    }

    /// Whether a node comes back by itself after the others gave it up. Mnesia can leave it apart until it is
    /// restarted.
    pub fn heals(&self) -> bool {
        self.has_khepri
    }

    /// The URLs of all nodes, as `broker.url` takes them.
    pub fn urls(&self) -> String {
        let urls: Vec<_> = self.nodes.iter().map(Node::url).collect();
        urls.join(",")
    }

    /// The node of this index: 0, 1 or 2.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// Another node than this.
    pub fn other(&self, index: usize) -> &Node {
        self.node((index + 1) % self.nodes.len())
    }

    /// The index of the node where this queue's leader is.
    pub async fn leader(&self, queue: &str) -> usize {
        let queues = queues(self.node(0)).await;
        let found = queues.iter().find(|found| found["name"] == queue);
        let leader = &found.unwrap_or_else(|| panic!("no {queue}"))["leader"];
        let at = self.nodes.iter().position(|node| *leader == node.name());
        at.unwrap_or_else(|| panic!("the leader of {queue} is {leader}"))
    }

    /// How many connections of `magnetite` this node has.
    pub async fn clients(&self, index: usize) -> usize {
        let list = ["-q", "list_connections", "pid", "client_properties"];
        let connections = self.other(index).ctl(&list).await;
        // Such as <rabbit@host.1.2.3>.
        let here = |line: &&str| line[1..].starts_with(self.node(index).name()) && line.contains("magnetite");
        connections.lines().filter(here).count()
    }

    /// Waits until, as seen from another node than this one, three nodes run and every queue has three
    /// members, all online.
    pub async fn wait_until_whole(&self, seen_past: usize) {
        let seer = self.other(seen_past);
        wait_for("the cluster is whole", WHOLE, || async {
            let status = seer.ctl(&["-q", "cluster_status", "--formatter", "json"]).await;
            let status: Value =
                serde_json::from_str(&status).map_err(|error| format!("{error}: {status}"))?;
            let running = &status["running_nodes"];
            if running.as_array().is_none_or(|nodes| nodes.len() != 3) {
                return Err(format!("{running} run"));
            }
            let queues = queues(seer).await;
            let lacking = queues.iter().find(|queue| !has_three(queue));
            lacking.map_or(Ok(()), |queue| Err(queue.to_string()))
        })
        .await;
    }
}

/// Name, leader, members and members online of every quorum queue.
async fn queues(seer: &Node) -> Vec<Value> {
    let list = [
        "-q",
        "list_queues",
        "--formatter",
        "json",
        "name",
        "type",
        "leader",
        "members",
        "online",
    ];
    let mut queues: Vec<Value> = serde_json::from_str(&seer.ctl(&list).await).unwrap();
    queues.retain(|queue| queue["type"].as_str().is_some_and(|kind| kind.contains("quorum")));
    queues
}

fn has_three(queue: &Value) -> bool {
    let three = |key: &str| queue[key].as_array().is_some_and(|nodes| nodes.len() == 3);
    three("members") && three("online")
}
