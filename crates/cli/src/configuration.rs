//! The configuration: all settings with their defaults and bounds.
//!
//! In order of increasing precedence, settings come from the defaults, one file, and `MAGNETITE_*` variables.
//! In the name of a variable, `__` stands for the dot of the key: `MAGNETITE_BROKER__URL` is `broker.url`.
//! The file is the one that `--config` names, or else `magnetite.toml` in the current directory, or else
//! `/etc/magnetite/magnetite.toml`. An unknown key or a value that is out of bounds is refused before
//! anything is opened. The error lists all such keys at once, each with its name, where it is set and what
//! was expected. `docs/configuration.md` documents every key, and a test compares it with this module.
//!
//! No error here quotes a URL of the broker or the database, because both may contain passwords.

mod invalid;
mod value;
mod sources;
mod effective;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use broker::{BadTls, Tls, Topology};
use ipnet::IpNet;
use runtime::logs;
use store::SealingKey;
use webhook::Schedule;

pub(crate) use effective::Setting;
pub(crate) use invalid::{InvalidSetting, InvalidSettings, Place};
use sources::Reader;
pub(crate) use sources::line_of;

/// The complete, validated configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Configuration {
    pub(crate) broker: Broker,
    pub(crate) database: Database,
    pub(crate) worker: worker::Config,
    pub(crate) recorder: recorder::Config,
    pub(crate) api: api::Config,
    /// The address that the HTTP API listens on; `None` if it is not served.
    pub(crate) api_listen: Option<SocketAddr>,
    pub(crate) api_listen_place: Place,
    pub(crate) egress: Egress,
    /// The address that serves `/livez`, `/readyz` and `/metrics`; `None` if they are not served.
    pub(crate) health_listen: Option<SocketAddr>,
    pub(crate) log: Log,
    /// The file and the variables that the configuration was read from, for `doctor`.
    pub(crate) read_from: Vec<String>,
}

#[derive(Clone, PartialEq)]
pub(crate) struct Broker {
    url: String,
    /// `None` for RabbitMQ's default management URL.
    management_url: Option<String>,
    pub(crate) prefix: String,
    tls: Tls,
}

#[derive(Clone, PartialEq)]
pub(crate) struct Database {
    pub(crate) url: String,
    /// Where the URL is set.
    pub(crate) place: Place,
    /// The keys that encrypt the endpoints' secrets. If empty, the key in the file beside SQLite's file is
    /// used.
    pub(crate) keys: Vec<SealingKey>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Egress {
    allow: Vec<IpNet>,
    pub(crate) allow_http: bool,
    pub(crate) attempt_timeout: Duration,
    idle_per_host_max: usize,
    idle_timeout: Duration,
    name_servers: Vec<SocketAddr>,
    root_certificates: Vec<PathBuf>,
    root_certificates_place: Place,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Log {
    pub(crate) format: logs::Format,
    /// Filter directives as in `RUST_LOG`. If `None`, roles log at `info` and all other commands at `warn`.
    pub(crate) filter: Option<String>,
}

/// The configuration files to look for if `--config` names none. The first one that exists is read.
const DEFAULT_FILES: [&str; 2] = ["magnetite.toml", "/etc/magnetite/magnetite.toml"];
const DEFAULT_BROKER_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
const DEFAULT_HEALTH_LISTEN: &str = "127.0.0.1:8085";
const DEFAULT_API_LISTEN: &str = "127.0.0.1:8420";

impl Configuration {
    /// Reads the configuration from the file and the variables of the process.
    pub(crate) fn load(file: Option<&Path>) -> Result<Self, InvalidSettings> {
        Self::read(file.or_else(default_file), std::env::vars_os())
    }

    fn read(
        file: Option<&Path>,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, InvalidSettings> {
        let mut reader = Reader::new(file, variables)?;
        let configuration = Self::take(&mut reader);
        reader.finish()?;
        Ok(configuration)
    }

    /// Reads every key. The reader collects the errors and reports them when it finishes.
    fn take(reader: &mut Reader) -> Self {
        Self {
            read_from: reader.places(),
            broker: broker(reader),
            database: database(reader),
            worker: worker(reader),
            recorder: recorder(reader),
            api: api(reader),
            api_listen: api_listen(reader),
            api_listen_place: reader.place("api.listen"),
            egress: egress(reader),
            health_listen: reader.read("health.listen", value::listen, || {
                DEFAULT_HEALTH_LISTEN.parse().ok()
            }),
            log: log(reader),
        }
    }

    /// Returns the exchanges and queues that this configuration needs.
    pub(crate) fn topology(&self) -> Topology {
        Topology::new(self.broker.prefix.clone(), self.worker.schedule.tiers())
    }

    /// Returns the time after which a delivery must have ended: the duration of all its attempts, the longest
    /// delays between them, and the longest wait for a slot.
    pub(crate) fn late(&self) -> Duration {
        late(&self.worker, self.egress.attempt_timeout)
    }
}

/// Returns [`Configuration::late`] with the default settings, for a command that does not know those of the
/// workers.
pub(crate) fn late_by_default() -> Duration {
    late(
        &worker::Config::default(),
        egress::Config::default().attempt_timeout,
    )
}

fn late(worker: &worker::Config, attempt_timeout: Duration) -> Duration {
    let schedule = &worker.schedule;
    schedule.run_max() + attempt_timeout * schedule.attempts() + worker.defer_age_max
}

/// Returns every key with its value from the file and the variables of the process, in the order of
/// `docs/configuration.md`.
pub(crate) fn load_settings(file: Option<&Path>) -> Result<Vec<Setting>, InvalidSettings> {
    read_settings(file.or_else(default_file), std::env::vars_os())
}

fn read_settings(
    file: Option<&Path>,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<Setting>, InvalidSettings> {
    let mut reader = Reader::new(file, variables)?;
    let configuration = Configuration::take(&mut reader);
    let settings = effective::settings(&reader, &configuration.database.url);
    reader.finish()?;
    Ok(settings)
}

/// Returns the file, or else the variable, because of which there is a configuration; `None` if there is none.
pub(crate) fn given_by(file: Option<&Path>) -> Option<Place> {
    let names = || std::env::vars_os().map(|(name, _)| name);
    let file = file.or_else(default_file);
    file.map(|file| Place::File(file.to_owned()))
        .or_else(|| sources::first_set(names()).map(Place::Variable))
}

fn default_file<'a>() -> Option<&'a Path> {
    let [here, of_the_host] = DEFAULT_FILES.map(Path::new);
    // If the current directory may not be read, such as another user's home, it has no configuration for this
    // process.
    if here.try_exists().unwrap_or(false) {
        return Some(here);
    }
    // If the file's existence cannot be determined, it is assumed to exist, and reading it reports the
    // reason.
    (!matches!(of_the_host.try_exists(), Ok(false))).then_some(of_the_host)
}

fn broker(reader: &mut Reader) -> Broker {
    let mut broker = Broker {
        url: reader.read("broker.url", value::broker_url, || DEFAULT_BROKER_URL.to_owned()),
        management_url: reader.read("broker.management_url", value::management_url, || None),
        prefix: reader.read("broker.prefix", value::prefix, || "magnetite".to_owned()),
        tls: Tls::default(),
    };
    broker.tls = broker_tls(reader, broker.config());
    broker
}

/// Reads the settings for TLS to the broker and the files that they name.
fn broker_tls(reader: &mut Reader, broker: broker::Config) -> Tls {
    const ROOTS: &str = "broker.tls.root_certificates";
    const CERTIFICATE: &str = "broker.tls.certificate";
    const KEY: &str = "broker.tls.key";
    const SERVER_NAME: &str = "broker.tls.server_name";
    let tls = Tls {
        root_certificates: reader.read(ROOTS, value::files, Vec::new),
        certificate: reader.read(CERTIFICATE, value::file, Vec::new),
        key: reader.read(KEY, value::file, Vec::new),
        server_name: reader.read(SERVER_NAME, value::maybe_text, || None),
    };
    let read = [
        "broker.url",
        "broker.management_url",
        ROOTS,
        CERTIFICATE,
        KEY,
        SERVER_NAME,
    ];
    if read.into_iter().any(|key| reader.is_refused(key)) {
        return Tls::default();
    }
    let Err(bad) = broker.with_tls(&tls) else {
        return tls;
    };
    let refused = match bad {
        BadTls::RootCertificates(_) => ROOTS,
        BadTls::Certificate(_) => CERTIFICATE,
        BadTls::Key(_) => KEY,
        BadTls::NoTls if !tls.root_certificates.is_empty() => ROOTS,
        BadTls::NoTls if !tls.certificate.is_empty() => CERTIFICATE,
        BadTls::NoTls if !tls.key.is_empty() => KEY,
        BadTls::ServerName | BadTls::NoTls => SERVER_NAME,
    };
    reader.refuse(refused, &bad.to_string());
    Tls::default()
}

fn database(reader: &mut Reader) -> Database {
    let default = default_database_url(reader);
    let key = "database.url";
    let url = reader.read(key, value::database_url, || default.clone().unwrap_or_default());
    let place = reader.place(key);
    if place == Place::Default && default.is_none() {
        reader.refuse(
            key,
            "expected a value such as sqlite:///var/lib/magnetite/magnetite.db, because neither XDG_STATE_HOME nor \
             HOME is an absolute path",
        );
    }
    let keys = reader.read("secrets.keys", value::sealing_keys, Vec::new);
    Database { url, place, keys }
}

/// Returns the URL of the SQLite file in the user's state directory. The specification of `XDG_STATE_HOME`
/// requires that relative paths are ignored.
fn default_database_url(reader: &Reader) -> Option<String> {
    let absolute = |name| {
        reader
            .variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(format!(
        "sqlite://{}",
        state.join("magnetite/magnetite.db").display()
    ))
}

fn worker(reader: &mut Reader) -> worker::Config {
    let default = worker::Config::default();
    worker::Config {
        schedule: schedule(reader),
        in_flight_max: reader.read("worker.in_flight_max", value::number(1..=65_536), || {
            default.in_flight_max as u64
        }) as usize,
        prefetch_events: reader.read("worker.prefetch_events", value::number(1..=65_535), || {
            default.prefetch_events.into()
        }) as u16,
        prefetch_due: reader.read("worker.prefetch_due", value::number(1..=65_535), || {
            default.prefetch_due.into()
        }) as u16,
        inline_max: reader.read("fanout.inline_max", value::number(0..=1024), || {
            default.inline_max as u64
        }) as usize,
        defer_age_max: reader.read("defer.age_max", value::duration("1s", "24h"), || {
            default.defer_age_max
        }),
        defer_fault_age_max: reader.read("defer.fault_age_max", value::duration("1s", "30d"), || {
            default.defer_fault_age_max
        }),
        shutdown_deadline: shutdown_deadline(reader),
        registry_refresh: registry_refresh(reader),
        journal: reader.read("journal.enabled", value::boolean, || default.journal),
    }
}

fn recorder(reader: &mut Reader) -> recorder::Config {
    let default = recorder::Config::default();
    recorder::Config {
        retention_age: reader.read("retention.age", value::duration("1h", "3650d"), || {
            default.retention_age
        }),
        failing_age: reader.read("endpoints.failing_age", value::duration("1s", "3650d"), || {
            default.failing_age
        }),
    }
}

fn api(reader: &mut Reader) -> api::Config {
    let default = api::Config::default();
    api::Config {
        body_bytes_max: reader.read(
            "api.body_bytes_max",
            value::number(1024..=64 * 1024 * 1024),
            || default.body_bytes_max as u64,
        ) as usize,
        rate_per_key: reader.read("api.rate_per_key", value::number(1..=1_000_000), || {
            default.rate_per_key.into()
        }) as u32,
        endpoints_per_organization_max: reader.read(
            "endpoints.per_organization_max",
            value::number(1..=store::ENDPOINTS_MAX.into()),
            || default.endpoints_per_organization_max.into(),
        ) as u32,
        idle_timeout: reader.read("api.idle_timeout", value::duration("1s", "1h"), || {
            default.idle_timeout
        }),
        shutdown_deadline: shutdown_deadline(reader),
    }
}

fn api_listen(reader: &mut Reader) -> Option<SocketAddr> {
    reader.read("api.listen", value::listen, || DEFAULT_API_LISTEN.parse().ok())
}

fn registry_refresh(reader: &mut Reader) -> Duration {
    let default = worker::Config::default().registry_refresh;
    reader.read("registry.refresh", value::duration("10ms", "1m"), || default)
}

fn shutdown_deadline(reader: &mut Reader) -> Duration {
    let default = worker::Config::default().shutdown_deadline;
    reader.read("shutdown.deadline", value::duration("0s", "1h"), || default)
}

/// Reads the retry schedule: either the list of delays, or the four numbers from which it is computed.
fn schedule(reader: &mut Reader) -> Schedule {
    const COMPUTED: [&str; 4] = ["retry.initial", "retry.factor", "retry.max", "retry.attempts"];
    let delays = reader.read("retry.delays", value::durations, Vec::new);
    let initial = reader.read(COMPUTED[0], value::any_duration, || Duration::from_secs(1));
    let factor = reader.read(COMPUTED[1], value::float, || 2.0);
    let max = reader.read(COMPUTED[2], value::any_duration, || Duration::from_secs(30));
    let attempts = reader.read(COMPUTED[3], value::number(2..=100), || 10) as u32;

    let given = |key: &&str| reader.place(key) != Place::Default;
    let (made, key) = if given(&"retry.delays") {
        if let Some(other) = COMPUTED.into_iter().find(given) {
            let detail = format!("expected no value, because {other} is set as well; remove one of them");
            reader.refuse("retry.delays", &detail);
        }
        (Schedule::list(delays), "retry.delays")
    } else {
        let key = COMPUTED.into_iter().find(given).unwrap_or(COMPUTED[0]);
        (Schedule::exponential(initial, factor, max, attempts), key)
    };
    made.unwrap_or_else(|error| {
        reader.refuse(key, &format!("expected a valid schedule: {error}"));
        Schedule::default()
    })
}

fn egress(reader: &mut Reader) -> Egress {
    let default = egress::Config::default();
    let list = "egress.root_certificates";
    Egress {
        allow: reader.read("egress.allow", value::networks, Vec::new),
        allow_http: reader.read("egress.allow_http", value::boolean, || false),
        attempt_timeout: reader.read("egress.attempt_timeout", value::duration("100ms", "30s"), || {
            default.attempt_timeout
        }),
        idle_per_host_max: reader.read("egress.idle_per_host_max", value::number(0..=1024), || {
            default.idle_per_host_max as u64
        }) as usize,
        idle_timeout: reader.read("egress.idle_timeout", value::duration("1s", "10m"), || {
            default.idle_timeout
        }),
        name_servers: reader.read("egress.name_servers", value::name_servers, Vec::new),
        root_certificates: reader.read(list, value::paths, Vec::new),
        root_certificates_place: reader.place(list),
    }
}

fn log(reader: &mut Reader) -> Log {
    Log {
        format: reader.read("log.format", value::log_format, || logs::Format::Text),
        filter: reader.read("log.filter", value::log_filter, || None),
    }
}

impl Broker {
    pub(crate) fn config(&self) -> broker::Config {
        const READ_BEFORE: &str = "the same parser accepted the value when the configuration was read";
        let config = broker::Config::new(&self.url, self.prefix.clone()).expect(READ_BEFORE);
        let config = match &self.management_url {
            Some(urls) => config.with_management(urls).expect(READ_BEFORE),
            None => config,
        };
        config.with_tls(&self.tls).expect(READ_BEFORE)
    }
}

impl Egress {
    /// Adds networks to those that endpoints may be in.
    pub(crate) fn allow(&mut self, networks: Vec<IpNet>) {
        self.allow.extend(networks);
    }

    /// Returns the settings of the HTTP client. Reads the files with root certificates.
    fn config(&self) -> Result<egress::Config, InvalidSettings> {
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|error| {
                self.bad_root_certificate(format!(
                    "expected a readable file, but {} cannot be read: {error}",
                    path.display()
                ))
            })
        };
        Ok(egress::Config {
            allow: self.allow.clone(),
            allow_http: self.allow_http,
            attempt_timeout: self.attempt_timeout,
            idle_per_host_max: self.idle_per_host_max,
            idle_timeout: self.idle_timeout,
            name_servers: self.name_servers.clone(),
            root_certificates: self
                .root_certificates
                .iter()
                .map(read)
                .collect::<Result<_, _>>()?,
            insecure: false,
        })
    }

    /// Creates the HTTP client for endpoints. Reports an unusable root certificate as a bad configuration.
    pub(crate) fn client(&self) -> anyhow::Result<egress::Egress> {
        egress::Egress::new(&self.config()?).map_err(|error| match error {
            egress::SetupError::RootCertificate(source) => {
                let detail = format!("expected PEM files of certificates: {source}");
                self.bad_root_certificate(detail).into()
            }
            error => error.into(),
        })
    }

    fn bad_root_certificate(&self, detail: String) -> InvalidSettings {
        InvalidSettings::one(
            "egress.root_certificates",
            self.root_certificates_place.clone(),
            detail,
        )
    }
}

/// Omits the password.
impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config().fmt(f)
    }
}

/// Omits the URL, which may contain a password.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// Keys with their values.
type Values = BTreeMap<String, config::ValueKind>;

#[cfg(test)]
mod tests;
