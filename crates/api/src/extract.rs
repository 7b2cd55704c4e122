//! Extractors for the parts of a request. Each rejection is a [`Problem`] that names the invalid part.

mod fields;
mod if_match;

use std::{fmt::Display, str::FromStr};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use crate::problem::{Kind, Problem};

pub(crate) use fields::Checked;
use fields::parse_checked;
pub(crate) use if_match::{IfMatch, etag};

/// The bytes of a body that is declared to be JSON.
pub(crate) struct JsonBytes(pub(crate) Bytes);

/// The deserialized body.
pub(crate) struct JsonBody<T>(pub(crate) T);

/// The deserialized body. An empty body is read as `{}`.
pub(crate) struct OptionalJson<T>(pub(crate) T);

/// The parameters of the query. Unknown parameters are refused, because their sender expects them to have an
/// effect.
pub(crate) struct Query<T>(pub(crate) T);

/// The id in the path: 1 to 128 characters of `[A-Za-z0-9_-]`. Any other id is answered with 404, because no
/// object has such an id.
pub(crate) struct Id(pub(crate) String);

const JSON: [&str; 2] = ["application/json", "application/merge-patch+json"];
const ID_CHARS_MAX: usize = 128;

impl<S: Send + Sync> FromRequest<S> for JsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        says_json(request.headers())?;
        read(request, state).await.map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Checked> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let JsonBytes(body) = JsonBytes::from_request(request, state).await?;
        parse_checked(&body).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Checked> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let said = says_json(request.headers());
        let body = read(request, state).await?;
        if body.is_empty() {
            return parse_checked(b"{}").map(Self);
        }
        said?;
        parse_checked(&body).map(Self)
    }
}

fn says_json(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = given
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    if JSON.iter().any(|json| essence.trim().eq_ignore_ascii_case(json)) {
        return Ok(());
    }
    Err(Problem::new(
        Kind::UnsupportedMediaType,
        "Send JSON, and the header Content-Type: application/json.",
    ))
}

/// Returns the body, which [`receive`](crate::body::receive) has read.
async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    let body = Bytes::from_request(request, state).await;
    body.map_err(|rejection| Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR).because(&rejection))
}

/// Deserializes a body. Text that is not JSON is a malformed request; JSON of another shape is an invalid
/// field.
pub(crate) fn parse<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed: T = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer(error.path());
        let error = error.into_inner();
        if error.is_data() {
            Problem::field(pointer, plain(&error))
        } else {
            not_json(&error)
        }
    })?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(parsed)
}

pub(crate) fn not_json(error: &serde_json::Error) -> Problem {
    Problem::new(Kind::MalformedRequest, format!("The body is not JSON: {error}."))
}

/// Returns the parser's message without the position, which the pointer already gives.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Formats a path as a JSON Pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        let name = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => pointer_name(key),
            Segment::Enum { .. } | Segment::Unknown => continue,
        };
        pointer.push('/');
        pointer.push_str(&name);
    }
    pointer
}

/// Escapes a name for a JSON Pointer.
pub(crate) fn pointer_name(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::try_from_uri(&parts.uri);
        let axum::extract::Query(query) = query.map_err(|rejection| {
            let text = rejection.body_text();
            not_understood(text.trim_start_matches("Failed to deserialize query string: "))
        })?;
        Ok(Self(query))
    }
}

/// Returns the problem for a query that cannot be deserialized. The deserializer's message begins with the name of
/// the parameter, unless a parameter is missing.
fn not_understood(text: &str) -> Problem {
    let Some((name, error)) = text.split_once(": ") else {
        let detail = format!("The query is not understood: {text}.");
        return Problem::new(Kind::MalformedRequest, detail);
    };
    let expected = match error {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "expected an integer that is not negative"
        }
        "number too large to fit in target type" => "expected a smaller integer",
        "provided string was not `true` or `false`" => "expected true or false",
        other => other,
    };
    Problem::parameter(name, expected)
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let nothing = || Problem::of_status(StatusCode::NOT_FOUND);
        let Path(id) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| nothing())?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if (1..=ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(allowed) {
            Ok(Self(id))
        } else {
            Err(nothing())
        }
    }
}

/// Parses the text of a parameter, if it is present.
///
/// # Errors
/// Returns an error if the text cannot be parsed.
pub(crate) fn parameter<T: FromStr<Err: Display>>(
    name: &'static str,
    text: Option<&str>,
) -> Result<Option<T>, Problem> {
    let parsed = text.map(str::parse).transpose();
    parsed.map_err(|error: T::Err| Problem::parameter(name, error.to_string()))
}

/// Deserializes a field that may be absent but not null.
pub(crate) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_told_from_json_of_another_shape() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Shape {
            #[expect(dead_code, reason = "only whether it can be read")]
            list: Vec<u8>,
        }
        let kind = |body: &str| parse::<Shape>(body.as_bytes()).unwrap_err();
        for body in ["", "{", "{\"list\":[1]} {}", "nonsense"] {
            assert_eq!(kind(body).kind(), Kind::MalformedRequest, "{body}");
        }
        for (body, pointer) in [
            ("{\"list\":[1,\"2\"]}", "/list/1"),
            ("{\"list\":[],\"a/b\":1}", "/a~1b"),
            ("{}", ""),
            ("[]", ""),
        ] {
            let problem = kind(body);
            assert_eq!(problem.kind(), Kind::InvalidFields, "{body}");
            let said: serde_json::Value = serde_json::from_slice(&problem.body("r")).unwrap();
            assert_eq!(said["errors"][0]["pointer"], pointer, "{body}: {said}");
        }
    }
}
