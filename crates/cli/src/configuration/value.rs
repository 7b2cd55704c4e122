//! Parsers for configuration values, one function per kind of value. An error says in words what was
//! expected.
//!
//! They are stricter than the `config` crate's own conversions, which accept "yes" for 1 and round 1.5. The
//! value of a variable is always text, so a number may be given as text.

use std::{
    fs,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use config::ValueKind;
use ipnet::IpNet;
use runtime::logs::Format;
use store::SealingKey;
use tracing_subscriber::EnvFilter;

const DURATION: &str = "a duration such as 25s, 10m or 250ms";
const PREFIX_CHARS_MAX: usize = 64;
/// The port of DNS.
const NAME_SERVER_PORT: u16 = 53;

fn text(value: &ValueKind) -> Result<&str, String> {
    match value {
        ValueKind::String(text) => Ok(text),
        _ => Err("expected a string".to_owned()),
    }
}

pub(super) fn boolean(value: &ValueKind) -> Result<bool, String> {
    match value {
        ValueKind::Boolean(boolean) => Ok(*boolean),
        ValueKind::String(text) => text.parse().map_err(|_| "expected true or false".to_owned()),
        _ => Err("expected true or false".to_owned()),
    }
}

/// Parses a list, or its elements in one text, separated by commas.
fn list(value: &ValueKind) -> Result<Vec<&str>, String> {
    match value {
        ValueKind::String(text) => Ok(text
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .collect()),
        ValueKind::Array(values) => values
            .iter()
            .map(|value| self::text(&value.kind).map(str::trim))
            .collect(),
        _ => Err("expected a list of strings".to_owned()),
    }
}

fn list_of<T>(
    value: &ValueKind,
    expected: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, String> {
    let parse = |text| parse(text).ok_or_else(|| format!("expected {expected}, but {text:?} is not one"));
    let texts = list(value).map_err(|_| format!("expected {expected}"))?;
    texts.into_iter().map(parse).collect()
}

pub(super) fn broker_url(value: &ValueKind) -> Result<String, String> {
    let urls = list(value)
        .map_err(|_| broker::BadUrl::Malformed.to_string())?
        .join(",");
    broker::Config::new(&urls, "").map_err(|error| error.to_string())?;
    Ok(urls)
}

/// Parses one or more URLs; an empty text means none. The user comes from another key, so any user will do
/// for this check.
pub(super) fn management_url(value: &ValueKind) -> Result<Option<String>, String> {
    let urls = list(value)
        .map_err(|_| broker::BadManagementUrl.to_string())?
        .join(",");
    let any = broker::Config::new("amqp://user:password@host/%2f", "").map_err(|error| error.to_string())?;
    any.with_management(&urls).map_err(|error| error.to_string())?;
    Ok(Some(urls))
}

/// Checks only the form. The store parses the rest when it connects.
pub(super) fn database_url(value: &ValueKind) -> Result<String, String> {
    let url = text(value).unwrap_or_default();
    let known = ["sqlite:///", "postgres://", "postgresql://"];
    if known
        .iter()
        .any(|scheme| url.len() > scheme.len() && url.starts_with(scheme))
    {
        return Ok(url.to_owned());
    }
    Err(
        "expected sqlite:///absolute/path/of/a/file or postgres://user:password@host:5432/database"
            .to_owned(),
    )
}

/// Parses sealing keys. The error must not quote the value, which may be part of a key.
pub(super) fn sealing_keys(value: &ValueKind) -> Result<Vec<SealingKey>, String> {
    let expected = "expected keys printed by `magnetite secrets new-key`, separated by commas";
    let keys: Option<Vec<_>> = list(value)
        .ok()
        .and_then(|texts| texts.into_iter().map(|text| text.parse().ok()).collect());
    keys.ok_or_else(|| expected.to_owned())
}

pub(super) fn prefix(value: &ValueKind) -> Result<String, String> {
    let prefix = text(value).unwrap_or_default();
    let fits = (1..=PREFIX_CHARS_MAX).contains(&prefix.len());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if fits && prefix.bytes().all(allowed) {
        return Ok(prefix.to_owned());
    }
    Err(format!(
        "expected 1 to {PREFIX_CHARS_MAX} characters of A-Z a-z 0-9 . _ -"
    ))
}

pub(super) fn number(bounds: RangeInclusive<u64>) -> impl Fn(&ValueKind) -> Result<u64, String> {
    move |value| {
        let number = match value {
            ValueKind::I64(number) => u64::try_from(*number).ok(),
            ValueKind::U64(number) => Some(*number),
            ValueKind::String(text) => text.parse().ok(),
            _ => None,
        };
        let (least, most) = (bounds.start(), bounds.end());
        number
            .filter(|number| bounds.contains(number))
            .ok_or_else(|| format!("expected an integer from {least} to {most}"))
    }
}

pub(super) fn float(value: &ValueKind) -> Result<f64, String> {
    let number = match value {
        ValueKind::Float(number) => Some(*number),
        ValueKind::I64(number) => Some(*number as f64),
        ValueKind::String(text) => text.parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| "expected a number such as 2.0".to_owned())
}

pub(super) fn any_duration(value: &ValueKind) -> Result<Duration, String> {
    let parsed = text(value)
        .ok()
        .and_then(|text| humantime::parse_duration(text).ok());
    parsed.ok_or_else(|| format!("expected {DURATION}"))
}

/// Returns a parser for a duration within bounds. The bounds are given as they are displayed in the error.
pub(super) fn duration(
    least: &'static str,
    most: &'static str,
) -> impl Fn(&ValueKind) -> Result<Duration, String> {
    move |value| {
        let bound = |text| humantime::parse_duration(text).expect("bounds are constants of this program");
        any_duration(value)
            .ok()
            .filter(|duration| (bound(least)..=bound(most)).contains(duration))
            .ok_or_else(|| format!("expected {DURATION}, from {least} to {most}"))
    }
}

pub(super) fn durations(value: &ValueKind) -> Result<Vec<Duration>, String> {
    list_of(value, "durations such as 1s, 5s, 1m", |text| {
        humantime::parse_duration(text).ok()
    })
}

pub(super) fn networks(value: &ValueKind) -> Result<Vec<IpNet>, String> {
    list_of(value, "networks such as 127.0.0.0/8 or fd00::/8", |text| {
        text.parse().ok()
    })
}

/// Parses IP addresses of name servers. The port is optional.
pub(super) fn name_servers(value: &ValueKind) -> Result<Vec<SocketAddr>, String> {
    let parse = |text: &str| {
        let with_port = SocketAddr::from_str(text);
        with_port
            .or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, NAME_SERVER_PORT)))
            .ok()
    };
    list_of(value, "IP addresses such as 10.0.0.2 or 10.0.0.2:5353", parse)
}

pub(super) fn paths(value: &ValueKind) -> Result<Vec<PathBuf>, String> {
    list_of(value, "paths of PEM files", |text| {
        (!text.is_empty()).then(|| PathBuf::from(text))
    })
}

/// Reads the content of one file; an empty text names no file.
pub(super) fn file(value: &ValueKind) -> Result<Vec<u8>, String> {
    match text(value) {
        Ok("") => Ok(Vec::new()),
        Ok(path) => content(Path::new(path)),
        Err(_) => Err("expected the path of a file".to_owned()),
    }
}

/// Reads the contents of several files.
pub(super) fn files(value: &ValueKind) -> Result<Vec<Vec<u8>>, String> {
    paths(value)?.iter().map(|path| content(path)).collect()
}

/// Reads a file. The error must not quote a value that may be a key instead of the path of its file.
fn content(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display().to_string();
    if shown.contains("-----BEGIN") || shown.contains('\n') {
        return Err("expected the path of a PEM file instead of its content".to_owned());
    }
    let content = fs::read(path)
        .map_err(|error| format!("expected a readable file, but {shown} cannot be read: {error}"))?;
    if content.is_empty() {
        return Err(format!("expected PEM, but {shown} is empty"));
    }
    Ok(content)
}

pub(super) fn maybe_text(value: &ValueKind) -> Result<Option<String>, String> {
    let text = text(value)?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// Parses an address to listen on. Only IP addresses are accepted, not names, so that probes do not depend on
/// a resolver.
pub(super) fn listen(value: &ValueKind) -> Result<Option<SocketAddr>, String> {
    match text(value) {
        Ok("") => Some(None),
        Ok(text) => text.parse().map(Some).ok(),
        Err(_) => None,
    }
    .ok_or_else(|| {
        "expected an IP address and a port such as 0.0.0.0:8085, or an empty string for none".to_owned()
    })
}

pub(super) fn log_format(value: &ValueKind) -> Result<Format, String> {
    match text(value) {
        Ok("text") => Ok(Format::Text),
        Ok("json") => Ok(Format::Json),
        _ => Err("expected text or json".to_owned()),
    }
}

pub(super) fn log_filter(value: &ValueKind) -> Result<Option<String>, String> {
    let filter = text(value)
        .ok()
        .filter(|text| EnvFilter::builder().parse(text).is_ok());
    filter
        .map(|filter| Some(filter.to_owned()))
        .ok_or_else(|| "expected directives such as info or warn,worker=debug".to_owned())
}
