//! The errors in the fields of a body that cannot be deserialized.
//!
//! A deserializer ends with the first error, so that the sender of a request with several would correct them one by
//! one. If it fails, the fields are therefore taken apart, and all errors are collected.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, MapAccess, Visitor},
    forward_to_deserialize_any,
};
use serde_json::value::RawValue;
use serde_path_to_error::Segment;

use super::{parse, plain, pointer, pointer_name};
use crate::problem::{FieldError, Kind, Problem};

/// The maximum number of errors that are reported for a body, which may contain thousands of unknown fields.
const ERRORS_MAX: usize = 20;

/// A body whose fields have rules besides their types.
pub(crate) trait Checked {
    /// Returns the errors in the values of the fields that can be found without looking anything up.
    fn errors(&self) -> Vec<FieldError> {
        Vec::new()
    }
}

/// The fields of an object, in their order.
struct Pairs(Vec<(String, Box<RawValue>)>);

/// A deserializer that only finds the names of a struct's fields, and always fails.
struct Names<'a>(&'a mut &'static [&'static str]);

/// The first error of a deserialization.
struct First {
    /// The top-level field that the error is in; `None` if it is not in one, for example because one is missing.
    field: Option<String>,
    error: FieldError,
}

/// Deserializes a body, which is an object. If that fails, the problem names all fields that are unknown, there more
/// than once, of the wrong type, or against a rule.
pub(super) fn parse_checked<T: DeserializeOwned + Checked>(body: &[u8]) -> Result<T, Problem> {
    if body.trim_ascii_start().starts_with(b"[") {
        // serde would take the items for the values of the fields, in their order.
        parse::<de::IgnoredAny>(body)?;
        return Err(Problem::field(
            String::new(),
            "invalid type: sequence, expected an object",
        ));
    }
    parse(body).map_err(|problem| {
        if problem.kind() != Kind::InvalidFields {
            return problem;
        }
        match serde_json::from_slice::<Pairs>(body) {
            Ok(Pairs(pairs)) => Problem::fields(errors::<T>(pairs)),
            Err(_) => problem,
        }
    })
}

/// Returns the errors of an object that is not a `T`, at least one.
fn errors<T: DeserializeOwned + Checked>(mut pairs: Vec<(String, Box<RawValue>)>) -> Vec<FieldError> {
    let mut errors = without_misplaced(&mut pairs, names::<T>());
    let mut is_complete = true;
    while errors.len() < ERRORS_MAX {
        match deserialized::<T>(&pairs) {
            Ok(value) => {
                errors.extend(value.errors());
                break;
            }
            Err(First {
                field: Some(field),
                error,
            }) => {
                errors.push(error);
                pairs.retain(|(name, _)| *name != field);
                is_complete = false;
            }
            Err(First { field: None, error }) => {
                // Otherwise, the field that is missing may be one that was taken out.
                if is_complete {
                    errors.push(error);
                }
                break;
            }
        }
    }
    errors.truncate(ERRORS_MAX);
    errors
}

/// Takes the fields out that are not among `names`, or that an earlier one has the same name as. Returns their
/// errors.
fn without_misplaced(
    pairs: &mut Vec<(String, Box<RawValue>)>,
    names: &'static [&'static str],
) -> Vec<FieldError> {
    let (mut errors, mut seen) = (Vec::new(), HashSet::new());
    pairs.retain(|(name, _)| {
        let known = names.iter().find(|known| **known == name.as_str());
        let detail = match known {
            Some(known) if seen.insert(*known) => return true,
            Some(known) => format!("duplicate field `{known}`"),
            None => <serde_json::Error as de::Error>::unknown_field(name, names).to_string(),
        };
        if errors.len() < ERRORS_MAX {
            errors.push(FieldError::at(format!("/{}", pointer_name(name)), detail));
        }
        false
    });
    errors
}

/// Deserializes an object with these fields.
fn deserialized<T: DeserializeOwned>(pairs: &[(String, Box<RawValue>)]) -> Result<T, First> {
    let name = |name: &String| serde_json::to_string(name).expect("a text is JSON");
    let fields = pairs
        .iter()
        .map(|(field, value)| format!("{}:{}", name(field), value.get()));
    let object = format!("{{{}}}", fields.collect::<Vec<_>>().join(","));
    let mut deserializer = serde_json::Deserializer::from_str(&object);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let field = match error.path().iter().next() {
            Some(Segment::Map { key }) => Some(key.clone()),
            _ => None,
        };
        let pointer = pointer(error.path());
        First {
            field,
            error: FieldError::at(pointer, plain(&error.into_inner())),
        }
    })
}

/// Returns the names of the fields of a struct.
fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // It fails after it has found the names.
    let _ = T::deserialize(Names(&mut names));
    names
}

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("only the names are wanted"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("this is not a struct with named fields"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shape {
        name: String,
        #[serde(default)]
        list: Vec<u8>,
        #[serde(default)]
        #[expect(dead_code, reason = "only whether it can be read")]
        count: u8,
    }

    impl Checked for Shape {
        fn errors(&self) -> Vec<FieldError> {
            let is_bad = self.name.is_empty() || self.list.len() > 1;
            is_bad
                .then(|| FieldError::at("/name", "bad"))
                .into_iter()
                .collect()
        }
    }

    /// Returns the pointers and the beginnings of the messages of all errors.
    fn errors(body: &str) -> Vec<String> {
        let problem = parse_checked::<Shape>(body.as_bytes()).unwrap_err();
        let problem: wire::Problem = serde_json::from_slice(&problem.body("r")).unwrap();
        let words = |text: &str| text.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let errors = problem.errors.iter();
        errors
            .map(|error| {
                format!(
                    "{} {}",
                    error.pointer.as_deref().unwrap_or_default(),
                    words(&error.detail)
                )
            })
            .collect()
    }

    #[test]
    fn all_errors_of_a_body_are_reported_at_once() {
        for (body, expected) in [
            ("{}", &[" missing field"][..]),
            (r#"{"nam":"x"}"#, &["/nam unknown field", " missing field"]),
            (
                r#"{"a/b":1,"name":"","name":"x","c":{}}"#,
                &[
                    "/a~1b unknown field",
                    "/name duplicate field",
                    "/c unknown field",
                    "/name bad",
                ],
            ),
            // The field that is taken out is not reported as missing.
            (
                r#"{"name":7,"list":[1,"x"],"count":-1,"more":null}"#,
                &[
                    "/more unknown field",
                    "/name invalid type:",
                    "/list/1 invalid type:",
                    "/count invalid value:",
                ],
            ),
            (r#"{"name":"x","more":1}"#, &["/more unknown field"]),
            ("[]", &[" invalid type:"]),
            (r#" ["x"]"#, &[" invalid type:"]),
        ] {
            assert_eq!(errors(body), expected, "{body}");
        }
    }

    #[test]
    fn the_number_of_errors_is_bounded_and_a_valid_body_has_none() {
        let many: Vec<_> = (0..1000).map(|number| format!(r#""{number}":1,"#)).collect();
        let many = many.concat();
        assert_eq!(errors(&format!(r#"{{{many}"name":7}}"#)).len(), ERRORS_MAX);
        let good: Shape = parse_checked(br#"{"name":"","list":[1,2]}"#).unwrap();
        // Only the handler reports errors of a body that can be deserialized.
        assert_eq!((good.name.as_str(), good.list), ("", vec![1, 2]));
    }

    #[test]
    fn an_unknown_field_is_told_like_the_deserializer_tells_it() {
        let body = br#"{"name":"x","nam":1}"#;
        let [ours, theirs] = [parse_checked::<Shape>(body), parse(body)].map(Result::unwrap_err);
        assert_eq!(ours.body("r"), theirs.body("r"));
    }
}
