//! The parameters in the query of a PostgreSQL URL: which are known, and whether their values can be used.

use std::{fs::File, net::IpAddr};

use sqlx::postgres::PgSslMode;
use url::Url;

use crate::Error;

/// The parameters that sqlx reads, without other spellings of the same parameter and without `options[...]`.
const KNOWN: &str = "sslmode, sslrootcert, sslcert, sslkey, host, hostaddr, port, dbname, user, password, \
    application_name, options and statement-cache-capacity";

/// The kind of a known parameter's value.
#[derive(Clone, Copy)]
enum Kind {
    SslMode,
    Port,
    Address,
    Count,
    /// The path of a PEM file.
    File,
    /// Any text.
    Text,
}

/// Refuses unknown parameters, and values that sqlx cannot parse.
///
/// sqlx logs unknown parameters and ignores them. With a misspelled `sslmode` it would connect without
/// verifying the server's certificate.
pub(super) fn check(url: &Url) -> Result<(), Error> {
    for (name, value) in url.query_pairs() {
        let kind = Kind::of(&name).ok_or_else(|| unknown(&name, &value))?;
        if let Some(expected) = kind.refusal(&value) {
            let name = name.into_owned();
            return Err(Error::BadParameter { name, expected });
        }
    }
    Ok(())
}

/// Checks whether the files that are named in the query of `url` can be opened. sqlx's error would not name
/// the file.
pub(crate) fn check_files(url: &str) -> Result<(), Error> {
    // An invalid URL has been refused before.
    let Ok(url) = Url::parse(url) else { return Ok(()) };
    for (name, path) in url.query_pairs() {
        if !matches!(Kind::of(&name), Some(Kind::File)) {
            continue;
        }
        File::open(&*path).map_err(|source| Error::CertificateFile {
            parameter: name.into_owned(),
            path: path.into_owned().into(),
            source,
        })?;
    }
    Ok(())
}

/// Returns the error for an unknown parameter. It contains only what is certainly the name of a parameter: a
/// password with an unencoded `&` continues where the name of the next parameter is expected.
fn unknown(name: &str, value: &str) -> Error {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || byte == b'-';
    if value.is_empty() || name.is_empty() || !name.bytes().all(is_letter) {
        return Error::BadUrl(
            "a part after the ? is not a known parameter with a value; percent-encode ?, & and # in values",
        );
    }
    let name = name.to_owned();
    Error::UnknownParameter { name, known: KNOWN }
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "sslmode" | "ssl-mode" => Self::SslMode,
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" | "sslcert" | "ssl-cert" | "sslkey" | "ssl-key" => {
                Self::File
            }
            "statement-cache-capacity" => Self::Count,
            "hostaddr" => Self::Address,
            "port" => Self::Port,
            "host" | "dbname" | "user" | "password" | "application_name" | "options" => Self::Text,
            _ if name.starts_with("options[") && name.ends_with(']') => Self::Text,
            _ => return None,
        })
    }

    /// Returns what is expected instead of `value`; `None` if the value can be used.
    fn refusal(self, value: &str) -> Option<&'static str> {
        let (is_usable, expected) = match self {
            Self::SslMode => (
                value.parse::<PgSslMode>().is_ok(),
                "disable, allow, prefer, require, verify-ca or verify-full",
            ),
            Self::Port => (value.parse::<u16>().is_ok(), "a port number"),
            Self::Address => (value.parse::<IpAddr>().is_ok(), "an IP address"),
            Self::Count => (value.parse::<usize>().is_ok(), "a number"),
            // The path is a part of messages, and a key must not be.
            Self::File => (
                !value.is_empty() && !value.contains("-----"),
                "the path of a PEM file",
            ),
            Self::Text => (true, "a text"),
        };
        (!is_usable).then_some(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(query: &str) -> String {
        let url = Url::parse(&format!("postgres://u@h/m?{query}")).unwrap();
        check(&url).expect_err(query).to_string()
    }

    #[test]
    fn an_unknown_parameter_is_refused_by_name_without_its_value() {
        for (query, name) in [
            ("sslmod=hunter2", "sslmod"),
            ("sslmode=require&channel_binding=hunter2", "channel_binding"),
            ("SSLMODE=hunter2", "SSLMODE"),
        ] {
            let refusal = refusal(query);
            assert!(refusal.contains(&format!("{name:?}")), "{refusal}");
            assert!(refusal.contains("sslmode, sslrootcert"), "{refusal}");
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }

    #[test]
    fn the_rest_of_a_password_is_not_taken_for_a_name() {
        for query in [
            "password=a&hunter",
            "password=a&hunter2=x",
            "password=a&=hunter",
            "&hunter",
        ] {
            let refusal = refusal(query);
            assert!(!refusal.contains("hunter"), "{query}: {refusal}");
        }
    }

    #[test]
    fn a_bad_value_is_told_by_what_is_expected() {
        for (query, words) in [
            ("sslmode=verifyfull", "sslmode: expected disable, allow,"),
            ("ssl-mode=", "ssl-mode: expected disable, allow,"),
            ("port=hunter2", "port: expected a port number"),
            ("hostaddr=hunter2", "hostaddr: expected an IP address"),
            ("statement-cache-capacity=hunter2", "expected a number"),
            ("sslrootcert=", "sslrootcert: expected the path of a PEM file"),
            ("sslkey=-----BEGIN%20KEY-----hunter2", "the path of a PEM file"),
        ] {
            let refusal = refusal(query);
            assert!(refusal.contains(words), "{query}: {refusal}");
            assert!(
                !refusal.contains("hunter2") && !refusal.contains("verifyfull"),
                "{refusal}"
            );
        }
    }

    #[test]
    fn known_parameters_are_accepted() {
        for query in [
            "sslmode=verify-full&sslrootcert=/ca.pem&sslcert=/c.pem&sslkey=/c.key",
            "host=/run/postgresql&port=5433&dbname=m&user=u&password=p",
            "hostaddr=::1&application_name=a&options=-c%20geqo%3Doff&options[jit]=off",
            "statement-cache-capacity=0",
            "",
        ] {
            let url = Url::parse(&format!("postgres://u@h/m?{query}")).unwrap();
            check(&url).expect(query);
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named_with_its_parameter() {
        let error = check_files("postgres://u@h/m?sslmode=verify-full&sslrootcert=/no%20where/ca.pem");
        assert_eq!(
            error.unwrap_err().to_string(),
            "cannot read /no where/ca.pem, which sslrootcert in database.url names"
        );
    }
}
