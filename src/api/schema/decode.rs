//! JSON to typed objects, with the place where the type is wrong.
//!
//! Only the error needs the place, so it is looked for along the schema when there is one: a deserializer that keeps
//! track of paths would be a second copy of the code of every type in the binary.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Scalar, Schema, Shape, Type};

/// Reads an object of the schema's type.
///
/// # Errors
/// What is wrong, after its place where that can be told: `spec.replicas: cannot unmarshal: invalid type: ...`.
pub fn decode<'a, T: DeserializeOwned>(schema: impl FnOnce() -> &'a Schema, value: &Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| {
        let mut path = String::new();
        let found = mistyped(schema().root(), value, &mut path);
        if found { format!("{path}: cannot unmarshal: {error}") } else { format!("cannot unmarshal: {error}") }
    })
}

/// Leaves in `path` the first place whose value is not of its type.
fn mistyped(of: Type<'_>, value: &Value, path: &mut String) -> bool {
    let wrong = match of.shape(value) {
        _ if value.is_null() => false,
        Shape::Scalar(Scalar::String) => !value.is_string(),
        Shape::Scalar(Scalar::Number) => !value.is_number(),
        Shape::Scalar(Scalar::Boolean) => !value.is_boolean(),
        Shape::Scalar(Scalar::Any) => value.is_object() || value.is_array(),
        _ => (of.is_list() && !value.is_array()) || (of.is_object() && !value.is_object()),
    };
    if wrong {
        return true;
    }
    let end = path.len();
    match value {
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            let Some(of) = of.field(name) else { return false };
            if end > 0 {
                path.push('.');
            }
            path.push_str(name);
            let found = mistyped(of, value, path);
            if !found {
                path.truncate(end);
            }
            found
        }),
        Value::Array(items) => items.iter().enumerate().any(|(i, value)| {
            let Some(of) = of.item() else { return false };
            path.push_str(&format!("[{i}]"));
            let found = mistyped(of, value, path);
            if !found {
                path.truncate(end);
            }
            found
        }),
        _ => false,
    }
}
