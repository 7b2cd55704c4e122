//! The roles that run: what each has noticed, whether it consumes its queues, and whether its clock is right.

use std::{collections::BTreeSet, time::Duration};

use broker::{QueueState, Topology};
use store::{RunningRole, Store};
use tokio::time::sleep;

use crate::{
    broker_link::BrokerLink,
    command::{topology, troubles},
    configuration::Configuration,
    output,
};

use super::{super::checked::Check, Report};

/// A role announces itself before it consumes.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);
/// Clocks of hosts that keep their time agree within milliseconds; one that is announced is a second old.
const CLOCK_AHEAD_MAX_MS: i64 = 60_000;

pub(super) async fn run(
    configuration: &Configuration,
    store: &Store,
    report: &mut Report,
) -> Result<(), output::Closed> {
    let roles = match store.running_roles().await {
        Ok(roles) => roles,
        Err(error) => {
            let detail = format!("{:#}", anyhow::Error::from(error));
            let fix = "see what the database says, and its log";
            return report.add(&Check::fail("roles", detail, fix));
        }
    };
    report.add(&Check::ok("roles", running(&roles)))?;
    for check in noticed(&roles).into_iter().chain(clocks(&roles)) {
        report.add(&check)?;
    }
    for check in idle(configuration, &roles).await {
        report.add(&check)?;
    }
    Ok(())
}

fn running(roles: &[RunningRole]) -> String {
    if roles.is_empty() {
        return "none runs".to_owned();
    }
    let names = roles.iter().map(|role| format!("{} on {}", role.role, role.host));
    format!("running: {}", names.collect::<Vec<_>>().join(", "))
}

/// What the processes have told.
fn noticed(roles: &[RunningRole]) -> Vec<Check> {
    let mut processes = BTreeSet::new();
    let each = roles
        .iter()
        .filter(|role| processes.insert(role.process.as_str()));
    each.flat_map(|role| {
        troubles::read(role.troubles.as_deref())
            .into_iter()
            .map(move |told| (role, told))
    })
    .map(|(role, told)| {
        let detail = format!(
            "{} on {}: {}: {}",
            role.role, role.host, told.subject, told.detail
        );
        Check::warn(told.kind.clone(), detail, advice(&told.kind))
    })
    .collect()
}

fn advice(kind: &str) -> &'static str {
    match kind {
        "poison" => {
            "see in the roles' logs why they end, or lose their connections; the queue sets the message aside after 100 returns, and \
             `magnetite rejected list` has it then"
        }
        "unreadable" => "`magnetite rejected list` has the message; correct what publishes it",
        "reconnecting" => "see the role's log; check the network, and the permissions of the broker's user",
        "journal_lag" => "start another recorder, or see why the database is slow",
        _ => "see the role's log",
    }
}

/// Only with SQLite, where a role announces itself by its host's own clock: PostgreSQL's is one for all.
fn clocks(roles: &[RunningRole]) -> Vec<Check> {
    let ahead = roles.iter().filter(|role| role.unseen_ms < -CLOCK_AHEAD_MAX_MS);
    ahead
        .map(|role| {
            let ahead = Duration::from_secs(role.unseen_ms.unsigned_abs() / 1000);
            let detail = format!(
                "the clock of the {} on {} is {} ahead of this one",
                role.role,
                role.host,
                humantime::format_duration(ahead)
            );
            Check::fail(
                "clocks",
                detail,
                "set the clock that is wrong, and restart the role",
            )
        })
        .collect()
}

/// Queues that a role which runs does not consume. A broker that is away was named before.
async fn idle(configuration: &Configuration, roles: &[RunningRole]) -> Vec<Check> {
    let topology = topology::of(configuration);
    let Ok(broker) = BrokerLink::open(&configuration.broker.config()).await else {
        return Vec::new();
    };
    let mut unconsumed = unconsumed(&topology, &broker, roles).await;
    if !unconsumed.is_empty() {
        sleep(BEGINS_WITHIN).await;
        unconsumed = self::unconsumed(&topology, &broker, roles).await;
    }
    broker.close().await;
    unconsumed
        .into_iter()
        .map(|(role, queue)| {
            let detail = format!("{queue} has no consumer, while a {role} runs");
            Check::fail(
                "consumers",
                detail,
                "see the log and /readyz of that role, and restart it",
            )
        })
        .collect()
}

async fn unconsumed(
    topology: &Topology,
    broker: &BrokerLink,
    roles: &[RunningRole],
) -> Vec<(&'static str, String)> {
    let consumed = [
        ("worker", topology.events()),
        ("worker", topology.due()),
        ("recorder", topology.journal()),
        ("recorder", topology.dead()),
        ("recorder", topology.rejected()),
    ];
    let states: Vec<QueueState> = topology
        .check(&broker.link)
        .await
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    let has_none = |name: &str| {
        states
            .iter()
            .any(|state| state.name == name && state.consumers == 0)
    };
    let runs = |role: &str| roles.iter().any(|running| running.role == role);
    let mut unconsumed = consumed.to_vec();
    unconsumed.retain(|(role, queue)| runs(role) && has_none(queue));
    unconsumed
}
