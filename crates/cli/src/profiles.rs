//! The profiles that `magnetite login` stores: the URL of an HTTP API, and the API key to use there, by name.
//!
//! They are in one file for each user of the machine, `magnetite/profiles.toml` in `$XDG_CONFIG_HOME` or in
//! `~/.config`. Only the user may read it. It is always replaced as a whole, so that a crash leaves either the old
//! or the new profiles. Processes that change it hold a lock of the file `profiles.lock` beside it meanwhile.
//!
//! No message quotes the file, because it contains keys.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use rustix::process::{Uid, geteuid};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::{Usage, configuration, output};

/// The profile that is used if no other is named.
pub(crate) const DEFAULT: &str = "default";
/// The maximum size of the file that is read, in bytes: enough for thousands of profiles.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// How long to wait for other processes that change the file: many times as long as they take.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
/// The permission bits of the group and of all other users.
const OF_OTHERS: u32 = 0o077;

/// An HTTP API, and how to use it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// The URL of the API.
    pub(crate) url: String,
    /// The full text of the API key.
    pub(crate) key: String,
    /// The organization that a platform key acts for; `None` if commands name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) organization: Option<String>,
}

/// All profiles of a user.
#[derive(Debug)]
pub(crate) struct Profiles {
    path: PathBuf,
    by_name: BTreeMap<String, Profile>,
}

/// The error if the file belongs to another user.
#[derive(Debug, thiserror::Error)]
#[error("the file belongs to another user; run the command as its owner")]
struct OfAnotherUser;

/// Returns the path of the file; `None` if the user has no home directory. A variable that is not an absolute path
/// is ignored, as the XDG Base Directory Specification demands.
pub(crate) fn path(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let directory = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(directory.join("magnetite/profiles.toml"))
}

impl Profiles {
    /// Reads the profiles of the user whose home directory the variables name.
    ///
    /// # Errors
    /// Returns an error if there is no home directory, and in the cases of [`Self::read`].
    pub(crate) fn load(variable: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Self> {
        let path = path(variable).ok_or_else(|| {
            Usage(
                "profiles are stored in the home directory, and HOME names none: set HOME or XDG_CONFIG_HOME"
                    .to_owned(),
            )
        })?;
        Self::read(path)
    }

    /// Reads the profiles in this file. There are none if the file does not exist.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, is not valid, or is accessible to other users.
    fn read(path: PathBuf) -> anyhow::Result<Self> {
        Self::read_as(path, geteuid())
    }

    fn read_as(path: PathBuf, user: Uid) -> anyhow::Result<Self> {
        let text = read_private(&path, user)
            .with_context(|| format!("cannot read the profiles in {}", path.display()))?;
        let by_name = toml::from_str(&text).map_err(|error| {
            anyhow!(
                "cannot read the profiles in {}: line {} is not valid; correct it, or delete the file and log in again",
                path.display(),
                configuration::line_of(&text, &error)
            )
        })?;
        Ok(Self { path, by_name })
    }

    /// Reads the profiles in this file for a command that may do without them. If the file belongs to another user, as
    /// it may with `runuser -u`, which keeps HOME, says so and returns no profiles.
    ///
    /// # Errors
    /// Returns an error if the file of the current user is not valid, or is accessible to other users.
    pub(crate) fn read_own(path: PathBuf) -> anyhow::Result<Option<Self>> {
        own(Self::read(path))
    }

    /// Checks that the directory in which the file is, or would be created, is not that of another user, who could
    /// not read the file. A directory of the system, such as `/tmp`, is accepted.
    ///
    /// # Errors
    /// Returns an error if the directory belongs to another user.
    pub(crate) fn check_owner(&self) -> Result<(), Usage> {
        let mut directories = self.path.ancestors().skip(1);
        let found = directories.find_map(|path| Some((path, fs::metadata(path).ok()?.uid())));
        match found {
            Some((path, owner)) if is_foreign(owner, geteuid()) => Err(Usage(format!(
                "the profile would be stored in {}, which belongs to another user: run the command as that user, or set \
                 HOME to your own home directory and unset XDG_CONFIG_HOME",
                path.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Returns the path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the profile with this name; `None` if there is none.
    pub(crate) fn find(&self, name: &str) -> Option<&Profile> {
        self.by_name.get(name)
    }

    /// Returns the profile with this name.
    ///
    /// # Errors
    /// Returns an error that names the existing profiles if there is no such profile.
    pub(crate) fn get(&self, name: &str) -> Result<&Profile, Usage> {
        self.find(name).ok_or_else(|| self.unknown(name))
    }

    /// Adds a profile, or replaces the one with this name, and stores the change.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or written. It is then unchanged.
    pub(crate) fn insert(&mut self, name: &str, profile: Profile) -> anyhow::Result<()> {
        self.change(|profiles| {
            profiles.by_name.insert(name.to_owned(), profile);
            Ok(())
        })
    }

    /// Removes and returns a profile, and stores the change.
    ///
    /// # Errors
    /// Returns an error that names the existing profiles if there is no such profile, and in the cases of
    /// [`Self::insert`].
    pub(crate) fn remove(&mut self, name: &str) -> anyhow::Result<Profile> {
        // If there is no profile, nothing is created.
        self.get(name)?;
        self.change(|profiles| {
            let removed = profiles.by_name.remove(name);
            removed.ok_or_else(|| profiles.unknown(name))
        })
    }

    /// Reads the file again, changes the profiles and replaces the file. No other process changes it meanwhile, so
    /// that no change is lost.
    fn change<T>(&mut self, change: impl FnOnce(&mut Self) -> Result<T, Usage>) -> anyhow::Result<T> {
        let lock = self.lock(LOCK_WITHIN).with_context(|| self.failed_write())?;
        *self = Self::read(self.path.clone())?;
        let changed = change(self)?;
        self.save()?;
        // The lock ends when its file is closed.
        drop(lock);
        Ok(changed)
    }

    /// Waits for the lock, at most for this time. A process holds it only while it reads and replaces the file, unless
    /// it is stopped meanwhile.
    fn lock(&self, within: Duration) -> io::Result<File> {
        self.create_directory()?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let path = self.path.with_extension("lock");
        let file = options.open(&path)?;
        let (sender, locked) = mpsc::channel();
        // The wait for a lock cannot be limited. If the thread outlives the limit, its lock ends with the file.
        thread::spawn(move || sender.send(file.lock().map(|()| file)));
        locked.recv_timeout(within).unwrap_or_else(|_| {
            let told = format!(
                "another process holds {}: end that process, and try again",
                path.display()
            );
            Err(io::Error::new(io::ErrorKind::TimedOut, told))
        })
    }

    /// Replaces the file. Deletes it if no profile is left.
    fn save(&self) -> anyhow::Result<()> {
        self.write().with_context(|| self.failed_write())
    }

    fn failed_write(&self) -> String {
        format!("cannot write the profiles to {}", self.path.display())
    }

    /// Creates the directory of the file, which only the current user may use. Returns its path.
    fn create_directory(&self) -> io::Result<&Path> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        Ok(directory)
    }

    fn write(&self) -> io::Result<()> {
        if self.by_name.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let directory = self.create_directory()?;
        let text = toml::to_string(&self.by_name).map_err(io::Error::other)?;
        // It has the mode 0600.
        let mut file = NamedTempFile::new_in(directory)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }

    fn unknown(&self, name: &str) -> Usage {
        let names: Vec<_> = self.by_name.keys().map(String::as_str).collect();
        let known = if names.is_empty() {
            "which contains no profiles".to_owned()
        } else {
            format!("which contains: {}", names.join(", "))
        };
        Usage(format!(
            "there is no profile {name} in {}, {known}; `magnetite login --profile {name}` creates it",
            self.path.display()
        ))
    }
}

/// Returns the profiles that were read; `None`, with a note, if the file belongs to another user or may not be read.
fn own(read: anyhow::Result<Profiles>) -> anyhow::Result<Option<Profiles>> {
    match read {
        Err(error) if is_denied(&error) => {
            output::note(&format!("the profile {DEFAULT} is not used: {error:#}"));
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Returns whether the file could not be read because it belongs to another user.
fn is_denied(error: &anyhow::Error) -> bool {
    let io_error = error.downcast_ref::<io::Error>();
    error.is::<OfAnotherUser>()
        || io_error.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Returns whether a directory with this owner belongs to another user than this one, and not to the system.
fn is_foreign(owner: u32, user: Uid) -> bool {
    owner != user.as_raw() && owner != Uid::ROOT.as_raw()
}

/// Returns the text of a file to which only this user has access; an empty text if it does not exist.
fn read_private(path: &Path, user: Uid) -> anyhow::Result<String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if metadata.uid() != user.as_raw() {
        return Err(OfAnotherUser.into());
    }
    if metadata.mode() & OF_OTHERS != 0 {
        bail!(
            "the file contains keys and is accessible to other users; correct this with `chmod 600 {}`",
            path.display()
        );
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns whether a file does not exist. The home directory of a system user is often `/dev/null`, which is no
/// directory.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Does not show the key.
impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile")
            .field("url", &self.url)
            .field("organization", &self.organization)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
