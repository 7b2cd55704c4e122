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
    profiles.insert(DEFAULT, first.clone()).unwrap();
    profiles.insert("my \"other\" one", second.clone()).unwrap();
    let path = home.path().join(".config/magnetite/profiles.toml");
    assert_eq!(profiles.path(), path);
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let mut found = load(&home).unwrap();
    assert_eq!(found.get(DEFAULT).unwrap(), &first);
    assert_eq!(found.get("my \"other\" one").unwrap(), &second);
    // Nothing else is left in the directory but the lock.
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
    assert_eq!(mode(&path.with_extension("lock")), 0o600);
    assert_eq!(found.remove(DEFAULT).unwrap(), first);
    assert!(load(&home).unwrap().find(DEFAULT).is_none());
    found.remove("my \"other\" one").unwrap();
    assert!(!path.exists());
    found.save().unwrap();
}

#[test]
fn a_change_keeps_what_another_process_has_changed_meanwhile() {
    let home = tempfile::tempdir().unwrap();
    load(&home)
        .unwrap()
        .insert(DEFAULT, profile("https://a.example", None))
        .unwrap();
    let (mut first, mut second) = (load(&home).unwrap(), load(&home).unwrap());
    second.insert("work", profile("https://b.example", None)).unwrap();
    second.remove(DEFAULT).unwrap();
    first.insert("home", profile("https://c.example", None)).unwrap();
    let found = load(&home).unwrap();
    assert_eq!(found.by_name.keys().collect::<Vec<_>>(), ["home", "work"]);
    assert_eq!(first.by_name, found.by_name);
}

#[test]
fn two_processes_do_not_change_the_file_at_once() {
    let home = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let home = &home;
            scope.spawn(move || {
                for number in 0..5 {
                    let name = format!("{thread}-{number}");
                    let profile = profile("https://a.example", None);
                    load(home).unwrap().insert(&name, profile).unwrap();
                }
            });
        }
    });
    assert_eq!(load(&home).unwrap().by_name.len(), 20);
}

#[test]
fn a_lock_that_is_not_released_is_waited_for_only_so_long() {
    let home = tempfile::tempdir().unwrap();
    let profiles = load(&home).unwrap();
    let held = profiles.lock(LOCK_WITHIN).unwrap();
    let error = profiles.lock(Duration::from_millis(1)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(error.to_string().contains("profiles.lock"), "{error}");
    drop(held);
    assert!(profiles.lock(LOCK_WITHIN).is_ok());
}

#[test]
fn the_file_of_another_user_is_not_used() {
    let home = tempfile::tempdir().unwrap();
    let mut profiles = load(&home).unwrap();
    profiles
        .insert(DEFAULT, profile("https://a.example", None))
        .unwrap();
    let another = Uid::from_raw(geteuid().as_raw() + 1);
    let read = Profiles::read_as(profiles.path().to_owned(), another);
    let error = format!("{:#}", read.as_ref().unwrap_err());
    assert!(error.contains("belongs to another user"), "{error}");
    assert!(own(read).unwrap().is_none());
    let failed = |kind| Err::<Profiles, _>(io::Error::from(kind)).context("cannot read the profiles");
    assert!(own(failed(io::ErrorKind::PermissionDenied)).unwrap().is_none());
    assert!(own(failed(io::ErrorKind::IsADirectory)).is_err());
    assert!(own(Ok(profiles)).unwrap().is_some());
}

#[test]
fn a_profile_is_not_stored_in_the_home_of_another_user() {
    let (root, user) = (Uid::ROOT, Uid::from_raw(1000));
    for (owner, user, expected) in [
        (1000, user, false),
        (0, user, false),
        (0, root, false),
        (1000, root, true),
        (1001, user, true),
    ] {
        assert_eq!(is_foreign(owner, user), expected, "{owner} {user:?}");
    }
    let home = tempfile::tempdir().unwrap();
    assert!(load(&home).unwrap().check_owner().is_ok());
}

#[test]
fn the_file_is_replaced_and_not_written_to() {
    let home = tempfile::tempdir().unwrap();
    let mut profiles = load(&home).unwrap();
    profiles
        .insert(DEFAULT, profile("https://a.example", None))
        .unwrap();
    let before = File::open(profiles.path()).unwrap();
    profiles
        .insert(DEFAULT, profile("https://b.example", None))
        .unwrap();
    let old = io::read_to_string(before).unwrap();
    assert!(old.contains("a.example") && !old.contains("b.example"), "{old}");
    // A directory cannot be replaced by a file: what was there is left, and nothing else.
    let directory = profiles.path().parent().unwrap().to_owned();
    fs::remove_file(profiles.path()).unwrap();
    fs::create_dir(profiles.path()).unwrap();
    let error = format!("{:#}", profiles.save().unwrap_err());
    assert!(error.contains("cannot write the profiles to"), "{error}");
    assert_eq!(fs::read_dir(directory).unwrap().count(), 2);
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
        (good.replace("[default]\n", ""), 2),
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
        let profile = profile("https://a.example", None);
        profiles.insert(name, profile).unwrap();
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
