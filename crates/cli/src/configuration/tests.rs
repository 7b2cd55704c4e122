use std::io::Write as _;

use super::{effective::documented, *};

type Variables = std::vec::IntoIter<(OsString, OsString)>;

/// Reads a configuration from a file with this text and from these variables, in addition to a home
/// directory.
fn read(file: &str, variables: &[(&str, &str)]) -> Result<Configuration, InvalidSettings> {
    read_by(Configuration::read, file, variables)
}

fn read_by<T>(
    read: impl Fn(Option<&Path>, Variables) -> Result<T, InvalidSettings>,
    file: &str,
    variables: &[(&str, &str)],
) -> Result<T, InvalidSettings> {
    let mut written = tempfile::NamedTempFile::new().unwrap();
    written.write_all(file.as_bytes()).unwrap();
    let variables = [("HOME", "/home/m"), ("PATH", "/bin")].iter().chain(variables);
    let variables = variables.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    read(Some(written.path()), variables.collect::<Vec<_>>().into_iter())
}

fn defaults() -> Configuration {
    let home = (OsString::from("HOME"), OsString::from("/home/m"));
    Configuration::read(None, std::iter::once(home)).unwrap()
}

/// Compares two configurations, ignoring where they were read from.
fn same(mut one: Configuration, mut other: Configuration) -> bool {
    for each in [&mut one, &mut other] {
        each.read_from.clear();
        each.egress.root_certificates_place = Place::Default;
        each.api_listen_place = Place::Default;
    }
    one == other
}

#[test]
fn the_documented_file_has_the_defaults() {
    let configuration = read(documented(), &[]).unwrap();
    assert!(same(configuration.clone(), defaults()), "{configuration:#?}");
}

#[test]
fn every_key_is_documented_with_its_line() {
    let documented = documented();
    let (mut section, mut keys) = ("", Vec::new());
    let mut explained = false;
    for line in documented.lines() {
        let name = line
            .trim_start_matches("# ")
            .split(" = ")
            .next()
            .filter(|_| line.contains(" = "));
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some(name) = name {
            assert!(explained, "{section}.{name} has no explanation");
            keys.push(format!("{section}.{name}"));
        }
        explained = line.starts_with('#');
    }
    let mut reader = Reader::new(None, std::iter::empty()).unwrap();
    let _ = (
        broker(&mut reader),
        database(&mut reader),
        worker(&mut reader),
        recorder(&mut reader),
        egress(&mut reader),
        api(&mut reader),
        api_listen(&mut reader),
    );
    let _ = (
        log(&mut reader),
        reader.read("health.listen", value::listen, || None),
    );
    let mut known: Vec<String> = reader.known().map(str::to_owned).collect();
    keys.sort();
    known.sort();
    assert_eq!(keys, known);
}

#[test]
fn what_is_in_force_is_shown_with_its_source() {
    let file =
        "[broker]\nurl = [\"amqp://u:hunter2@a/v\", \"amqp://u:hunter2@b/v\"]\n[worker]\nin_flight_max = 7";
    let key = SealingKey::generate([7; 32]).expose();
    let variables = [
        ("MAGNETITE_WORKER__PREFETCH_DUE", "9"),
        ("MAGNETITE_EGRESS__ALLOW", "10.0.0.0/8,::1/128"),
        (
            "MAGNETITE_DATABASE__URL",
            "postgres://u:hunter2@h/d?password=hunter2\n",
        ),
        ("MAGNETITE_SECRETS__KEYS", key.as_str()),
    ];
    let shown = read_by(read_settings, file, &variables).unwrap();
    let text = |key: &str| {
        let setting = shown.iter().find(|setting| setting.key == key).unwrap();
        let value = setting.value.as_ref().map(ToString::to_string);
        (value.unwrap_or_default(), setting.place.clone())
    };
    let variable = |name: &str| Place::Variable(format!("MAGNETITE_{name}"));
    assert_eq!(
        text("broker.url").0,
        r#"["amqp://u:***@a/v", "amqp://u:***@b/v"]"#
    );
    assert!(matches!(text("worker.in_flight_max"), (value, Place::File(_)) if value == "7"));
    assert_eq!(
        text("worker.prefetch_due"),
        ("9".to_owned(), variable("WORKER__PREFETCH_DUE"))
    );
    assert_eq!(text("egress.allow").0, r#"["10.0.0.0/8", "::1/128"]"#);
    assert_eq!(text("database.url").0, r#""postgres://u:***@h/d?password=***""#);
    assert_eq!(text("secrets.keys").0, r#""***""#);
    assert_eq!(text("retry.factor"), ("2.0".to_owned(), Place::Default));
    assert_eq!(text("log.filter"), (String::new(), Place::Default));
    let all = format!("{shown:?}");
    assert!(!all.contains("hunter2") && !all.contains(key.as_str()), "{all}");
}

#[test]
fn white_space_around_a_value_is_none_of_it() {
    let variables = [
        ("MAGNETITE_DATABASE__URL", "sqlite:///var/lib/m.db\n"),
        ("MAGNETITE_BROKER__URL", " amqp://u:p@h/v\r\n"),
        ("MAGNETITE_WORKER__IN_FLIGHT_MAX", "9\n"),
        ("MAGNETITE_EGRESS__ALLOW_HTTP", "true\n"),
        ("MAGNETITE_EGRESS__ATTEMPT_TIMEOUT", "5s\n"),
        ("MAGNETITE_HEALTH__LISTEN", "127.0.0.1:1\n"),
        ("MAGNETITE_BROKER__PREFIX", "m\n"),
        ("MAGNETITE_RETRY__FACTOR", "3.0\n"),
        ("MAGNETITE_LOG__FORMAT", "json\n"),
    ];
    let configuration = read("", &variables).unwrap();
    assert_eq!(configuration.database.url, "sqlite:///var/lib/m.db");
    assert_eq!(configuration.broker.config().address(), "h:5672/v");
    assert_eq!(configuration.broker.prefix, "m");
    assert_eq!(configuration.worker.in_flight_max, 9);
    assert!(configuration.egress.allow_http);
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let defaults = defaults();
    assert_eq!(defaults.broker.config().address(), "127.0.0.1:5672/");
    assert_eq!(
        defaults.database.url,
        "sqlite:///home/m/.local/state/magnetite/magnetite.db"
    );
    assert_eq!(defaults.worker, worker::Config::default());
    assert_eq!(defaults.recorder, recorder::Config::default());
    assert_eq!(defaults.worker.schedule, Schedule::default());
    assert_eq!(defaults.api, api::Config::default());
    assert_eq!(defaults.api_listen, Some("127.0.0.1:8420".parse().unwrap()));
    assert_eq!(defaults.health_listen, Some("127.0.0.1:8085".parse().unwrap()));
    let of_egress = defaults.egress.config().unwrap();
    assert_eq!(of_egress.attempt_timeout, Duration::from_secs(30));
    assert_eq!(of_egress.idle_per_host_max, 512);
    assert_eq!(of_egress.idle_timeout, Duration::from_secs(20));
}

#[test]
fn a_variable_wins_over_the_file() {
    let file = "worker.in_flight_max = 7\nfanout.inline_max = 3\n[egress]\nallow = [\"10.0.0.0/8\"]";
    let variables = [
        ("MAGNETITE_WORKER__IN_FLIGHT_MAX", "9"),
        ("MAGNETITE_EGRESS__ALLOW", "127.0.0.0/8, ::1/128"),
        ("MAGNETITE_RETRY__DELAYS", "100ms,2s"),
        ("MAGNETITE_HEALTH__LISTEN", ""),
        ("MAGNETITE_LOG__FORMAT", "json"),
        ("MAGNETITE_EGRESS__NAME_SERVERS", "10.0.0.2,[::1]:5353"),
    ];
    let configuration = read(file, &variables).unwrap();
    assert_eq!(configuration.worker.in_flight_max, 9);
    assert_eq!(configuration.worker.inline_max, 3);
    assert_eq!(
        configuration.egress.allow,
        ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]
    );
    let delays = [Duration::from_millis(100), Duration::from_secs(2)];
    assert_eq!(
        configuration.worker.schedule,
        Schedule::list(delays.to_vec()).unwrap()
    );
    assert_eq!(configuration.health_listen, None);
    assert_eq!(configuration.log.format, runtime::logs::Format::Json);
    let servers = ["10.0.0.2:53".parse().unwrap(), "[::1]:5353".parse().unwrap()];
    assert_eq!(configuration.egress.name_servers, servers);
}

#[test]
fn an_empty_list_in_a_variable_clears_the_files() {
    let configuration = read(
        "egress.allow = [\"10.0.0.0/8\"]",
        &[("MAGNETITE_EGRESS__ALLOW", "")],
    )
    .unwrap();
    assert!(configuration.egress.allow.is_empty());
}

#[test]
fn the_state_directory_is_where_xdg_has_it() {
    let url = |variables: &[(&str, &str)]| read("", variables).unwrap().database.url;
    assert_eq!(
        url(&[("XDG_STATE_HOME", "/state")]),
        "sqlite:///state/magnetite/magnetite.db"
    );
    assert_eq!(
        url(&[("XDG_STATE_HOME", "relative")]),
        "sqlite:///home/m/.local/state/magnetite/magnetite.db"
    );

    let problems = Configuration::read(None, std::iter::empty())
        .unwrap_err()
        .to_string();
    assert!(
        problems.contains("database.url") && problems.contains("HOME"),
        "{problems}"
    );
    let url = [(
        OsString::from("MAGNETITE_DATABASE__URL"),
        OsString::from("sqlite:///x.db"),
    )];
    assert_eq!(
        Configuration::read(None, url.into_iter()).unwrap().database.url,
        "sqlite:///x.db"
    );
}

#[test]
fn several_brokers_are_a_list_or_one_text() {
    let nodes = "mq1:5672/, mq2:5672/";
    let file = r#"broker.url = ["amqp://mq1/%2f", "amqp://mq2/%2f"]"#;
    assert_eq!(read(file, &[]).unwrap().broker.config().address(), nodes);
    let variable = [("MAGNETITE_BROKER__URL", "amqp://mq1/%2f, amqp://mq2/%2f")];
    assert_eq!(read("", &variable).unwrap().broker.config().address(), nodes);
}

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
        "several with commas",
    ),
    (
        "broker.url = \"amqps://h/v\"\nbroker.tls.root_certificates = [\"/none.pem\"]",
        "broker.tls.root_certificates",
        "/none.pem cannot: No such file",
    ),
    (
        "broker.url = \"amqps://h/v\"\nbroker.tls.root_certificates = [\"/etc/hostname\"]",
        "broker.tls.root_certificates",
        "number 1: there is no certificate in it",
    ),
    (
        "broker.url = \"amqps://h/v\"\nbroker.tls.certificate = \"/dev/null\"",
        "broker.tls.certificate",
        "/dev/null is empty",
    ),
    (
        "broker.url = \"amqps://h/v\"\nbroker.tls = { certificate = \"/etc/hostname\", key = \"/etc/hostname\" }",
        "broker.tls.certificate",
        "there is no certificate in it",
    ),
    (
        "broker.url = \"amqps://h/v\"\nbroker.tls.key = \"-----BEGIN PRIVATE KEY-----hunter2\"",
        "broker.tls.key",
        "the path of a PEM file",
    ),
    (
        "broker.url = \"amqps://h/v\"\nbroker.tls.server_name = \"a b\"",
        "broker.tls.server_name",
        "the name of a host",
    ),
    (
        "broker.url = \"amqp://h/v\"\nbroker.management_url = \"https://h\"\nbroker.tls.server_name = \"mq\"",
        "broker.tls.server_name",
        "broker.url has no amqps://",
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
        "retry.factor is given too",
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
        "\"10.0.0.300/8\" is none",
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

#[test]
fn no_password_is_in_what_is_logged() {
    let variables = [
        ("MAGNETITE_BROKER__URL", "amqp://u:hunter2@h/%2f"),
        ("MAGNETITE_DATABASE__URL", "postgres://u:hunter2@h/d"),
    ];
    let configuration = read("", &variables).unwrap();
    assert!(
        !format!("{configuration:?}").contains("hunter2"),
        "{configuration:?}"
    );
}
