//! Settings that are refused, each with its message, and variables that belong to other programs.

use std::path::Path;

use super::{super::Configuration, read};

/// Invalid settings in the file, each with the key and the text that the message must contain.
const BAD_IN_FILE: &[(&str, &str, &str)] = &[
    (
        "broker.url = \"http://u:hunter2@h/\"",
        "broker.url",
        "expected amqp://",
    ),
    ("broker.url = 5672", "broker.url", "expected amqp://"),
    (
        "broker.url = \"amqp://h/v, hunter2\"",
        "broker.url",
        "several URLs are separated by commas",
    ),
    (
        "broker.url = \"amqp://u:p/hunter2@h/v\"",
        "broker.url",
        "percent-encode",
    ),
    (
        "broker.url = \"amqp://h/v?heartbeat=hunter2\"",
        "broker.url",
        "expected a number of seconds as heartbeat",
    ),
    (
        "broker.url = \"amqps://h/v\"\nbroker.tls.certificate = \"/etc/hostname\"",
        "broker.tls.certificate",
        "broker.tls.key is not set",
    ),
    (
        "broker.url = \"amqps://h/v\"\nbroker.tls.root_certificates = [\"/none.pem\"]",
        "broker.tls.root_certificates",
        "/none.pem cannot be read: No such file",
    ),
    (
        "broker.url = \"amqps://h/v\"\nbroker.tls.root_certificates = [\"/etc/hostname\"]",
        "broker.tls.root_certificates",
        "number 1: it contains no certificate",
    ),
    (
        "broker.url = \"amqps://h/v\"\nbroker.tls.certificate = \"/dev/null\"",
        "broker.tls.certificate",
        "/dev/null is empty",
    ),
    (
        "broker.url = \"amqps://h/v\"\nbroker.tls = { certificate = \"/etc/hostname\", key = \"/etc/hostname\" }",
        "broker.tls.certificate",
        "it contains no certificate",
    ),
    (
        "broker.url = \"amqps://h/v\"\nbroker.tls.key = \"-----BEGIN PRIVATE KEY-----hunter2\"",
        "broker.tls.key",
        "the path of a PEM file",
    ),
    (
        "broker.url = \"amqps://h/v\"\nbroker.tls.server_name = \"a b\"",
        "broker.tls.server_name",
        "a host name or an IP address",
    ),
    (
        "broker.url = \"amqp://h/v\"\nbroker.management_url = \"https://h\"\nbroker.tls.server_name = \"mq\"",
        "broker.tls.server_name",
        "unless broker.url has amqps://",
    ),
    ("broker.prefix = \"\"", "broker.prefix", "1 to 64 characters"),
    ("broker.prefix = \"a b\"", "broker.prefix", "1 to 64 characters"),
    (
        "database.url = \"sqlite://magnetite.db\"",
        "database.url",
        "expected sqlite:///",
    ),
    (
        "database.url = \"mysql://u:hunter2@h/d\"",
        "database.url",
        "postgres://",
    ),
    ("retry.initial = \"fast\"", "retry.initial", "a duration such as"),
    ("retry.initial = 1", "retry.initial", "a duration such as"),
    (
        "retry.initial = \"40s\"",
        "retry.initial",
        "longer than the maximum",
    ),
    ("retry.initial = \"0s\"", "retry.initial", "1 ms to 24 h"),
    ("retry.factor = 0.5", "retry.factor", "1.0 to 100.0"),
    ("retry.factor = \"two\"", "retry.factor", "a number"),
    ("retry.max = \"48h\"", "retry.max", "1 ms to 24 h"),
    ("retry.attempts = 1", "retry.attempts", "from 2 to 100"),
    ("retry.delays = []", "retry.delays", "2 to 100 attempts"),
    ("retry.delays = [\"1s\", 2]", "retry.delays", "durations such as"),
    (
        "retry = { delays = [\"1s\"], factor = 2.0 }",
        "retry.delays",
        "retry.factor is set as well",
    ),
    (
        "worker.in_flight_max = 0",
        "worker.in_flight_max",
        "from 1 to 65536",
    ),
    ("worker.in_flight_max = 1.5", "worker.in_flight_max", "an integer"),
    (
        "worker.in_flight_max = true",
        "worker.in_flight_max",
        "an integer",
    ),
    (
        "worker.prefetch_events = 65536",
        "worker.prefetch_events",
        "from 1 to 65535",
    ),
    (
        "worker.prefetch_due = -1",
        "worker.prefetch_due",
        "from 1 to 65535",
    ),
    ("fanout.inline_max = 1025", "fanout.inline_max", "from 0 to 1024"),
    ("defer.age_max = \"25h\"", "defer.age_max", "from 1s to 24h"),
    (
        "defer.fault_age_max = \"31d\"",
        "defer.fault_age_max",
        "from 1s to 30d",
    ),
    ("shutdown.deadline = \"2h\"", "shutdown.deadline", "from 0s to 1h"),
    (
        "registry.refresh = \"1ms\"",
        "registry.refresh",
        "from 10ms to 1m",
    ),
    (
        "egress.allow = [\"10.0.0.300/8\"]",
        "egress.allow",
        "\"10.0.0.300/8\" is not one",
    ),
    (
        "egress.allow = [\"10.0.0.1\"]",
        "egress.allow",
        "networks such as",
    ),
    (
        "egress.attempt_timeout = \"31s\"",
        "egress.attempt_timeout",
        "from 100ms to 30s",
    ),
    (
        "egress.idle_per_host_max = \"x\"",
        "egress.idle_per_host_max",
        "from 0 to 1024",
    ),
    (
        "egress.idle_timeout = \"0s\"",
        "egress.idle_timeout",
        "from 1s to 10m",
    ),
    (
        "egress.name_servers = [\"dns.local\"]",
        "egress.name_servers",
        "IP addresses",
    ),
    (
        "egress.root_certificates = 1",
        "egress.root_certificates",
        "paths of PEM files",
    ),
    (
        "health.listen = \"localhost:8085\"",
        "health.listen",
        "an IP address and a port",
    ),
    (
        "health.listen = \"8085\"",
        "health.listen",
        "an IP address and a port",
    ),
    ("api.listen = \"8420\"", "api.listen", "an IP address and a port"),
    (
        "api.body_bytes_max = 1023",
        "api.body_bytes_max",
        "from 1024 to 67108864",
    ),
    ("api.rate_per_key = 0", "api.rate_per_key", "from 1 to 1000000"),
    (
        "endpoints.per_organization_max = 100001",
        "endpoints.per_organization_max",
        "from 1 to 100000",
    ),
    ("log.format = \"xml\"", "log.format", "text or json"),
    ("log.filter = \"worker=loud\"", "log.filter", "directives"),
    (
        "worker.inflight_max = 5",
        "worker.inflight_max",
        "did you mean worker.in_flight_max?",
    ),
    ("nonsense = 5", "nonsense", "unknown key"),
    ("broker = 5", "broker", "unknown key"),
];

#[test]
fn a_bad_value_is_refused_with_its_key_its_place_and_what_was_expected() {
    for (file, key, expected) in BAD_IN_FILE {
        let problems = read(file, &[]).expect_err(file);
        let text = problems.to_string();
        assert_eq!(problems.0.len(), 1, "{file}: {text}");
        assert!(
            text.contains(&format!("\n  {key} (in /")) && text.contains(expected),
            "{file}: {text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_bad_variable_is_refused_by_its_name() {
    for (name, value, expected) in [
        (
            "MAGNETITE_WORKER__IN_FLIGHT_MAX",
            "yes",
            "worker.in_flight_max (in MAGNETITE_WORKER__IN_FLIGHT_MAX)",
        ),
        (
            "MAGNETITE_BROKER__URL",
            "amqps//u:hunter2@h",
            "broker.url (in MAGNETITE_BROKER__URL)",
        ),
        (
            "MAGNETITE_BROKER_URL",
            "amqp://u:hunter2@h",
            "did you mean MAGNETITE_BROKER__URL?",
        ),
        (
            "MAGNETITE_BROKER__URI",
            "amqp://u:hunter2@h",
            "did you mean MAGNETITE_BROKER__URL?",
        ),
        (
            "MAGNETITE_HTTP__PORT",
            "1",
            "http.port (in MAGNETITE_HTTP__PORT): unknown key",
        ),
    ] {
        let text = read("", &[(name, value)]).expect_err(name).to_string();
        assert!(text.contains(expected) && text.contains(name), "{name}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn what_others_set_is_left_alone() {
    for name in [
        "MAGNETITE_WORKER_SERVICE_HOST",
        "MAGNETITE_WORKER_SERVICE_PORT_HTTP",
        "MAGNETITE_WORKER_PORT",
        "MAGNETITE_WORKER_PORT_80_TCP_ADDR",
        "MAGNETITE_PORT",
        "MAGNETITE_TEST_POSTGRES_URL",
        "MAGNETITE_API_KEY",
        "MAGNETITE_API_URL",
        "MAGNETITE_ORGANIZATION",
        "MAGNETITE_API_PORT_8420_TCP",
        "MAGNETITE",
    ] {
        assert!(read("", &[(name, "tcp://10.0.0.1:80")]).is_ok(), "{name}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let file = "worker.in_flight_max = 0\nlog.format = \"xml\"\nwroker.x = 1";
    let problems = read(file, &[("MAGNETITE_FANOUT__INLINE_MAX", "-")]).unwrap_err();
    assert_eq!(problems.0.len(), 4, "{problems}");
}

#[test]
fn a_file_that_is_no_toml_is_refused_by_its_line_and_not_quoted() {
    let problems = read("[broker]\nprefix = \"m\"\nurl = \"amqp://u:hunter2@h\n", &[])
        .unwrap_err()
        .to_string();
    assert!(
        problems.contains("line 3") && !problems.contains("hunter2"),
        "{problems}"
    );
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let missing = Path::new("/nonexistent/magnetite.toml");
    let problems = Configuration::read(Some(missing), std::iter::empty())
        .unwrap_err()
        .to_string();
    assert!(problems.contains("/nonexistent/magnetite.toml"), "{problems}");
}

#[test]
fn a_root_certificate_that_cannot_be_read_is_a_bad_configuration() {
    let variables = [("MAGNETITE_EGRESS__ROOT_CERTIFICATES", "/nonexistent/ca.pem")];
    let problems = read("", &variables)
        .unwrap()
        .egress
        .config()
        .unwrap_err()
        .to_string();
    for part in [
        "egress.root_certificates",
        "MAGNETITE_EGRESS__ROOT_CERTIFICATES",
        "/nonexistent/ca.pem",
    ] {
        assert!(problems.contains(part), "{problems}");
    }
}
