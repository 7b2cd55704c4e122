use clap::{Command, CommandFactory as _};

use super::*;

/// Collects the help texts of this command and all its subcommands, by their names.
fn helps(command: &mut Command, path: &str, into: &mut Vec<(String, String)>) {
    let path = format!("{path}{}", command.get_name());
    into.push((path.clone(), command.render_long_help().to_string()));
    for below in command
        .get_subcommands_mut()
        .filter(|below| below.get_name() != "help")
    {
        helps(below, &format!("{path}_"), into);
    }
}

#[test]
fn the_help_of_every_command() {
    let mut command = Arguments::command();
    command.build();
    let mut found = Vec::new();
    helps(&mut command, "", &mut found);
    assert_eq!(found.len(), 58, "a new command needs a new snapshot");
    for (path, help) in found {
        insta::assert_snapshot!(path, help);
    }
}

fn exit_of(arguments: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(arguments.split(' '))
}

#[test]
fn what_is_accepted() {
    for arguments in [
        "magnetite up --config m.toml",
        "magnetite --config m.toml worker",
        "magnetite api --config m.toml",
        "magnetite openapi",
        "magnetite config --json",
        "magnetite health",
        "magnetite completions zsh",
        "magnetite man pages",
        "magnetite endpoint delete ep_1 --yes",
        "magnetite publish",
        "magnetite publish events.jsonl --from-line 7 --json",
        "magnetite publish --event lead.completed --org o --project p --lead l",
        "magnetite publish --event lead.completed --org o --project p --lead l --data {} --timestamp 1 --id e",
        "magnetite endpoint create --org o --url https://e.example/ --events lead.completed,research.*",
        "magnetite endpoint list --json",
        "magnetite endpoint update ep_1 --no-project",
        "magnetite endpoint recover ep_1 --since 8h --until 2026-11-25T01:00:00Z --state missed --rate 0.5/s --dry-run",
        "magnetite api-key create --org o --name n --scopes events:write,endpoints:read --expires-in 90d --json",
        "magnetite api-key create --platform --name n --scopes admin",
        "magnetite api-key list --org o",
        "magnetite api-key revoke key_1",
        "magnetite changes --org o --limit 5 --json",
        "magnetite event list --org o --project p --lead l --type lead.completed --state dead --since 1h --limit 5 --json",
        "magnetite event show evt_1 --org o --body --json",
        "magnetite event tail --org o --type lead.completed --endpoint ep_1 --outcome retry --json",
        "magnetite endpoint list --failing --org o --json",
        "magnetite status --watch --since 24h --json",
        "magnetite delivery list --org o --endpoint ep_1 --event evt_1 --state pending --since 7d --until 1d",
        "magnetite delivery resend dlv_1 dlv_2",
        "magnetite rejected list --all --json",
        "magnetite rejected redrive rej_1 --again",
        "magnetite retention confirm",
        "magnetite audit --since 2026-11-25 --json",
        "magnetite listen --secret whsec_a --secret whsec_b --fail 500,hang,drop,ok,410 --fail-each --count 3",
        "magnetite listen --api http://a.example --events lead.completed,research.* --project p --json",
        "magnetite check https://e.example/ --secret whsec_a --allow 10.0.0.0/8,::1/128 --json",
        "magnetite topology check --json",
        "magnetite topology --json",
        "magnetite doctor --json",
        "magnetite --api https://api.example changes --organization org_1",
        "magnetite changes --org org_1 --api https://api.example",
        "magnetite login",
        "magnetite login https://api.example --profile work --organization org_1",
        "magnetite logout --profile work",
        "magnetite --profile work endpoint list",
    ] {
        assert!(
            exit_of(arguments).is_ok(),
            "{arguments}: {}",
            exit_of(arguments).unwrap_err()
        );
    }
}

#[test]
fn what_is_refused_as_usage() {
    for arguments in [
        "magnetite",
        "magnetite endpoint",
        "magnetite publish --event lead.completed --org o --project p",
        "magnetite publish --event lead.melted --org o --project p --lead l",
        "magnetite publish events.jsonl --event lead.completed --org o --project p --lead l",
        "magnetite publish --org o",
        "magnetite publish --from-line 0",
        "magnetite endpoint create --org o --url https://e.example/ --events lead.melted",
        "magnetite endpoint update ep_1",
        "magnetite endpoint update ep_1 --project p --no-project",
        "magnetite endpoint recover ep_1",
        "magnetite endpoint recover ep_1 --since yesterday",
        "magnetite endpoint recover ep_1 --since 1h --rate 0/s",
        "magnetite api-key",
        "magnetite api-key create --org o --name n",
        "magnetite api-key create --name n --scopes admin",
        "magnetite api-key create --platform --org o --name n --scopes admin",
        "magnetite api-key create --org= --name n --scopes admin",
        "magnetite api-key list --org=",
        "magnetite changes --org=",
        "magnetite endpoint create --org= --url https://e.example/",
        "magnetite endpoint list --org=",
        "magnetite event list --org=",
        "magnetite event show evt_1 --org=",
        "magnetite delivery list --org=",
        "magnetite api-key create --org o --name n --scopes events:read",
        "magnetite api-key create --org o --name n --scopes admin --expires-in never",
        "magnetite changes --limit 0",
        "magnetite event list --state melted",
        "magnetite event list --limit 0",
        "magnetite event tail --outcome melted",
        "magnetite status --since yesterday",
        "magnetite delivery resend",
        "magnetite rejected show rej_1 --body --json",
        "magnetite audit --since 1795571999",
        "magnetite check --secret whsec_a",
        "magnetite check https://e.example/ --secret whsec_a --allow localhost",
        "magnetite listen --secret whsec_a --fail 99",
        "magnetite listen --secret whsec_a --fail-each",
        "magnetite listen --secret whsec_a --count 0",
        "magnetite listen --api http://a.example --events lead.melted",
        "magnetite listen --api http://a.example --project=",
        "magnetite logout https://api.example",
        "magnetite endpoint list --profile=",
    ] {
        assert_eq!(
            exit_of(arguments).expect_err(arguments).exit_code(),
            2,
            "{arguments}"
        );
    }
}

#[tokio::test]
async fn a_configuration_is_refused_by_a_command_that_reads_none() {
    for arguments in [
        "magnetite validate --config m.toml",
        "magnetite --config m.toml openapi",
        "magnetite listen --config m.toml --secret whsec_a",
        "magnetite secrets new-key --config m.toml",
        "magnetite --config m.toml logout",
    ] {
        let refused = Box::pin(run(exit_of(arguments).unwrap())).await.unwrap_err();
        assert!(refused.is::<crate::Usage>(), "{arguments}: {refused:#}");
        assert!(refused.to_string().contains("leave out --config"), "{refused}");
    }
}

#[test]
fn a_command_that_reads_no_configuration_does_not_offer_one() {
    let mut command = Arguments::command();
    command.build();
    for name in [
        "validate",
        "listen",
        "trigger",
        "openapi",
        "logout",
        "completions",
        "man",
    ] {
        let of_command = command.find_subcommand_mut(name).expect(name);
        let help = of_command.render_long_help().to_string();
        assert!(!help.contains("--config"), "{help}");
    }
}

#[test]
fn only_a_platform_key_is_created_on_the_database() {
    let needed = |arguments| needs(&exit_of(arguments).unwrap().command).map(|(name, _)| name);
    assert_eq!(
        needed("magnetite api-key create --platform --name n --scopes admin"),
        Some("api-key create --platform")
    );
    assert_eq!(
        needed("magnetite api-key create --org o --name n --scopes admin"),
        None
    );
}

#[test]
fn a_variable_chooses_no_api_for_a_role_and_what_runs_beside_it() {
    for (command, expected) in [
        ("up", Chooser::Options),
        ("worker", Chooser::Options),
        ("recorder", Chooser::Options),
        ("api", Chooser::Options),
        ("migrate", Chooser::Options),
        ("health", Chooser::Options),
        ("doctor", Chooser::Variables),
        ("audit", Chooser::Variables),
        (
            "api-key create --platform --name n --scopes admin",
            Chooser::Variables,
        ),
    ] {
        let arguments = exit_of(&format!("magnetite {command}")).unwrap();
        assert_eq!(chooser(&arguments.command, None), expected, "{command}");
    }
}

#[test]
fn a_secret_is_not_quoted_in_an_error() {
    let error = exit_of("magnetite listen --secret whsec_hunter2 --fail-each").unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
}
