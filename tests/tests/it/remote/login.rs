//! Tests `login`, `logout` and the profiles that they change.

use std::{
    fs::{self, File, Permissions},
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    thread,
};

use e2e::{Api, Installation, SOON, binary, free_port, wait_until};
use rustix::{
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, tcgetattr},
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::{stderr, stdout};

/// A user of a machine without a configuration.
struct User {
    home: TempDir,
    /// The keys that no output may contain.
    keys: Vec<String>,
}

/// A terminal with a user before it, and a program that it is the standard input and output of.
struct Terminal {
    user: File,
    program: File,
    /// Everything that the terminal has shown.
    shown: Arc<Mutex<String>>,
}

impl User {
    fn new(keys: &[&str]) -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        }
    }

    fn file(&self) -> PathBuf {
        self.home.path().join(".config/magnetite/profiles.toml")
    }

    fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.home.path())
            .envs(variables.iter().copied())
            .current_dir(self.home.path())
            .kill_on_drop(true);
        command
    }

    /// Runs a command with this input. Panics unless it exits with this code. Returns its results and its messages.
    async fn run(
        &self,
        code: i32,
        arguments: &[&str],
        variables: &[(&str, &str)],
        input: &str,
    ) -> (String, String) {
        let mut command = self.command(arguments, variables);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // An error means that the command did not read its input.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let (results, told) = (stdout(&output), stderr(&output));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        for key in &self.keys {
            assert!(!results.contains(key) && !told.contains(key), "{results}{told}");
        }
        (results, told)
    }

    async fn log_in(&self, more: &[&str], key: &str) -> (String, String) {
        self.run(0, &[&["login"][..], more].concat(), &[], &format!("{key}\n"))
            .await
    }
}

impl Terminal {
    fn open() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user = openpt(flags).unwrap();
        unlockpt(&user).unwrap();
        let program = ioctl_tiocgptpeer(&user, flags).unwrap();
        let (user, program) = (File::from(user), File::from(program));
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reader, into) = (user.try_clone().unwrap(), Arc::clone(&shown));
        thread::spawn(move || {
            let mut buffer = [0; 1024];
            // Reading fails when the program's end is closed.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]);
                into.lock().unwrap().push_str(&text);
            }
        });
        Self { user, program, shown }
    }

    /// Returns the program's end, for its standard input or output.
    fn end(&self) -> Stdio {
        self.program.try_clone().unwrap().into()
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    async fn wait_for(&self, text: &str) {
        wait_until(text, SOON, || self.shown().contains(text)).await;
    }

    fn has_echo(&self) -> bool {
        let modes = tcgetattr(&self.program).unwrap().local_modes;
        modes.contains(LocalModes::ECHO)
    }

    fn enter(&mut self, line: &str) {
        self.user.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_does_not_accept_is_not_stored() {
    let installation = Installation::new("login-refused").await;
    let api = Api::start(&installation).await;
    let key = installation.key("org_1", "admin").await;
    let unknown = format!("mgk_{}", "A".repeat(43));
    let user = User::new(&[&key, &unknown]);
    let away = format!("http://127.0.0.1:{}", free_port());
    let (url, login) = (api.url(), "login");
    for (arguments, key, code, words) in [
        (&[login, url][..], unknown.as_str(), 1, "nothing was stored"),
        (&[login, url], &unknown, 1, "No valid API key (401)"),
        (&[login, url], "mgk_hunter2", 2, "not a valid API key"),
        (&[login, url], "", 2, "not a valid API key"),
        (&[login, "localhost"], &key, 2, "the URL of the API is not valid"),
        (&[login], &key, 2, "the URL of the HTTP API is missing"),
        (&[login, "--api", url], &key, 2, "`magnetite login URL`"),
        (&[login, &away], &key, 1, "nothing listens at"),
        (
            &[login, url, "--organization", "org_2"],
            &key,
            1,
            "The organizations do not match (403)",
        ),
    ] {
        let (results, told) = user.run(code, arguments, &[], key).await;
        assert!(told.contains(words) && results.is_empty(), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
    assert!(!user.file().exists());
    assert!(api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_api_accepts_is_stored_until_the_user_logs_out() {
    let installation = Installation::new("login").await;
    let api = Api::start(&installation).await;
    let admin = installation.key("org_1", "admin").await;
    let publishing = installation.key("org_1", "events:write").await;
    let user = User::new(&[&admin, &publishing]);
    let url = api.url();
    // The scopes of this key do not include the operation that the key is checked with.
    let (done, _) = user.log_in(&[url], &publishing).await;
    assert!(!done.contains("scopes"), "{done}");
    let (done, told) = user.log_in(&[], &admin).await;
    let prefix = format!("{}…", &admin[..10]);
    for words in [
        url,
        &prefix,
        "profile default",
        "a key of org_1 with the scopes admin",
    ] {
        assert!(done.contains(words), "{done}");
    }
    assert_eq!(told, "");
    let mode = fs::metadata(user.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for arguments in [&["endpoint", "list", "--json"][..], &["changes", "--limit", "1"]] {
        user.run(0, arguments, &[], "").await;
    }
    for json in [&["--json"][..], &[]] {
        let (shown, _) = user.run(0, &[&["config"][..], json].concat(), &[], "").await;
        for words in [url, &prefix, "profile default (/"] {
            assert!(shown.contains(words), "{shown}");
        }
    }

    let (done, told) = user.run(0, &["logout"], &[], "").await;
    assert!(done.contains("removed profile default"), "{done}");
    assert!(
        told.contains(&prefix) && told.contains("api-key revoke ID"),
        "{told}"
    );
    assert!(!user.file().exists());
    let (_, told) = user.run(2, &["logout"], &[], "").await;
    assert!(told.contains("contains no profiles"), "{told}");
    assert!(api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_is_named_precedes_a_configuration_and_the_default_one_does_not() {
    let installation = Installation::new("profiles").await;
    let api = Api::start(&installation).await;
    let own = installation.key("org_1", "admin").await;
    let platform = installation.platform_key("admin").await;
    let user = User::new(&[&own, &platform]);
    let url = api.url();
    user.log_in(&[url], &own).await;
    let work = ["--profile", "work"];
    let (_, told) = user
        .log_in(
            &[&[url, "--organization", "org_1"][..], &work].concat(),
            &platform,
        )
        .await;
    assert!(told.contains("add `--profile work`"), "{told}");

    // Every command that reads this configuration refuses it.
    let setting = ("MAGNETITE_DATABASE__URL", "none");
    let list = ["endpoint", "list"];
    let (_, told) = user.run(64, &list, &[setting], "").await;
    assert!(told.contains("database.url"), "{told}");
    let file = user.home.path().join("magnetite.toml");
    fs::write(&file, "[database]\nurl = \"none\"\n").unwrap();
    user.run(64, &list, &[], "").await;
    user.run(0, &[&list[..], &work].concat(), &[], "").await;
    let named = ("MAGNETITE_PROFILE", "default");
    user.run(0, &list, &[named, setting], "").await;
    fs::remove_file(file).unwrap();

    let endpoint = installation.endpoint("org_1", "http://127.0.0.1:9/").await;
    let show = ["endpoint", "show", &endpoint.id];
    user.run(0, &[&show[..], &work].concat(), &[], "").await;
    user.run(0, &["topology"], &[], "").await;
    let (_, told) = user.run(2, &[&["topology"][..], &work].concat(), &[], "").await;
    assert!(told.contains("without --profile"), "{told}");
    let (_, told) = user.run(2, &["topology"], &[named], "").await;
    assert!(told.contains("unset MAGNETITE_PROFILE there"), "{told}");
    // This needs the database, which is not on this machine.
    let platform_key = [
        "api-key",
        "create",
        "--platform",
        "--name",
        "n",
        "--scopes",
        "admin",
    ];
    let (_, told) = user.run(2, &platform_key, &[], "").await;
    assert!(told.contains("run it on a host of the installation"), "{told}");
    let (_, told) = user.run(2, &["endpoint", "list", "--api", url], &[], "").await;
    assert!(told.contains("MAGNETITE_API_KEY is not set"), "{told}");
    let (_, told) = user.run(2, &["logout", "--profile", "home"], &[], "").await;
    assert!(told.contains("contains: default, work"), "{told}");
    fs::set_permissions(user.file(), Permissions::from_mode(0o644)).unwrap();
    let (_, told) = user.run(1, &list, &[], "").await;
    assert!(told.contains("chmod 600"), "{told}");
    assert!(api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test]
async fn listen_uses_a_profile_only_without_a_secret() {
    const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let user = User::new(&[]);
    fs::create_dir_all(user.file().parent().unwrap()).unwrap();
    fs::write(
        user.file(),
        "[default]\nurl = \"http://127.0.0.1:1\"\nkey = \"none\"\n",
    )
    .unwrap();
    fs::set_permissions(user.file(), Permissions::from_mode(0o600)).unwrap();
    let (_, told) = user.run(2, &["listen"], &[], "").await;
    assert!(told.contains("the key in profile default"), "{told}");
    let both = ["listen", "--profile", "default", "--secret", SECRET];
    let (_, told) = user.run(2, &both, &[], "").await;
    assert!(told.contains("omit --secret"), "{told}");
    // An address of documentation, which no machine has.
    let on_port = ["listen", "--addr", "192.0.2.1:9", "--secret", SECRET];
    let (_, told) = user.run(1, &on_port, &[], "").await;
    assert!(told.contains("cannot listen on 192.0.2.1:9"), "{told}");
    for variable in ["MAGNETITE_PROFILE", "MAGNETITE_API_URL"] {
        let (_, told) = user.run(1, &on_port, &[(variable, "unknown")], "").await;
        assert!(told.contains("cannot listen on 192.0.2.1:9"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_precedes_the_default_profile_is_named() {
    let installation = Installation::new("profile-unused").await;
    let api = Api::start(&installation).await;
    let key = installation.key("org_1", "admin").await;
    let user = User::new(&[&key]);
    let broker = format!("amqp://127.0.0.1:{}/%2f", free_port());
    let setting = [("MAGNETITE_BROKER__URL", broker.as_str())];
    let (_, told) = user.run(0, &["login", api.url()], &setting, &key).await;
    for words in ["MAGNETITE_BROKER__URL is set", "add `--profile default`"] {
        assert!(told.contains(words), "{told}");
    }
    for arguments in [
        &["endpoint", "list"][..],
        &["event", "tail"],
        &["publish"],
        &["status"],
    ] {
        let (_, told) = user.run(1, arguments, &setting, "").await;
        let advice = format!("the profile default for {} is not used", api.url());
        assert!(told.lines().any(|line| line.contains(&advice)), "{told}");
        assert!(
            told.ends_with("`--profile default`, or unset MAGNETITE_BROKER__URL\n"),
            "{told}"
        );
    }
    // It would have received events over the API.
    let (_, told) = user.run(2, &["listen"], &setting, "").await;
    let advice = "`--profile default`, or unset MAGNETITE_BROKER__URL\n";
    assert!(told.contains("is not used") && told.ends_with(advice), "{told}");
    // An error that does not come from the connection has nothing to do with the profile.
    let by_hand = [
        "publish",
        "--event",
        "lead.completed",
        "--org",
        "o",
        "--project",
        "p",
        "--lead",
        "l",
    ];
    let bad = [&by_hand[..], &["--data", "["]].concat();
    let (_, told) = user.run(2, &bad, &setting, "").await;
    assert!(!told.contains("is not used"), "{told}");

    fs::write(user.home.path().join("magnetite.toml"), "").unwrap();
    let (shown, _) = user.run(0, &["config"], &[], "").await;
    let first = "# Commands use the database and the broker, because no HTTP API is set.\n";
    assert!(shown.starts_with(first), "{shown}");
    assert!(shown.contains("there is the file magnetite.toml"), "{shown}");
    let (shown, _) = user.run(0, &["config", "--json"], &[], "").await;
    let way = r#"{"key":"way","source":"magnetite.toml","value":"direct"}"#;
    assert!(shown.lines().any(|line| line == way), "{shown}");
    let (shown, _) = user
        .run(0, &["config", "--json", "--profile", "default"], &[], "")
        .await;
    assert!(shown.contains(r#""value":"api""#), "{shown}");
    assert!(api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_command_says_so_to_a_user_who_is_logged_in_and_has_no_installation() {
    let installation = Installation::new("login-local").await;
    let api = Api::start(&installation).await;
    let key = installation.key("org_1", "admin").await;
    let user = User::new(&[&key]);
    user.log_in(&[api.url()], &key).await;
    for arguments in [
        &["audit"][..],
        &["rejected", "list"],
        &["doctor"],
        &["topology", "check"],
        &["retention", "confirm"],
        &["secrets", "reseal"],
    ] {
        let (results, told) = user.run(2, arguments, &[], "").await;
        assert!(results.is_empty() && told.lines().count() == 1, "{results}{told}");
        for words in [
            "which the HTTP API does not give access to",
            "run it on a host of the installation",
        ] {
            assert!(told.contains(words), "{told}");
        }
        assert!(!told.contains("magnetite migrate"), "{told}");
    }
    // With a database, this is a host of an installation.
    user.run(0, &["migrate"], &[], "").await;
    let (_, told) = user.run(0, &["rejected", "list"], &[], "").await;
    assert!(!told.contains("HTTP API"), "{told}");
    assert!(api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_does_not_show_the_key() {
    let installation = Installation::new("login-terminal").await;
    let api = Api::start(&installation).await;
    let key = installation.key("org_1", "admin").await;
    let user = User::new(&[&key]);
    let mut terminal = Terminal::open();
    let mut child = user
        .command(&["login"], &[])
        .stdin(terminal.end())
        .stdout(terminal.end())
        .stderr(terminal.end())
        .spawn()
        .unwrap();
    terminal.wait_for("URL of the HTTP API: ").await;
    terminal.enter(api.url());
    terminal.wait_for("API key (it is not shown): ").await;
    wait_until("a terminal without echo", SOON, || !terminal.has_echo()).await;
    terminal.enter(&key);
    terminal.wait_for("logged in to").await;
    assert!(child.wait().await.unwrap().success(), "{}", terminal.shown());
    assert!(terminal.has_echo());
    assert!(!terminal.shown().contains(&key), "{}", terminal.shown());
    let stored = fs::read_to_string(user.file()).unwrap();
    assert!(stored.contains(&key) && stored.contains(api.url()));
    assert!(api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_is_removed_while_login_waits_for_the_key_stays_removed() {
    let installation = Installation::new("login-waits").await;
    let api = Api::start(&installation).await;
    let key = installation.key("org_1", "admin").await;
    let user = User::new(&[&key]);
    user.log_in(&[api.url()], &key).await;
    let mut terminal = Terminal::open();
    let mut child = user
        .command(&["login", api.url(), "--profile", "work"], &[])
        .stdin(terminal.end())
        .stdout(terminal.end())
        .stderr(terminal.end())
        .spawn()
        .unwrap();
    terminal.wait_for("API key (it is not shown): ").await;
    wait_until("a terminal without echo", SOON, || !terminal.has_echo()).await;
    user.run(0, &["logout"], &[], "").await;
    terminal.enter(&key);
    assert!(child.wait().await.unwrap().success(), "{}", terminal.shown());
    let (_, told) = user.run(2, &["logout"], &[], "").await;
    assert!(told.contains("which contains: work"), "{told}");
    assert!(api.role.terminate().await);
    installation.delete().await;
}
