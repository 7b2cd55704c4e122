//! The configuration in force, as `magnetite config` prints it: every key with its value and where it is set.
//! Passwords and keys are masked.

use config::ValueKind;
use toml::Value;

use super::{Place, sources::Reader};

/// The documentation. Its TOML block contains every key. Each key that is not commented out has its default
/// value.
const PAGE: &str = include_str!("../../../../docs/configuration.md");
const MASK: &str = "***";
/// The key of a URL that may contain a password.
const DATABASE_URL: &str = "database.url";
/// The keys of URLs that may contain passwords. Each holds one URL or several, separated by commas.
const BROKER_URLS: [&str; 2] = ["broker.url", "broker.management_url"];
const KEYS: &str = "secrets.keys";
const DELAYS: &str = "retry.delays";

/// One key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    /// The key with its section, such as `broker.url`.
    pub(crate) key: String,
    /// `None` if the key is not set and has no default.
    pub(crate) value: Option<Value>,
    pub(crate) place: Place,
}

/// Returns all documented settings. `database_url` is the URL in force, because its default depends on the
/// user.
pub(super) fn settings(reader: &Reader, database_url: &str) -> Vec<Setting> {
    let defaults = Value::Table(documented().parse().unwrap_or_default());
    let default = |key: &str| {
        let found = key.split('.').try_fold(&defaults, |table, name| table.get(name));
        found.cloned()
    };
    let setting = |key: String| {
        let is_replaced = key.starts_with("retry.") && key != DELAYS && reader.given(DELAYS).is_some();
        let value = match reader.given(&key) {
            _ if is_replaced => None,
            Some(given) => Some(value_of(given, default(&key).as_ref())),
            None if key == DATABASE_URL => Some(Value::from(database_url)),
            None => default(&key),
        };
        Setting {
            value: value.map(|value| masked(&key, value)),
            place: reader.place(&key),
            key,
        }
    };
    keys().map(setting).collect()
}

/// Returns the TOML block of the documentation.
pub(super) fn documented() -> &'static str {
    let block = PAGE
        .split_once("```toml\n")
        .and_then(|(_, rest)| rest.split_once("```"));
    block.map_or("", |(block, _)| block)
}

/// Returns the keys of the block in their order, including those that are commented out.
fn keys() -> impl Iterator<Item = String> {
    let mut section = "";
    documented().lines().filter_map(move |line| {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            return None;
        }
        let (name, _) = line.trim_start_matches("# ").split_once(" = ")?;
        Some(format!("{section}.{name}"))
    })
}

/// Converts a value to TOML. The value of a variable is always text: it is converted to the type of the key's
/// default.
fn value_of(given: &ValueKind, default: Option<&Value>) -> Value {
    match given {
        ValueKind::Boolean(boolean) => Value::from(*boolean),
        ValueKind::I64(number) => Value::from(*number),
        ValueKind::Float(number) => Value::from(*number),
        ValueKind::Array(values) => {
            let texts = values.iter().map(|value| value_of(&value.kind, None));
            Value::Array(texts.collect())
        }
        ValueKind::String(text) => value_of_text(text, default),
        other => Value::from(other.to_string()),
    }
}

fn value_of_text(text: &str, default: Option<&Value>) -> Value {
    let read = match default {
        Some(Value::Integer(_)) => text.parse().ok().map(Value::Integer),
        Some(Value::Float(_)) => text.parse().ok().map(Value::Float),
        Some(Value::Boolean(_)) => text.parse().ok().map(Value::Boolean),
        Some(Value::Array(_)) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Some(Value::Array(parts.map(Value::from).collect()))
        }
        _ => None,
    };
    read.unwrap_or_else(|| Value::from(text))
}

fn masked(key: &str, value: Value) -> Value {
    match value {
        Value::Array(values) => Value::Array(values.into_iter().map(|value| masked(key, value)).collect()),
        Value::String(text) if key == DATABASE_URL => Value::from(without_password(&text)),
        Value::String(text) if BROKER_URLS.contains(&key) => {
            let urls: Vec<_> = text.split(',').map(without_password).collect();
            Value::from(urls.join(","))
        }
        Value::String(_) if key == KEYS => Value::from(MASK),
        value => value,
    }
}

/// Masks what is between the first colon of the user information and the last `@`, and the value of each
/// parameter that is called `password` or contains PEM. Masks the whole text if the result is not a URL.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return MASK.to_owned();
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    let user = user.map(|user| match user.split_once(':') {
        Some((name, _)) => format!("{name}:{MASK}@"),
        None => format!("{user}@"),
    });
    let parameter = |pair: &str| match pair.split_once('=') {
        // The name of a parameter may be percent-encoded, and a parameter may contain a key instead of the
        // path of the key's file.
        Some((name, value)) if name == "password" || name.contains('%') || value.contains("BEGIN") => {
            format!("{name}={MASK}")
        }
        _ => pair.to_owned(),
    };
    let rest = match rest.split_once('?') {
        Some((place, query)) => {
            let parameters: Vec<_> = query.split('&').map(parameter).collect();
            format!("{place}?{}", parameters.join("&"))
        }
        None => rest.to_owned(),
    };
    let masked = format!("{scheme}://{}{rest}", user.unwrap_or_default());
    if url::Url::parse(&masked).is_ok() {
        masked
    } else {
        MASK.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_left_in_a_url() {
        for (url, shown) in [
            ("amqp://u:p@h:5672/%2f", "amqp://u:***@h:5672/%2f"),
            ("amqp://u:p@s3:cret@h/v", "amqp://u:***@h/v"),
            ("amqp://u@h/v", "amqp://u@h/v"),
            ("amqp://h/v", "amqp://h/v"),
            (
                "postgres://u:p@[::1]:1/d?sslmode=require&password=p",
                "postgres://u:***@[::1]:1/d?sslmode=require&password=***",
            ),
            ("sqlite:///var/lib/m.db", "sqlite:///var/lib/m.db"),
            ("sqlite:///a,b.db", "sqlite:///a,b.db"),
            ("postgres://u:s3cret,x@h/d", "postgres://u:***@h/d"),
            ("postgres://u:pa?ss@h/d", "postgres://u:***@h/d"),
            ("postgres://u:2/x@h/d", "postgres://u:***@h/d"),
            ("postgres://h/d?pass%77ord=p", "postgres://h/d?pass%77ord=***"),
            (
                "postgres://h/d?sslkey=-----BEGIN%20PRIVATE%20KEY-----x",
                "postgres://h/d?sslkey=***",
            ),
            ("p", "***"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
