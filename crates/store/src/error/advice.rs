//! What to do about a database that cannot be connected to.

use super::transient::sqlite_code;

/// What to do about a server that does not answer.
pub(super) const UNREACHABLE: &str =
    "start the database, or correct host and port in database.url (MAGNETITE_DATABASE__URL)";
/// What to do if the cause is unknown.
pub(super) const UNKNOWN: &str = "see the error, and the database's log";

/// Returns what to do about an error of a connection attempt.
pub(super) fn on_connect(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::Database(refusal) => match sqlite_code(error) {
            Some(code) => on_sqlite(code),
            None => on_sqlstate(refusal.code().as_deref().unwrap_or_default()),
        },
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) => on_tls(&error.to_string()).unwrap_or(match error {
            sqlx::Error::Tls(_) => "correct sslmode, sslrootcert, sslcert and sslkey in database.url",
            _ => UNREACHABLE,
        }),
        _ => UNKNOWN,
    }
}

/// Returns what to do about a failed TLS handshake with this message.
pub(super) fn on_tls(message: &str) -> Option<&'static str> {
    let says = |words: &str| message.contains(words);
    if says("UnknownIssuer") {
        Some(
            "set sslrootcert in database.url to the PEM file of the authority that issued the server's certificate",
        )
    } else if says("not valid for name") || says("NotValidForName") {
        Some("correct the host in database.url to a name in the server's certificate")
    } else if says("does not support TLS") || says("does not support SSL") {
        Some(
            "turn TLS on at the server, or set sslmode=disable in database.url if the network in between is trusted",
        )
    } else if says("fatal alert")
        && ["ertificate", "UnknownCA", "HandshakeFailure"]
            .into_iter()
            .any(says)
    {
        Some("set sslcert and sslkey in database.url to a client certificate that the server accepts")
    } else {
        None
    }
}

/// Returns what to do about an SQLite file that cannot be used, by the extended result code. Source:
/// <https://www.sqlite.org/rescode.html>.
fn on_sqlite(extended_code: i32) -> &'static str {
    match extended_code & 0xff {
        // Busy, and locked.
        5 | 6 => "end the program that locks the database file, or wait for it",
        // Permission, read-only, and cannot open.
        3 | 8 | 14 => {
            "let this user read and write the database file and its directory, or correct database.url"
        }
        // Full.
        13 => "free space on the disk of the database file",
        // I/O error.
        10 => "check the disk of the database file, and its free space",
        // Corrupt, and not a database.
        11 | 26 => "restore the database file from a backup, or correct database.url",
        _ => "see the error",
    }
}

/// Returns what to do about a connection that PostgreSQL refuses with this SQLSTATE. Source:
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn on_sqlstate(code: &str) -> &'static str {
    match code {
        "28P01" => {
            "correct user and password in database.url (in a URL, characters such as / and @ are percent-encoded)"
        }
        "28000" => {
            "correct the user in database.url, or let pg_hba.conf of the server accept this connection; if it requires a client \
             certificate, set sslcert and sslkey in database.url"
        }
        "3D000" => {
            "correct the database's name in database.url, or create it (createdb --encoding=UTF8 --template=template0 NAME) and run \
             `magnetite migrate`"
        }
        "42501" => "grant the user access to the database: GRANT CONNECT ON DATABASE name TO user",
        "53300" => "raise max_connections of PostgreSQL, or close other connections",
        "57P03" => "wait until the database has started",
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_postgresql_has_advice_of_its_own() {
        for (code, words) in [
            ("28P01", "correct user and password"),
            ("28000", "pg_hba.conf"),
            ("3D000", "createdb"),
            ("53300", "max_connections"),
            ("XX000", "see the error"),
        ] {
            assert!(on_sqlstate(code).contains(words), "{code}: {}", on_sqlstate(code));
        }
    }

    #[test]
    fn an_sqlite_file_has_advice_about_the_file() {
        // SQLITE_BUSY_SNAPSHOT, _READONLY_DIRECTORY, _CANTOPEN, _FULL, _IOERR_WRITE, _NOTADB, and _ERROR.
        for (code, words) in [
            (517, "locks the database file"),
            (1544, "let this user"),
            (14, "let this user"),
            (13, "free space"),
            (778, "check the disk"),
            (26, "from a backup"),
            (1, "see the error"),
        ] {
            let advice = on_sqlite(code);
            assert!(advice.contains(words), "{code}: {advice}");
            assert!(!advice.contains("log"), "{code}: {advice}");
        }
    }

    #[test]
    fn a_refused_certificate_is_told_from_a_server_that_is_not_running() {
        let io = |message: &str| sqlx::Error::Io(std::io::Error::other(message.to_owned()));
        for (message, words) in [
            ("invalid peer certificate: UnknownIssuer", "sslrootcert"),
            (
                "invalid peer certificate: certificate not valid for name \"db\"",
                "correct the host",
            ),
            ("received fatal alert: CertificateRequired", "sslcert and sslkey"),
            ("Connection refused (os error 111)", "start the database"),
        ] {
            let advice = on_connect(&io(message));
            assert!(advice.contains(words), "{message}: {advice}");
        }
    }
}
