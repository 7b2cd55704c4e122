//! The URL of the API.

use reqwest::Url;

use crate::build_error::BuildError;

/// What is wrong with a URL whose host is not valid.
pub(crate) const BAD_HOST: &str = "its host has characters that no host name has";

/// Parses the URL of the API. Its path is kept, and becomes the beginning of every path.
pub(crate) fn parse(text: &str) -> Result<Url, BuildError> {
    let bad = |reason: &str| BuildError::Url {
        reason: reason.to_owned(),
    };
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !is_http(&url) {
        return Err(bad("its scheme is neither https nor http"));
    }
    if !has_valid_host(&url) {
        return Err(bad(BAD_HOST));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("it contains a user or a password"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("it contains a query or a fragment"));
    }
    if let Some(right) = without_version(&url) {
        return Err(bad(&format!(
            "it ends with /v1, which the client adds itself: use {right}"
        )));
    }
    Ok(url)
}

/// Returns the URL without the version of the API, with which every path begins; `None` if it does not end with it.
fn without_version(url: &Url) -> Option<String> {
    let path = url.path().trim_end_matches('/').strip_suffix("/v1")?;
    let mut right = url.clone();
    right.set_path(path);
    Some(right.as_str().trim_end_matches('/').to_owned())
}

/// Returns whether requests can be sent to this URL, which then has a host.
pub(crate) fn is_http(url: &Url) -> bool {
    matches!(url.scheme(), "https" | "http")
}

/// Returns whether the host has only the characters of names and addresses. The parser of URLs accepts others,
/// such as the braces of a template that was not filled in. No request can be sent to such a host.
pub(crate) fn has_valid_host(url: &Url) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    url.host_str().is_some_and(|host| host.bytes().all(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_kept() {
        for good in [
            "https://api.example",
            "http://127.0.0.1:8420/",
            "https://api.example:8443/webhooks/",
            "http://[::1]:8420/a/b",
        ] {
            let url = parse(good).unwrap();
            assert_eq!(url.as_str().trim_end_matches('/'), good.trim_end_matches('/'));
        }
    }

    #[test]
    fn a_url_with_the_version_of_the_api_is_refused_with_the_right_one() {
        for (bad, right) in [
            ("https://api.example/v1", "https://api.example;"),
            ("http://127.0.0.1:8420/v1/", "http://127.0.0.1:8420;"),
            (
                "https://api.example/webhooks/v1//",
                "https://api.example/webhooks;",
            ),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("use {right}")), "{error}");
        }
        for good in [
            "https://v1.example",
            "https://api.example/v12",
            "https://api.example/v1/hooks",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn another_url_is_refused_and_not_quoted() {
        for (bad, reason) in [
            ("", "relative URL without a base"),
            ("api.example", "relative URL without a base"),
            ("api.example:8420", "neither https nor http"),
            ("ftp://api.example", "neither https nor http"),
            ("https://", "empty host"),
            ("https://{{host}}/hunter2", "characters that no host name has"),
            ("https://api.example:hunter2", "invalid port number"),
            ("https://me:hunter2@api.example", "a user or a password"),
            ("https://hunter2@api.example", "a user or a password"),
            ("https://api.example/?key=hunter2", "a query or a fragment"),
            ("https://api.example/#hunter2", "a query or a fragment"),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(reason), "{bad}: {error}");
            assert!(!error.contains("hunter2"), "{bad}: {error}");
        }
    }
}
