//! Checks of the roles: whether they end again and again, the problems that each running one has observed,
//! whether it consumes its queues, and whether its clock is right.

use std::time::Duration;

use broker::{QueueState, Topology};
use store::{Restarts, RunningRole, Store};
use tokio::time::sleep;

use crate::{broker_link::BrokerLink, command::troubles, configuration::Configuration, output};

use super::{super::checks::Check, Report};

/// How long after its last announcement a role is considered to be running. This is longer than elsewhere,
/// where it is three seconds, because leaving out a running role would be worse than listing one that has
/// just ended.
const LISTED: Duration = Duration::from_secs(10);
/// The maximum time between a role's first announcement and its first consumer.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);
/// The time in which restarts are counted. A process manager restarts a role that has ended within seconds or,
/// if that happens repeatedly, within minutes.
const RESTARTS_WITHIN: Duration = Duration::from_mins(15);
/// The number of restarts from which on a role is reported: more than an operator usually causes.
const RESTARTS_MIN: u64 = 3;

pub(super) async fn run(
    configuration: &Configuration,
    has_broker: bool,
    store: &Store,
    report: &mut Report,
) -> Result<(), output::Closed> {
    let roles = match store.running_roles(LISTED).await {
        Ok(roles) => roles,
        Err(error) => return report.add(&unread(error)),
    };
    report.add(&Check::ok("roles", running(&roles)))?;
    for check in restarting(store).await {
        report.add(&check)?;
    }
    for check in noticed(&roles).into_iter().chain(clocks(&roles)) {
        report.add(&check)?;
    }
    for check in reported(store, &roles).await {
        report.add(&check)?;
    }
    if has_broker {
        for check in idle(configuration, &roles).await {
            report.add(&check)?;
        }
    }
    Ok(())
}

/// Returns the failed check for roles that cannot be read.
fn unread(error: store::Error) -> Check {
    let detail = format!("{:#}", anyhow::Error::from(error));
    Check::fail("roles", detail, "see the error, and the database's log")
}

/// Returns the roles that start and end again and again. Such a role may be running while it is checked.
async fn restarting(store: &Store) -> Vec<Check> {
    let restarts = match store.restarts(RESTARTS_WITHIN, LISTED).await {
        Ok(restarts) => restarts.into_iter(),
        Err(error) => return vec![unread(error)],
    };
    let often = restarts.filter(|restarts| restarts.count >= RESTARTS_MIN);
    often
        .map(|Restarts { role, host, count }| {
            let within = humantime::format_duration(RESTARTS_WITHIN);
            let detail = format!("{role} on {host} started and ended {count} times in the last {within}");
            let fix = "unless it was restarted on purpose, see its log for why it ends";
            Check::warn("restarts", detail, fix)
        })
        .collect()
}

fn running(roles: &[RunningRole]) -> String {
    if roles.is_empty() {
        return "none is running".to_owned();
    }
    let names = roles.iter().map(|role| format!("{} on {}", role.role, role.host));
    format!("running: {}", names.collect::<Vec<_>>().join(", "))
}

/// Returns what roles report about themselves in `/readyz`, if they still do so when they are read a second
/// time. A role that has just started reports something at first.
async fn reported(store: &Store, roles: &[RunningRole]) -> Vec<Check> {
    if roles.iter().all(|role| troubles::reported(role).is_none()) {
        return Vec::new();
    }
    sleep(BEGINS_WITHIN).await;
    let reported_before = |role: &&RunningRole| {
        let same = |before: &&RunningRole| before.process == role.process && before.role == role.role;
        roles.iter().find(same).and_then(troubles::reported).is_some()
    };
    let again = match store.running_roles(LISTED).await {
        Ok(again) => again,
        Err(error) => return vec![unread(error)],
    };
    let reported = again
        .iter()
        .filter(reported_before)
        .filter_map(troubles::reported);
    reported
        .map(|(kind, what)| match kind {
            "not_ready" => Check::fail(kind, what, troubles::REPORTED_FIX),
            _ => Check::warn(kind, what, troubles::REPORTED_FIX),
        })
        .collect()
}

/// Returns the problems that the processes have observed.
fn noticed(roles: &[RunningRole]) -> Vec<Check> {
    let noticed = troubles::noticed_by(roles).into_iter();
    noticed
        .map(|(role, told)| {
            let detail = format!(
                "{} on {}: {}: {}",
                role.role, role.host, told.subject, told.detail
            );
            Check::warn(told.kind.clone(), detail, troubles::advice(&told.kind))
        })
        .collect()
}

fn clocks(roles: &[RunningRole]) -> Vec<Check> {
    let ahead = roles.iter().filter_map(troubles::clock_ahead);
    ahead
        .map(|detail| Check::fail("clocks", detail, troubles::CLOCK_FIX))
        .collect()
}

/// Returns the queues that have no consumer although the role that should consume them is running.
async fn idle(configuration: &Configuration, roles: &[RunningRole]) -> Vec<Check> {
    let topology = configuration.topology();
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
            let detail = format!("{queue} has no consumer, although a {role} is running");
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
