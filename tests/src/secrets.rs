//! What nobody is to find in clear, and the search for it.

use std::{fs, path::Path, sync::Mutex};

/// What secrets in PostgreSQL are sealed with.
pub(crate) const SEALING_KEY: &str = "mgsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The secrets that commands have printed.
#[derive(Default)]
pub(crate) struct Secrets(Mutex<Vec<String>>);

impl Secrets {
    pub(crate) fn remember(&self, secret: &str) {
        self.0.lock().unwrap().push(secret.to_owned());
    }

    /// Panics when one of the files in `directory` has a secret in it, the part of one that is random, or a
    /// key. The keys are those of the files `*.key`, which alone may hold them, and that of PostgreSQL.
    /// Files `*.secret` are a receiver's.
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
            let bytes = fs::read(&path).unwrap();
            for secret in &secrets {
                let (_, random) = secret.split_once('_').expect("secrets and keys have a prefix");
                let found = memchr::memmem::find(&bytes, random.as_bytes()).is_some();
                assert!(!found, "{} has a secret in it", path.display());
            }
        }
    }
}
