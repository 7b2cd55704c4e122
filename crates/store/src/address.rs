//! The database's address: a URL that is parsed once and never shown with its credentials.

pub(crate) mod parameters;

use std::{fmt, net::IpAddr, path::PathBuf};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use crate::Error;

/// A parsed database URL.
pub(crate) enum Address {
    /// The absolute path of the database file.
    Sqlite(PathBuf),
    /// Host, credentials and TLS settings. Some of them may come from libpq's environment variables.
    Postgres(Box<PgConnectOptions>),
}

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        match url.split_once(':') {
            Some(("sqlite", rest)) => parse_sqlite(rest),
            Some(("postgres" | "postgresql", rest)) => parse_postgres(url, rest),
            _ => Err(Error::BadUrl(
                "it must begin with sqlite:///, postgres:// or postgresql://",
            )),
        }
    }
}

fn parse_sqlite(rest: &str) -> Result<Address, Error> {
    let path = rest.strip_prefix("//").unwrap_or_default();
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(Error::BadUrl(
            "SQLite needs the absolute path of a file, as in sqlite:///var/lib/magnetite.db",
        ));
    }
    // Parameters are refused. Ignoring them would make them a part of the file's name.
    if path.contains(['?', '#', '\0']) {
        return Err(Error::BadUrl(
            "SQLite's path must not contain ?, # or NUL: parameters are not supported",
        ));
    }
    Ok(Address::Sqlite(PathBuf::from(path)))
}

fn parse_postgres(url: &str, rest: &str) -> Result<Address, Error> {
    let rest = rest.strip_prefix("//").ok_or(Error::BadUrl(
        "a PostgreSQL URL must begin with postgres:// or postgresql://",
    ))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // A password with an unencoded / ends the authority early. Its first half would be parsed as the port and
    // shown in errors.
    if !authority.contains('@') && rest.contains('@') {
        return Err(Error::BadUrl(
            "it has an @ after the host; percent-encode /, ?, # and @ in the user name and password",
        ));
    }
    // sqlx reports a URL that cannot be parsed.
    if let Ok(url) = Url::parse(url) {
        parameters::check(&url)?;
    }
    let options = url
        .parse::<PgConnectOptions>()
        .map_err(|error| Error::BadPostgresUrl(error.into()))?;
    // Poolers refuse connections that begin with this setting, and PostgreSQL 12 and later writes floats
    // exactly without it.
    let options = options.extra_float_digits(None);
    // A URL encloses an IPv6 address in brackets. They are not part of the host.
    let host = options.get_host();
    let options = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => {
            let address = address.to_owned();
            options.host(&address)
        }
        None => options,
    };
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("magnetite"),
    };
    Ok(Address::Postgres(Box::new(options)))
}

/// Returns whether `url` names a PostgreSQL server on another host whose certificate is not fully verified.
/// Only `sslmode=verify-full` verifies it for the host name; `sslmode=disable` explicitly requests no TLS and
/// counts as a deliberate choice. Returns `false` for a URL that cannot be parsed.
pub fn is_unverified(url: &str) -> bool {
    let Ok(Address::Postgres(options)) = Address::parse(url) else {
        return false;
    };
    let host = options.get_host();
    let is_local = host == "localhost"
        || host.starts_with('/')
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    let is_decided = matches!(options.get_ssl_mode(), PgSslMode::Disable | PgSslMode::VerifyFull);
    options.get_socket().is_none() && !is_local && !is_decided
}

/// Writes the address without user and password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(options) => {
                match options.get_socket() {
                    Some(socket) => write!(f, "postgres://{}", socket.display())?,
                    None if options.get_host().contains(':') => {
                        write!(f, "postgres://[{}]:{}", options.get_host(), options.get_port())?;
                    }
                    None => write!(f, "postgres://{}:{}", options.get_host(), options.get_port())?,
                }
                write!(f, "/{}", options.get_database().unwrap_or(options.get_username()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        match Address::parse(url) {
            Ok(address) => address.to_string(),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                format!("{error}: {cause:?} {error:?}")
            }
        }
    }

    #[test]
    fn another_host_without_verification_is_told() {
        for (url, expected) in [
            ("postgres://u@db.example/m", true),
            ("postgres://u@db.example/m?sslmode=require", true),
            ("postgres://u@[2001:db8::7]/m?sslmode=prefer", true),
            ("postgres://u@db.example/m?sslmode=verify-full", false),
            ("postgres://u@db.example/m?sslmode=verify-ca", true),
            ("postgres://u@db.example/m?sslmode=disable", false),
            ("postgres://u@localhost/m", false),
            ("postgres://u@127.0.0.1/m", false),
            ("postgres://u@[::1]/m", false),
            ("postgres:///m?host=/run/postgresql", false),
            ("sqlite:///m.db", false),
        ] {
            assert_eq!(is_unverified(url), expected, "{url}");
        }
    }

    #[test]
    fn an_address_is_shown_without_its_credentials() {
        assert_eq!(shown("sqlite:///var/lib/a b/m.db"), "sqlite:///var/lib/a b/m.db");
        assert_eq!(
            shown("postgres://u:hunter2@db.example:6543/hooks"),
            "postgres://db.example:6543/hooks"
        );
        assert_eq!(
            shown("postgresql://u:hunter2@db.example:6543/hooks?sslmode=require"),
            "postgres://db.example:6543/hooks"
        );
        assert_eq!(
            shown("postgres://u@db.example:6543/hooks?password=hunter2"),
            "postgres://db.example:6543/hooks"
        );
    }

    #[test]
    fn an_address_of_ipv6_is_a_host() {
        assert_eq!(
            shown("postgres://u@[::1]:6543/hooks"),
            "postgres://[::1]:6543/hooks"
        );
        let Ok(Address::Postgres(options)) = Address::parse("postgres://u@[2001:db8::7]/hooks") else {
            panic!("not parsed as a PostgreSQL address");
        };
        assert_eq!(options.get_host(), "2001:db8::7");
    }

    #[test]
    fn no_malformed_url_gives_its_password_away() {
        for url in [
            "postgres://u:hunter2/x@h/db",
            "postgres://u:2222/hunter2@h/db",
            "postgres://u:hunter2@h:port/db",
            "postgres://u:hunter2@h:5432/db?sslmode=maybe",
            "postgres://u:hunter2@h:5432/db?sslmod=hunter2",
            "postgres://u:hunter2@[::1/db",
            "postgres:u:hunter2@h/db",
            "mysql://u:hunter2@h/db",
            "u:hunter2@h",
            "hunter2",
            "",
        ] {
            let shown = shown(url);
            assert!(shown.contains("bad "), "{url}: {shown}");
            assert!(
                !shown.contains("hunter2") && !shown.contains("2222"),
                "{url}: {shown}"
            );
        }
    }

    #[test]
    fn sqlite_takes_an_absolute_path_and_no_parameters() {
        for url in [
            "sqlite:",
            "sqlite://",
            "sqlite:///",
            "sqlite://m.db",
            "sqlite::memory:",
            "sqlite:///m.db?mode=ro",
            "sqlite:///dir/",
        ] {
            assert!(shown(url).contains("SQLite"), "{url}");
        }
    }
}
