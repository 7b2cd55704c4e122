//! Deserializes the top level of an event, without copying.

use std::{borrow::Cow, collections::HashSet, fmt};

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The maximum number of keys that are reported because they occur more than once. A body may contain thousands.
const DUPLICATES_MAX: usize = 8;
/// The number of characters of such a key that are reported.
const DUPLICATE_CHARS_MAX: usize = 64;

/// A JSON string, borrowed from the input if it has no escapes.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// The top-level fields as raw JSON.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) event: Option<&'a RawValue>,
    pub(super) timestamp: Option<&'a RawValue>,
    pub(super) organization_id: Option<&'a RawValue>,
    pub(super) project_id: Option<&'a RawValue>,
    pub(super) lead_id: Option<&'a RawValue>,
    pub(super) data: Option<&'a RawValue>,
    /// The beginnings of the keys that occur more than once, at most [`DUPLICATES_MAX`].
    pub(super) duplicates: Vec<String>,
}

impl<'a> Fields<'a> {
    fn known(&mut self, key: &str) -> Option<&mut Option<&'a RawValue>> {
        Some(match key {
            "event" => &mut self.event,
            "timestamp" => &mut self.timestamp,
            "organization_id" => &mut self.organization_id,
            "project_id" => &mut self.project_id,
            "lead_id" => &mut self.lead_id,
            "data" => &mut self.data,
            _ => return None,
        })
    }

    fn note_duplicate(&mut self, key: &str) {
        let beginning: String = key.chars().take(DUPLICATE_CHARS_MAX).collect();
        if self.duplicates.len() < DUPLICATES_MAX && !self.duplicates.contains(&beginning) {
            self.duplicates.push(beginning);
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                let mut unknown = HashSet::new();
                while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
                    let value = map.next_value::<&'de RawValue>()?;
                    let fresh = match fields.known(&key) {
                        Some(slot) => slot.replace(value).is_none(),
                        None => unknown.insert(key.clone()),
                    };
                    if !fresh {
                        fields.note_duplicate(&key);
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}
