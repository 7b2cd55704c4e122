//! The profiles that `magnetite login` stores: the URL of an HTTP API, and the API key to use there, by name.
//!
//! They are in one file for each user of the machine, `magnetite/profiles.toml` in `$XDG_CONFIG_HOME` or in
//! `~/.config`. Only the user may read it. It is always replaced as a whole, so that a crash leaves either the old
//! or the new profiles.
//!
//! No message quotes the file, because it contains keys.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::{Usage, configuration};

/// The profile that is used if no other is named.
pub(crate) const DEFAULT: &str = "default";
/// The maximum size of the file that is read, in bytes: enough for thousands of profiles.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
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
    pub(crate) fn read(path: PathBuf) -> anyhow::Result<Self> {
        let text =
            read_private(&path).with_context(|| format!("cannot read the profiles in {}", path.display()))?;
        let by_name = toml::from_str(&text).map_err(|error| {
            anyhow!(
                "cannot read the profiles in {}: line {} is not valid; correct it, or delete the file and log in again",
                path.display(),
                configuration::line_of(&text, &error)
            )
        })?;
        Ok(Self { path, by_name })
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

    /// Adds a profile, or replaces the one with this name. [`Self::save`] stores the change.
    pub(crate) fn insert(&mut self, name: &str, profile: Profile) {
        self.by_name.insert(name.to_owned(), profile);
    }

    /// Removes and returns a profile. [`Self::save`] stores the change.
    ///
    /// # Errors
    /// Returns an error that names the existing profiles if there is no such profile.
    pub(crate) fn remove(&mut self, name: &str) -> Result<Profile, Usage> {
        self.by_name.remove(name).ok_or_else(|| self.unknown(name))
    }

    /// Replaces the file. Deletes it if no profile is left.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written. It is then unchanged.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        self.write()
            .with_context(|| format!("cannot write the profiles to {}", self.path.display()))
    }

    fn write(&self) -> io::Result<()> {
        if self.by_name.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
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

/// Returns the text of a file to which only the current user has access; an empty text if it does not exist.
fn read_private(path: &Path) -> anyhow::Result<String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if metadata.uid() != geteuid().as_raw() {
        bail!("the file belongs to another user; run the command as its owner");
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
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use tempfile::TempDir;

    use super::*;

    const KEY: &str = "mgk_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";

    fn profile(url: &str, organization: Option<&str>) -> Profile {
        Profile {
            url: url.to_owned(),
            key: KEY.to_owned(),
            organization: organization.map(str::to_owned),
        }
    }

    fn load(home: &TempDir) -> anyhow::Result<Profiles> {
        Profiles::load(|name| (name == "HOME").then(|| home.path().into()))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    /// Returns the error for a file with this text and this mode.
    fn error(text: &str, mode: u32) -> String {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("profiles.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = Profiles::read(path).unwrap_err();
        format!("{error:#}")
    }

    #[test]
    fn a_profile_is_read_back_from_a_file_that_only_its_owner_may_read() {
        let home = tempfile::tempdir().unwrap();
        let mut profiles = load(&home).unwrap();
        let (first, second) = (
            profile("https://a.example", None),
            profile("https://b.example/x", Some("org_1")),
        );
        profiles.insert(DEFAULT, first.clone());
        profiles.save().unwrap();
        profiles.insert("my \"other\" one", second.clone());
        profiles.save().unwrap();
        let path = home.path().join(".config/magnetite/profiles.toml");
        assert_eq!(profiles.path(), path);
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let mut found = load(&home).unwrap();
        assert_eq!(found.get(DEFAULT).unwrap(), &first);
        assert_eq!(found.get("my \"other\" one").unwrap(), &second);
        // Nothing else is left in the directory.
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(found.remove(DEFAULT).unwrap(), first);
        found.save().unwrap();
        assert!(load(&home).unwrap().find(DEFAULT).is_none());
        found.remove("my \"other\" one").unwrap();
        found.save().unwrap();
        assert!(!path.exists());
        found.save().unwrap();
    }

    #[test]
    fn the_file_is_replaced_and_not_written_to() {
        let home = tempfile::tempdir().unwrap();
        let mut profiles = load(&home).unwrap();
        profiles.insert(DEFAULT, profile("https://a.example", None));
        profiles.save().unwrap();
        let before = File::open(profiles.path()).unwrap();
        profiles.insert(DEFAULT, profile("https://b.example", None));
        profiles.save().unwrap();
        let old = io::read_to_string(before).unwrap();
        assert!(old.contains("a.example") && !old.contains("b.example"), "{old}");
        // A directory cannot be replaced by a file: what was there is left, and nothing else.
        let directory = profiles.path().parent().unwrap().to_owned();
        fs::remove_file(profiles.path()).unwrap();
        fs::create_dir(profiles.path()).unwrap();
        let error = format!("{:#}", profiles.save().unwrap_err());
        assert!(error.contains("cannot write the profiles to"), "{error}");
        assert_eq!(fs::read_dir(directory).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_may_read_or_change_is_refused() {
        for mode in [0o604, 0o640, 0o620, 0o644] {
            let error = error("", mode);
            assert!(error.contains("chmod 600 /"), "{mode:o}: {error}");
        }
    }

    #[test]
    fn a_line_that_is_not_valid_is_named_and_not_quoted() {
        let good = format!("[default]\nurl = \"https://a.example\"\nkey = \"{KEY}\"\n");
        for (text, line) in [
            (good.replace("\"\n", "\n"), 2),
            (format!("{good}color = \"{KEY}\"\n"), 4),
            (good.replace("key", "keys"), 3),
            (good.replace("[default]\n", ""), 1),
            (good.replace("\"https://a.example\"", "7"), 2),
        ] {
            let error = error(&text, 0o600);
            assert!(
                error.contains(&format!("line {line} is not valid")),
                "{text}: {error}"
            );
            assert!(!error.contains("mgk_"), "{error}");
        }
    }

    #[test]
    fn an_unknown_profile_is_answered_with_the_known_ones() {
        let home = tempfile::tempdir().unwrap();
        let mut profiles = load(&home).unwrap();
        let error = profiles.get("work").unwrap_err().to_string();
        assert!(error.contains("contains no profiles"), "{error}");
        for name in ["b", "a"] {
            profiles.insert(name, profile("https://a.example", None));
        }
        let error = profiles.remove("work").unwrap_err().to_string();
        assert!(error.contains("contains: a, b; "), "{error}");
        assert!(error.contains("magnetite login --profile work"), "{error}");
    }

    #[test]
    fn the_directory_of_the_variable_precedes_the_home_directory() {
        let path = |variables: &[(&str, &str)]| {
            path(|name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            })
        };
        let of = |directory: &str| Some(PathBuf::from(directory).join("magnetite/profiles.toml"));
        assert_eq!(path(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]), of("/c"));
        assert_eq!(path(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "")]), of("/h/.config"));
        assert_eq!(
            path(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "c")]),
            of("/h/.config")
        );
        assert_eq!(path(&[("HOME", "")]), None);
        let error = Profiles::load(|_| None).unwrap_err().to_string();
        assert!(error.contains("HOME"), "{error}");
        assert!(Profiles::read("/dev/null/x".into()).unwrap().by_name.is_empty());
    }

    #[test]
    fn a_key_is_not_shown() {
        let shown = format!("{:?}", profile("https://a.example", None));
        assert!(!shown.contains("mgk_"), "{shown}");
    }
}
