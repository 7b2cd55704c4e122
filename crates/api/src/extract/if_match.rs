//! Conditional writes: the header If-Match (RFC 9110 section 13.1.1).

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};

use crate::problem::Problem;

/// The header If-Match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// The header is absent: any version may be written.
    Absent,
    /// `*`: any version may be written, but the object must exist.
    Any,
    /// Only these versions may be written.
    Tags(Vec<String>),
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let expected = || {
            Problem::parameter(
                "If-Match",
                "expected an ETag from an earlier response, such as \"17\", or *",
            )
        };
        let mut tags = Vec::new();
        for value in parts.headers.get_all(header::IF_MATCH) {
            let value = value.to_str().map_err(|_| expected())?.trim();
            if value == "*" {
                return Ok(Self::Any);
            }
            for tag in value.split(',').map(str::trim) {
                if !is_tag(tag) {
                    return Err(expected());
                }
                tags.push(tag.to_owned());
            }
        }
        Ok(if tags.is_empty() {
            Self::Absent
        } else {
            Self::Tags(tags)
        })
    }
}

/// Returns whether this is a quoted text, weak or strong. None of this API's tags contains a comma.
fn is_tag(tag: &str) -> bool {
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    let inside = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
    inside.is_some_and(|inside| !inside.contains('"'))
}

/// Returns the entity tag of a version.
pub(crate) fn etag(version: i64) -> String {
    format!("\"{version}\"")
}

impl IfMatch {
    /// Returns the version to require when writing; `None` if any version may be written. `version` is the
    /// present version.
    ///
    /// # Errors
    /// Returns an error if the header names other versions only. Weak tags never match (RFC 9110 section
    /// 13.1.1).
    pub(crate) fn expect(&self, version: i64) -> Result<Option<i64>, Problem> {
        match self {
            Self::Absent | Self::Any => Ok(None),
            Self::Tags(tags) if tags.contains(&etag(version)) => Ok(Some(version)),
            Self::Tags(_) => Err(Problem::version_mismatch()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn if_match(values: &[&str]) -> Result<IfMatch, Problem> {
        let mut request = axum::http::Request::new(());
        for value in values {
            request
                .headers_mut()
                .append(header::IF_MATCH, value.parse().unwrap());
        }
        let (mut parts, ()) = request.into_parts();
        IfMatch::from_request_parts(&mut parts, &()).await
    }

    #[tokio::test]
    async fn an_etag_is_expected_as_it_was_answered() {
        assert_eq!(if_match(&[]).await.unwrap(), IfMatch::Absent);
        assert_eq!(if_match(&["*"]).await.unwrap(), IfMatch::Any);
        let tags = if_match(&["\"7\", \"8\"", "\"9\""]).await.unwrap();
        for version in 7..=9 {
            assert_eq!(tags.expect(version).unwrap(), Some(version));
        }
        assert!(tags.expect(10).is_err());
        assert!(if_match(&["W/\"7\""]).await.unwrap().expect(7).is_err());
        for bad in ["", "7", "\"7", "\"7\";\"8\"", "\"\"\""] {
            assert!(if_match(&[bad]).await.is_err(), "{bad}");
        }
    }
}
