mod refusals;

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

#[test]
fn a_variable_that_sets_a_key_is_a_configuration_and_one_of_a_client_is_not() {
    let first_set = |names: &[&str]| sources::first_set(names.iter().map(OsString::from));
    assert_eq!(
        first_set(&["HOME", "MAGNETITE_EGRESS__ALLOW", "MAGNETITE_DATABASE__URL"]).as_deref(),
        Some("MAGNETITE_DATABASE__URL")
    );
    let of_clients = [
        "HOME",
        "MAGNETITE_API_URL",
        "MAGNETITE_API_KEY",
        "MAGNETITE_PROFILE",
        "MAGNETITE_ORGANIZATION",
    ];
    assert_eq!(first_set(&of_clients), None);
}
