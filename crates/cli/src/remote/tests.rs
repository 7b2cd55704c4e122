use tempfile::TempDir;

use super::*;
use crate::profiles::Profile;

const KEY: &str = "mgk_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";

fn options(api: Option<&str>, profile: Option<&str>, organization: Option<&str>) -> Options {
    Options {
        api: api.map(str::to_owned),
        profile: profile.map(str::to_owned),
        organization: organization.map(str::to_owned),
    }
}

fn found_in(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
    move |name| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| OsString::from(value))
    }
}

fn chosen(
    api: Option<&str>,
    organization: Option<&str>,
    variables: &[(&str, &str)],
) -> anyhow::Result<Option<Remote>> {
    Remote::chosen(
        &options(api, None, organization),
        Chooser::DefaultProfile,
        found_in(variables),
    )
}

/// Returns a home directory with the profiles `default` and `work`. The latter has an organization.
fn home() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let mut profiles = Profiles::load(found_in(&[("HOME", home.path().to_str().unwrap())])).unwrap();
    for (name, organization) in [(profiles::DEFAULT, None), ("work", Some("org_3".to_owned()))] {
        let profile = Profile {
            url: format!("https://{name}.example/x"),
            key: KEY.to_owned(),
            organization,
        };
        profiles.insert(name, profile).unwrap();
    }
    home
}

#[test]
fn the_organization_that_a_command_names_precedes_the_one_that_is_set() {
    let named = || Some(OrganizationId::new("org_2"));
    for (set, named, expected) in [
        (Some("org_1"), named(), "\"org_2\""),
        (Some("org_1"), None, "\"org_1\""),
        (None, named(), "None"),
    ] {
        let remote = chosen(Some("http://a.example"), set, &[(API_KEY, KEY)]);
        let client = remote.unwrap().unwrap().client_for(named).unwrap();
        let shown = format!("{client:?}");
        assert!(shown.contains(expected), "{shown}");
    }
}

fn error(api: &str, variables: &[(&str, &str)]) -> String {
    let remote = chosen(Some(api), None, variables).unwrap().unwrap();
    let error = remote.client().unwrap_err();
    assert!(error.is::<Usage>(), "{error}");
    error.to_string()
}

#[test]
fn the_option_precedes_the_variable_and_an_empty_variable_is_none() {
    let of_variable = [(API_URL, "http://b.example"), (API_KEY, KEY)];
    for (option, variables, origin) in [
        (None, &[][..], None),
        (None, &[(API_URL, "")], None),
        (None, &[(API_KEY, KEY), (ORGANIZATION, "org_1")], None),
        (None, &of_variable, Some("http://b.example")),
        (
            Some("https://a.example/x"),
            &of_variable,
            Some("https://a.example"),
        ),
    ] {
        let remote = chosen(option, None, variables).unwrap();
        let found = remote.map(|remote| remote.origin());
        assert_eq!(found.as_deref(), origin);
    }
}

#[test]
fn an_api_is_chosen_by_an_option_then_a_variable_then_the_default_profile() {
    let home = home();
    let home = ("HOME", home.path().to_str().unwrap());
    let url = (API_URL, "https://variable.example");
    let profile = (PROFILE, "work");
    let [by_option, by_variable, by_default] =
        [Chooser::Options, Chooser::Variables, Chooser::DefaultProfile];
    for (api, named, chooser, variables, origin) in [
        (
            Some("https://option.example"),
            None,
            by_option,
            &[home, url, profile][..],
            Some("https://option.example"),
        ),
        (
            None,
            Some("work"),
            by_default,
            &[home, url],
            Some("https://work.example"),
        ),
        (
            None,
            None,
            by_default,
            &[home, url, profile],
            Some("https://variable.example"),
        ),
        (
            None,
            None,
            by_variable,
            &[home, profile],
            Some("https://work.example"),
        ),
        (None, None, by_option, &[home, url, profile], None),
        (None, None, by_default, &[home], Some("https://default.example")),
        (None, None, by_variable, &[home], None),
        (None, None, by_default, &[], None),
    ] {
        let options = options(api, named, None);
        let remote = Remote::chosen(&options, chooser, found_in(variables)).unwrap();
        let found = remote.map(|remote| remote.origin());
        assert_eq!(found.as_deref(), origin);
    }
    assert_eq!(choosing_variable(found_in(&[home, url, profile])), Some(API_URL));
    assert_eq!(choosing_variable(found_in(&[home, profile])), Some(PROFILE));
    assert_eq!(choosing_variable(found_in(&[home, (API_URL, "")])), None);
    let both = options(Some("https://option.example"), Some("work"), None);
    assert!(Remote::chosen(&both, by_default, found_in(&[home])).is_err());
    let unknown = Remote::chosen(&options(None, Some("home"), None), by_default, found_in(&[home]));
    let unknown = unknown.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(unknown.contains("contains: default, work"), "{unknown}");
}

#[test]
fn the_key_of_a_profile_is_used_only_at_its_url_and_no_other_key_is_used_there() {
    let home = home();
    let home = ("HOME", home.path().to_str().unwrap());
    let other_key = (API_KEY, "mgk_hunter2");
    let of_url = Remote::chosen(
        &options(Some("https://work.example/x"), None, None),
        Chooser::DefaultProfile,
        found_in(&[home]),
    );
    assert!(of_url.unwrap().unwrap().key.is_none());
    for name in [profiles::DEFAULT, "work"] {
        let options = options(None, Some(name), None);
        let remote = Remote::chosen(&options, Chooser::DefaultProfile, found_in(&[home, other_key]));
        assert_eq!(remote.unwrap().unwrap().key.unwrap().value, KEY);
    }
}

#[test]
fn the_organization_is_that_of_the_option_or_the_variable_or_the_profile() {
    let home = home();
    let home = ("HOME", home.path().to_str().unwrap());
    let variable = (ORGANIZATION, "org_2");
    for (option, variables, expected) in [
        (None, &[home][..], "org_3"),
        (None, &[home, variable], "org_2"),
        (Some("org_1"), &[home, variable], "org_1"),
    ] {
        let options = options(None, Some("work"), option);
        let remote = Remote::chosen(&options, Chooser::DefaultProfile, found_in(variables)).unwrap();
        let organization = remote.unwrap().organization.unwrap();
        assert_eq!(organization.value, OrganizationId::new(expected));
    }
    assert!(chosen(None, Some("org_1"), &[]).is_err());
    assert!(chosen(Some("http://a.example"), Some("a\nb"), &[]).is_err());
    assert!(chosen(Some("http://a.example"), None, &[(ORGANIZATION, "a\tb")]).is_err());
}

#[test]
fn a_missing_or_malformed_setting_is_named_and_a_key_is_not_quoted() {
    let missing = error("http://a.example", &[]);
    assert!(
        missing.contains(API_KEY) && missing.contains("api-key create"),
        "{missing}"
    );
    let malformed = error("http://a.example", &[(API_KEY, "hunter2")]);
    assert!(
        malformed.contains(API_KEY) && !malformed.contains("hunter2"),
        "{malformed}"
    );
    let url = error("https://me:hunter2@a.example", &[(API_KEY, KEY)]);
    assert!(url.starts_with("--api: ") && !url.contains("hunter2"), "{url}");
}

#[test]
fn a_refusal_says_how_to_leave_the_api() {
    let home = home();
    let home = ("HOME", home.path().to_str().unwrap());
    let refusal = |api, profile, variables: &[_]| {
        let remote = Remote::chosen(
            &options(api, profile, None),
            Chooser::DefaultProfile,
            found_in(variables),
        );
        let remote = remote.unwrap().unwrap();
        remote.refusal("migrate", "the database").to_string()
    };
    let by_option = refusal(Some("http://a.example"), None, &[]);
    assert!(
        by_option.contains("`magnetite migrate` needs the database"),
        "{by_option}"
    );
    for (refused, remedy) in [
        (by_option, "without --api"),
        (
            refusal(None, None, &[(API_URL, "http://a.example")]),
            "of the installation, and unset MAGNETITE_API_URL there",
        ),
        (refusal(None, Some("work"), &[home]), "without --profile"),
        (
            refusal(None, None, &[home, (PROFILE, "work")]),
            "of the installation, and unset MAGNETITE_PROFILE there",
        ),
        (refusal(None, None, &[home]), "with its configuration"),
    ] {
        assert!(refused.ends_with(remedy), "{refused}");
    }
}

#[test]
fn the_settings_name_their_places_and_show_neither_a_key_nor_a_password() {
    let home = home();
    let home = ("HOME", home.path().to_str().unwrap());
    let remote = Remote::chosen(
        &options(None, None, Some("org_1")),
        Chooser::DefaultProfile,
        found_in(&[home]),
    );
    let remote = remote.unwrap().unwrap();
    let of_profile = format!("profile default ({}/.config/magnetite/profiles.toml)", home.1);
    let expected = [
        ("url", "https://default.example/x", of_profile.as_str()),
        ("key", "mgk_BwcHBw…", of_profile.as_str()),
        ("organization", "org_1", "--organization"),
    ];
    let settings = remote.settings();
    let found = settings
        .iter()
        .map(|(name, value, place)| (*name, value.as_str(), *place));
    assert_eq!(found.collect::<Vec<_>>(), expected);
    let url = "https://me:hunter2@a.example";
    let remote = chosen(Some(url), None, &[(API_KEY, "hunter2")]).unwrap().unwrap();
    for (_, value, _) in remote.settings() {
        assert_eq!(value, "***");
    }
}

#[test]
fn login_and_logout_change_the_profile_that_is_named() {
    let target = |profile, variables: &[_]| {
        let target = options(None, profile, None).target(found_in(variables));
        target.unwrap().profile
    };
    assert_eq!(target(None, &[]), "default");
    assert_eq!(target(None, &[(PROFILE, "work")]), "work");
    assert_eq!(target(Some("home"), &[(PROFILE, "work")]), "home");
    let refused = options(Some("http://a.example"), None, None).target(found_in(&[]));
    assert!(refused.is_err());
}

#[test]
fn a_profile_that_commands_do_not_use_is_stored_with_the_reason() {
    let file = Place::File("/x/magnetite.toml".into());
    let setting = Place::Variable("MAGNETITE_EGRESS__ALLOW".to_owned());
    let url = (API_URL, "http://a.example");
    for (profile, given_by, variables, words) in [
        (None, None, &[][..], &[][..]),
        (None, Some(&setting), &[(PROFILE, "default")], &[]),
        (Some("work"), Some(&file), &[(PROFILE, "work")], &[]),
        (
            None,
            Some(&file),
            &[],
            &["the file /x/magnetite.toml", "`--profile default`"],
        ),
        (
            None,
            Some(&setting),
            &[],
            &["MAGNETITE_EGRESS__ALLOW is set", "set MAGNETITE_PROFILE=default"],
        ),
        (
            Some("work"),
            None,
            &[],
            &["only the profile default", "`--profile work`"],
        ),
        (
            Some("default"),
            None,
            &[(PROFILE, "work")],
            &["names the profile work", "`--profile default`"],
        ),
        (
            None,
            None,
            &[url, (PROFILE, "default")],
            &[
                "MAGNETITE_API_URL is set",
                "unset MAGNETITE_API_URL and set MAGNETITE_PROFILE=default",
            ],
        ),
    ] {
        let target = options(None, profile, None).target(found_in(variables)).unwrap();
        let told = target.unused(given_by, found_in(variables));
        assert_eq!(told.is_some(), !words.is_empty(), "{told:?}");
        let told = told.unwrap_or_default();
        assert!(words.iter().all(|words| told.contains(words)), "{told}");
    }
}

#[test]
fn the_default_profile_names_what_precedes_it() {
    let home = home();
    let home = ("HOME", home.path().to_str().unwrap());
    let profile = Remote::of_default_profile(found_in(&[home])).unwrap();
    let told = profile.unused(&Place::Variable("MAGNETITE_EGRESS__ALLOW".to_owned()));
    for words in [
        "https://default.example",
        "`--profile default`, or unset MAGNETITE_EGRESS__ALLOW",
    ] {
        assert!(told.contains(words), "{told}");
    }
    let told = profile.unused(&Place::File("magnetite.toml".into()));
    assert!(
        told.contains("the file magnetite.toml") && told.ends_with("`--profile default`"),
        "{told}"
    );
    assert!(Remote::of_default_profile(found_in(&[])).is_none());
}
