//! A private RabbitMQ cluster of three nodes.

use std::time::Duration;

use serde_json::Value;

use crate::{Node, wait_for};

/// The time limit within which all nodes must run and every queue must have all its members.
const WHOLE: Duration = Duration::from_mins(2);

/// Three private nodes in one cluster. They are stopped and deleted when the value is dropped.
pub struct Cluster {
    nodes: Vec<Node>,
    has_khepri: bool,
}

impl Cluster {
    /// Starts three nodes; the second and the third join the first. Enables Khepri where the broker has it:
    /// with Mnesia on RabbitMQ 4.0.5, a node that was stopped for 90 s does not rejoin the others.
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

    /// Returns whether a node rejoins the cluster by itself after the other nodes have given it up. With
    /// Mnesia it may stay apart until it is restarted.
    pub fn heals(&self) -> bool {
        self.has_khepri
    }

    /// Returns the URLs of all nodes, separated by commas, as `broker.url` takes them.
    pub fn urls(&self) -> String {
        let urls: Vec<_> = self.nodes.iter().map(Node::url).collect();
        urls.join(",")
    }

    /// Returns the node with this index: 0, 1 or 2.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// Returns a node other than the one with this index.
    pub fn other(&self, index: usize) -> &Node {
        self.node((index + 1) % self.nodes.len())
    }

    /// Returns the index of the node that hosts the leader of this queue.
    pub async fn leader(&self, queue: &str) -> usize {
        let queues = queues(self.node(0)).await;
        let found = queues.iter().find(|found| found["name"] == queue);
        let leader = &found.unwrap_or_else(|| panic!("no {queue}"))["leader"];
        let at = self.nodes.iter().position(|node| *leader == node.name());
        at.unwrap_or_else(|| panic!("the leader of {queue} is {leader}"))
    }

    /// Returns the number of connections from `magnetite` to this node.
    pub async fn clients(&self, index: usize) -> usize {
        let list = ["-q", "list_connections", "pid", "client_properties"];
        let connections = self.other(index).ctl(&list).await;
        // The pid of a connection contains its node's name, for example `<rabbit@host.1.2.3>`.
        let here = |line: &&str| line[1..].starts_with(self.node(index).name()) && line.contains("magnetite");
        connections.lines().filter(here).count()
    }

    /// Waits until three nodes are running and every quorum queue has three members, all of them online. Asks
    /// a node other than the one with the index `seen_past`.
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

/// Returns the name, type, leader, members and online members of every quorum queue.
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
