//! Adapts utoipa's schemas to OpenAPI 3.1.

use serde_json::{Value, json};

/// The form of ids in paths. Other ids are answered as not found.
const ID_PATTERN: &str = "^[A-Za-z0-9_-]{1,128}$";

/// Converts examples to the form of JSON Schema, and replaces copies of a named schema by references to it.
pub(super) fn tidy(schemas: &mut Value) {
    let schemas = schemas.as_object_mut().expect("there are schemas");
    schemas.values_mut().for_each(examples);
    let known: Vec<_> = schemas
        .iter()
        .map(|(name, schema)| {
            (
                schema.clone(),
                json!({ "$ref": format!("#/components/schemas/{name}") }),
            )
        })
        .collect();
    for schema in schemas.values_mut() {
        children(schema).for_each(|child| refer(child, &known));
    }
}

fn examples(schema: &mut Value) {
    if let Some(fields) = schema.as_object_mut()
        && let Some(example) = fields.remove("example")
    {
        fields.insert("examples".to_owned(), json!([example]));
    }
    children(schema).for_each(examples);
}

fn refer(schema: &mut Value, known: &[(Value, Value)]) {
    match known.iter().find(|(known, _)| known == schema) {
        Some((_, reference)) => *schema = reference.clone(),
        None => children(schema).for_each(|child| refer(child, known)),
    }
}

/// Returns the direct subschemas of a schema.
fn children(schema: &mut Value) -> impl Iterator<Item = &mut Value> {
    let fields = schema.as_object_mut().into_iter().flatten();
    fields.flat_map(|(key, value)| match (key.as_str(), value) {
        ("properties", Value::Object(properties)) => properties.values_mut().collect(),
        ("oneOf" | "anyOf" | "allOf", Value::Array(schemas)) => schemas.iter_mut().collect(),
        ("items", schema) => vec![schema],
        _ => Vec::new(),
    })
}

/// Makes a parameter non-nullable, because an absent parameter is not null. Adds the pattern to ids in paths.
pub(super) fn tidy_parameter(parameter: &mut Value) {
    let is_id = parameter["in"] == "path" && parameter["name"] == "id";
    let schema = &mut parameter["schema"];
    if let Some([kind, _]) = schema["type"].as_array().map(Vec::as_slice) {
        schema["type"] = kind.clone();
    }
    if is_id {
        schema["pattern"] = ID_PATTERN.into();
    }
}
