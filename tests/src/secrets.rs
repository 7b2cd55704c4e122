//! The secrets that must not appear in clear, and the search for them.

use std::{fs, io, path::Path, sync::Mutex};

/// The key that encrypts secrets in PostgreSQL.
pub(crate) const SEALING_KEY: &str = "mgsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The secrets that commands have printed.
#[derive(Default)]
pub(crate) struct Secrets(Mutex<Vec<String>>);

impl Secrets {
    pub(crate) fn remember(&self, secret: &str) {
        self.0.lock().unwrap().push(secret.to_owned());
    }

    /// Panics if a file in `directory` contains the random part of a secret or of a key.
    ///
    /// The keys are the contents of the files `*.key`, which alone may contain them, and the key for
    /// PostgreSQL. Files `*.secret` belong to a receiver and are not searched.
    pub(crate) fn assert_nothing_in_clear(&self, directory: &Path) {
        let mut secrets = self.0.lock().unwrap().clone();
        secrets.push(SEALING_KEY.to_owned());
        let mut files = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                Some(extension) if extension == "key" => {
                    secrets.push(fs::read_to_string(&path).unwrap().trim().to_owned());
                }
                Some(extension) if extension == "secret" => {}
                _ if path.is_file() => files.push(path),
                _ => {}
            }
        }
        for path in files {
            let bytes = match fs::read(&path) {
                // SQLite removes its log when the last connection is closed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                read => read.unwrap(),
            };
            for secret in &secrets {
                let (_, random) = secret.split_once('_').expect("secrets and keys have a prefix");
                let found = memchr::memmem::find(&bytes, random.as_bytes()).is_some();
                assert!(!found, "{} has a secret in it", path.display());
            }
        }
    }
}
