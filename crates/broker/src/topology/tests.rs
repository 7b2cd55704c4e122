use super::*;

fn topology() -> Topology {
    Topology::new("magnetite", &[Duration::from_secs(1), Duration::from_secs(30)])
}

#[test]
fn every_queue_that_dead_letters_does_so_at_least_once_to_something_declared_before_it() {
    let topology = topology();
    let mut declared = Vec::new();
    for queue in topology.queues() {
        if let Some(Argument::Text(exchange)) = queue.argument("x-dead-letter-exchange") {
            let text = |key| queue.argument(key).unwrap().to_string();
            assert_eq!(text("x-dead-letter-strategy"), "\"at-least-once\"");
            assert_eq!(text("x-overflow"), "\"reject-publish\"");
            let key = text("x-dead-letter-routing-key").replace('"', "");
            let bindings = topology.bindings();
            let bound = bindings
                .iter()
                .find(|b| b.exchange == *exchange && b.routing_key == key);
            let target = if exchange.is_empty() {
                key
            } else {
                bound.unwrap().queue.clone()
            };
            assert!(
                declared.contains(&target),
                "{target} is declared after {}",
                queue.name
            );
        }
        declared.push(queue.name);
    }
}

#[test]
fn a_tier_is_in_the_name_of_its_queue() {
    let names: Vec<_> = topology().queues().into_iter().map(|queue| queue.name).collect();
    assert_eq!(
        names,
        [
            "magnetite.rejected",
            "magnetite.dead",
            "magnetite.journal",
            "magnetite.due",
            "magnetite.events",
            "magnetite.delay.1000",
            "magnetite.delay.30000"
        ]
    );
}
