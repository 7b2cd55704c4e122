//! Checks of the broker: reachable, a supported version, login accepted, topology declared, policies and
//! bindings right, queues consumed.

use broker::{InspectError, Inspection, Publisher, QueueState, Server, Topology};

use crate::{
    broker_link::{self, BrokerLink},
    command::topology,
    configuration::Configuration,
    output,
};

use super::{super::checks::Check, Report};

/// The oldest RabbitMQ version with at-least-once dead-lettering.
const OLDEST: (u32, u32) = (3, 10);

/// Checks the broker. Returns whether it accepted the login.
pub(super) async fn run(configuration: &Configuration, report: &mut Report) -> Result<bool, output::Closed> {
    let config = configuration.broker.config();
    let servers = Server::of_each(&config).await;
    let answers = servers.iter().any(|(_, server)| server.is_ok());
    for (address, server) in servers {
        report.add(&match server {
            Ok(server) => version_check(&server, &address),
            Err(error) => absence_check(error, answers),
        })?;
    }
    if !answers {
        return Ok(false);
    }
    let broker = match BrokerLink::log_in(&config).await {
        Ok(broker) => broker,
        Err(refused) => {
            report.add(&Check::fail("login", refused.to_string(), refused.fix()))?;
            return Ok(false);
        }
    };
    report.add(&Check::ok("login", broker.link.address()))?;
    let topology = configuration.topology();
    topology_checks(&topology, &broker, report).await?;
    match topology::inspect(&config, &topology).await {
        Ok(inspection) => inspection_checks(&inspection, report)?,
        Err(error) => {
            let detail = format!("not checked: {}", runtime::display_chain(&error));
            report.add(&Check::warn("policies, bindings", detail, error.advice()))?;
        }
    }
    report.add(&dead_lettering_check(configuration, &config, &broker).await)?;
    broker.close().await;
    Ok(true)
}

/// Reports a node that does not answer. This is only a warning while other nodes of its cluster answer,
/// because work continues.
fn absence_check(error: InspectError, others_answer: bool) -> Check {
    let is_amqp = !matches!(error, InspectError::NotAmqp { .. });
    let detail = format!("{:#}", anyhow::Error::from(error));
    let fix = match broker_link::fix(&detail) {
        Some(fix) => fix,
        None if others_answer => {
            "start this node, or remove it from broker.url; until then, only the other nodes are used"
        }
        None if is_amqp => {
            "start the broker, or correct broker.url (MAGNETITE_BROKER__URL); to get one here: apt-get install rabbitmq-server, or \
             docker run --detach --publish 5672:5672 --publish 15672:15672 rabbitmq:4-management"
        }
        None => {
            "correct the port in broker.url (MAGNETITE_BROKER__URL): RabbitMQ usually has 5672 for amqp:// and 5671 for amqps://"
        }
    };
    if others_answer {
        Check::warn("broker", detail, fix)
    } else {
        Check::fail("broker", detail, fix)
    }
}

fn version_check(server: &Server, address: &str) -> Check {
    let Server { product, version } = server;
    let detail = format!("{address}: {product} {version}");
    let mut numbers = version
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or_default());
    let version = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    if product != "RabbitMQ" {
        return Check::warn("broker", detail, "use RabbitMQ: no other broker was tested");
    }
    if version < OLDEST {
        return Check::fail(
            "broker",
            detail,
            "upgrade to RabbitMQ 3.10 or later: older versions can lose retries",
        );
    }
    Check::ok("broker", detail)
}

async fn topology_checks(
    topology: &Topology,
    broker: &BrokerLink,
    report: &mut Report,
) -> Result<(), output::Closed> {
    let found = match topology.check(&broker.link).await {
        Ok(found) => found,
        Err(error) => {
            let detail = format!("{:#}", anyhow::Error::from(error));
            return report.add(&Check::fail(
                "topology",
                detail,
                "grant the user configure, write and read",
            ));
        }
    };
    let (states, problems): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
    for problem in problems.into_iter().filter_map(Result::err) {
        let detail = format!("{}: {}", problem.name, topology::words(&problem));
        report.add(&Check::fail("topology", detail, topology::fix(&problem)))?;
    }
    let states: Vec<QueueState> = states.into_iter().flatten().collect();
    if states.len() == topology.queues().len() {
        report.add(&Check::ok(
            "topology",
            format!("{} queues, all as declared", states.len()),
        ))?;
    }
    for state in &states {
        report.add(&queue_check(topology, state))?;
    }
    Ok(())
}

fn inspection_checks(inspection: &Inspection, report: &mut Report) -> Result<(), output::Closed> {
    for harm in &inspection.harms {
        let detail = format!("{}: {harm}", harm.queue);
        report.add(&Check::fail("policies", detail, harm.fix()))?;
    }
    if inspection.harms.is_empty() {
        let detail = format!("no policy harms the {} queues", inspection.queues);
        report.add(&Check::ok("policies", detail))?;
    }
    for binding in &inspection.unbound {
        report.add(&Check::fail(
            "bindings",
            format!("missing: {binding}"),
            topology::BIND,
        ))?;
    }
    if inspection.unbound.is_empty() {
        report.add(&Check::ok("bindings", "none is missing"))?;
    }
    Ok(())
}

fn queue_check(topology: &Topology, state: &QueueState) -> Check {
    let QueueState {
        name,
        ready,
        consumers,
    } = state;
    let detail = format!("{name}: {ready} ready, {consumers} consumers");
    let is = |other: String| *name == other;
    if is(topology.dead()) && *ready > 0 && *consumers == 0 {
        let fix = "start `magnetite recorder` or `magnetite up`; then `magnetite delivery list --state dead` shows why the deliveries failed";
        Check::warn("queue", detail, fix)
    } else if is(topology.rejected()) && *ready > 0 && *consumers == 0 {
        let fix = "start `magnetite recorder` or `magnetite up`; then `magnetite rejected list` shows what is wrong with the messages";
        Check::warn("queue", detail, fix)
    } else if (is(topology.events()) || is(topology.due())) && *consumers == 0 {
        Check::warn(
            "queue",
            detail,
            "nothing is delivered without a worker: start `magnetite worker` or `magnetite up`",
        )
    } else if is(topology.journal()) && *ready > 0 && *consumers == 0 {
        let fix = "nothing is recorded without a recorder: start `magnetite recorder` or `magnetite up`";
        Check::warn("queue", detail, fix)
    } else {
        Check::ok("queue", detail)
    }
}

async fn dead_lettering_check(
    configuration: &Configuration,
    config: &broker::Config,
    broker: &BrokerLink,
) -> Check {
    const WHAT: &str = "dead-lettering";
    let publisher = Publisher::new(broker.link.clone(), config);
    let topology = configuration.topology();
    match topology
        .dead_letters_at_least_once(&broker.link, &publisher)
        .await
    {
        Ok(true) => Check::ok(
            WHAT,
            "at least once: retries are kept while a queue is unavailable",
        ),
        Ok(false) => Check::fail(
            WHAT,
            "at most once: retries can be lost",
            "rabbitmqctl enable_feature_flag all, and remove policies that set overflow or dead-letter-strategy",
        ),
        Err(error) => {
            let detail = format!("cannot be tested: {:#}", anyhow::Error::from(error));
            Check::fail(
                WHAT,
                detail,
                "grant the user configure, write and read, and clear alarms",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_foreign_brokers_are_told() {
        let check = |product: &str, version: &str| {
            let server = Server {
                product: product.to_owned(),
                version: version.to_owned(),
            };
            version_check(&server, "localhost:5672/").to_string()
        };
        assert!(check("RabbitMQ", "3.10.8").starts_with("ok "));
        assert!(check("RabbitMQ", "4.0.5").starts_with("ok "));
        assert!(check("RabbitMQ", "3.9.29").starts_with("fail"));
        assert!(check("LavinMQ", "2.0.0").starts_with("warn"));
    }

    #[test]
    fn what_waits_for_someone_is_a_warning() {
        let topology = Topology::new("p", &[std::time::Duration::from_secs(1)]);
        let check = |name: &str, ready, consumers| {
            queue_check(
                &topology,
                &QueueState {
                    name: name.to_owned(),
                    ready,
                    consumers,
                },
            )
            .to_string()
        };
        for (name, ready, consumers, begins) in [
            ("p.dead", 0, 0, "ok"),
            ("p.dead", 1, 0, "warn"),
            ("p.rejected", 1, 0, "warn"),
            ("p.events", 5, 1, "ok"),
            ("p.events", 0, 0, "warn"),
            ("p.due", 0, 0, "warn"),
            ("p.delay.1000", 7, 0, "ok"),
        ] {
            let line = check(name, ready, consumers);
            assert!(line.starts_with(begins), "{line}");
        }
    }
}
