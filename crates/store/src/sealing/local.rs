//! The sealing key of an installation on one host: a file beside SQLite's database file.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::SealingKey;
use crate::Error;

/// Returns the path of the key file: the name of the database file with `.key` appended.
fn path_beside(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".key");
    name.into()
}

/// Reads the key beside this database file. If there is none, creates it with access for its owner only.
/// Returns the key and its path.
pub(crate) fn local_key(database: &Path) -> Result<(SealingKey, PathBuf), Error> {
    let path = path_beside(database);
    let failed = |source| Error::KeyFile {
        path: path.clone(),
        source,
    };
    let read = || fs::read_to_string(&path);
    let text = match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(&path).map_err(failed)?;
            read()
        }
        read => read,
    };
    let text = text.map_err(failed)?;
    let key = text.trim().parse();
    let key = key.map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    Ok((key, path))
}

/// Creates the key file. It is first written completely under another name, because several processes may
/// start at the same time and all have to use the key of the first one.
fn make(path: &Path) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}", rand::random::<u64>()));
    let draft = PathBuf::from(draft);
    let written = write_new(&draft).and_then(|()| fs::hard_link(&draft, path));
    let _ = fs::remove_file(&draft);
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        written => written,
    }
}

/// Writes and syncs a new key before the file gets its final name. If a power cut took back the key,
/// everything sealed with it would be lost.
fn write_new(path: &Path) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let key = SealingKey::generate(rand::random());
    writeln!(file, "{}", key.expose())?;
    file.sync_all()
}
