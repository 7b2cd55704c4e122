//! Tests what is refused over the HTTP API: by the settings, by the API, or because a command is local.

use e2e::{Api, Installation, free_port};

use super::{Laptop, stderr};

impl Laptop {
    /// Panics unless a command is refused because an option names an API.
    async fn refused_by_option(&self, arguments: &[&str]) {
        let told = self
            .refused(2, &[arguments, &["--api", "http://127.0.0.1:9"]].concat())
            .await;
        let command = format!("`magnetite {}", arguments[0]);
        assert!(told.contains(&command), "{told}");
        assert!(told.contains("without --api"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_or_its_absence_refuses_is_told_in_one_line() {
    let installation = Installation::new("remote-refused").await;
    let api = Api::start(&installation).await;
    let reading = installation.key("org_1", "endpoints:read").await;
    let publishing = installation.key("org_1", "events:write").await;
    let unknown = format!("mgk_{}", "A".repeat(43));
    let away = format!("http://127.0.0.1:{}", free_port());
    for (url, key, code, words) in [
        (
            api.url(),
            publishing.as_str(),
            1,
            "The API key does not allow this (403)",
        ),
        (api.url(), &unknown, 1, "No valid API key (401)"),
        (api.url(), "", 2, "MAGNETITE_API_KEY is not set"),
        (
            api.url(),
            "mgk_hunter2",
            2,
            "MAGNETITE_API_KEY is not a valid API key",
        ),
        (
            &format!("{}/v1", api.url()),
            &reading,
            2,
            &format!("use {};", api.url()),
        ),
        (
            &api.url().replace("http:", "https:"),
            &reading,
            1,
            "does not speak TLS",
        ),
        (
            "localhost",
            &reading,
            2,
            "MAGNETITE_API_URL: the URL of the API is not valid",
        ),
        (&away, &reading, 1, "nothing listens at"),
    ] {
        let told = Laptop::new(url, key).refused(code, &["endpoint", "list"]).await;
        assert!(told.contains(words), "{told}");
        // People do not wait for several tries.
        assert!(!told.contains("tried"), "{told}");
    }
    let listed = Laptop::new(api.url(), &reading)
        .run(&["endpoint", "list", "--json"])
        .await;
    assert_eq!(listed.status.code(), Some(0), "{}", stderr(&listed));
    assert!(api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_needs_the_database_or_the_broker_says_so_and_the_others_run() {
    // No server is at this URL, and none is asked.
    let laptop = Laptop::new("http://127.0.0.1:9", "");
    for arguments in [
        &["up"][..],
        &["worker"],
        &["recorder"],
        &["api"],
        &["migrate"],
        &["health"],
    ] {
        let output = laptop.run(arguments).await;
        // The command reads the configuration, which is not valid, although a variable sets an API.
        assert_eq!(
            output.status.code(),
            Some(64),
            "{arguments:?}: {}",
            stderr(&output)
        );
        laptop.refused_by_option(arguments).await;
    }
    for arguments in [
        &["rejected", "list"][..],
        &["audit"],
        &["check", "http://127.0.0.1:9/", "--secret", "whsec_a"],
        &["topology"],
        &["retention", "confirm"],
        &["secrets", "reseal"],
        &["doctor"],
        &[
            "api-key",
            "create",
            "--platform",
            "--name",
            "n",
            "--scopes",
            "admin",
        ],
    ] {
        let told = laptop.refused(2, arguments).await;
        let command = format!("`magnetite {}", arguments[0]);
        assert!(told.contains(&command), "{told}");
        assert!(told.contains("unset MAGNETITE_API_URL"), "{told}");
        laptop.refused_by_option(arguments).await;
    }
    for arguments in [
        &["openapi"][..],
        &["completions", "bash"],
        &["secrets", "new-key"],
    ] {
        let output = laptop.run(arguments).await;
        assert!(
            output.status.success() && !output.stdout.is_empty(),
            "{arguments:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_in_the_environment_of_roles_ignores_the_variables_and_says_so() {
    let laptop = Laptop::new("http://127.0.0.1:9", "");
    let path = laptop.directory.path().join("magnetite.db");
    let path = path.display();
    let output = laptop
        .command(&["migrate"])
        .env_remove("MAGNETITE_BROKER__URL")
        .env("MAGNETITE_DATABASE__URL", format!("sqlite://{path}"))
        .env("MAGNETITE_PROFILE", "work")
        .output()
        .await
        .unwrap();
    let told = stderr(&output);
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("ignoring the variable") && told.contains("MAGNETITE_API_URL"),
        "{told}"
    );
    assert!(told.contains("a new, empty database"), "{told}");

    let output = laptop
        .command(&["health", "127.0.0.1:9"])
        .env_remove("MAGNETITE_BROKER__URL")
        .env("MAGNETITE_DATABASE__URL", format!("sqlite://{path}"))
        .output()
        .await
        .unwrap();
    let told = stderr(&output);
    assert!(told.contains("no role answers"), "{told}");
    assert!(!told.contains("ignoring the variable"), "{told}");
}
