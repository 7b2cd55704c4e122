use super::*;

fn problem(name: &str, errors: Vec<FieldError>) -> Problem {
    Problem {
        kind: format!("{}{name}", Problem::KINDS),
        title: "T".to_owned(),
        status: 400,
        detail: "Omit the header X, and send the request\n again.".to_owned(),
        instance: "req_1".to_owned(),
        errors,
    }
}

#[test]
fn the_advice_depends_on_the_kind_of_the_problem_and_is_for_the_command_line() {
    for (name, words) in [
        ("malformed-request", "versions"),
        ("method-not-allowed", "versions"),
        ("unsupported-media-type", "versions"),
        ("invalid-fields", "--organization or MAGNETITE_ORGANIZATION"),
        ("other-organization", "name none (--org, --organization,"),
        ("not-found", "a `list` command"),
        ("version-mismatch", "run the command again"),
        ("body-timeout", "run the command again"),
        ("too-large", "send less"),
        ("rate-limited", "too many requests"),
        ("internal-error", "tell the operator"),
    ] {
        let problem = problem(name, Vec::new());
        let told = advice(&problem, name == "invalid-fields").unwrap();
        assert!(told.contains(words), "{name}: {told}");
        for word in ["header", "the request again", "`errors`"] {
            assert!(!told.contains(word), "{name}: {told}");
        }
    }
    // What these need depends on the object, and the API does not speak of requests there.
    for name in [
        "unauthorized",
        "insufficient-scope",
        "conflict",
        "too-many-endpoints",
        "a-later-one",
    ] {
        let problem = problem(name, Vec::new());
        let told = advice(&problem, false).unwrap();
        assert_eq!(told, "Omit the header X, and send the request\\n again");
    }
    for name in [
        "broker-unavailable",
        "database-unavailable",
        "overloaded",
        "timed-out",
    ] {
        assert_eq!(advice(&problem(name, Vec::new()), false), None);
    }
}

#[test]
fn what_is_not_valid_is_named_without_advice_about_the_request() {
    let url = FieldError::at("/url", "the URL has\u{1b}[2J no host");
    assert_eq!(part(&url), "url: the URL has\\u{1b}[2J no host");
    assert_eq!(
        part(&FieldError::of_parameter("limit", "too high")),
        "limit: too high"
    );
    assert_eq!(part(&FieldError::at("", "no object")), "no object");
    assert_eq!(advice(&problem("invalid-fields", vec![url.clone()]), false), None);
    assert_eq!(advice(&problem("malformed-request", vec![url]), false), None);
}
