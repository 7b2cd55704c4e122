//! The key of an installation on one host: a file beside SQLite's.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::SealingKey;
use crate::Error;

/// The file that is beside the database's: its name with `.key` behind it.
fn path_beside(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".key");
    name.into()
}

/// Reads the key beside this database, and makes one, for its owner alone, where there is none. Says where it
/// is, too.
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

/// Written whole under another name first: several processes may begin at once, and the first one's key is
/// everyone's.
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

/// Synced before it has its name: what is sealed with a key that a power cut takes back is lost.
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
