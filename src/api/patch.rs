//! Patches: JSON merge patch (RFC 7386), JSON patch (RFC 6902) and strategic merge patch. Server-side apply, which comes
//! as a PATCH too, is in [`super::managed`].

mod strategic;

use serde_json::{Map, Value, json};

use super::schema::Schema;
use super::status::ApiError;

/// The content type of a server-side apply.
pub const APPLY: &str = "application/apply-patch+yaml";

/// The media type of a content type, without its parameters.
pub fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// A patch that changes an object as it is, whoever owns its fields.
pub enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Reads a body; what it is says its content type.
    pub fn parse(content_type: &str, body: &[u8]) -> Result<Self, ApiError> {
        match media_type(content_type) {
            "application/json-patch+json" => {
                let operations: Vec<Map<String, Value>> = serde_json::from_slice(body)
                    .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
                // What an operation says counts when it is carried out.
                serde_json::from_value(json!(operations)).map(Self::Json).map_err(|_| not_possible())
            }
            "application/merge-patch+json" => decode(body).map(Self::Merge),
            "application/strategic-merge-patch+json" => decode(body).map(Self::Strategic),
            _ => Err(ApiError::unsupported_media_type("415: Unsupported Media Type")),
        }
    }

    /// `current` with the patch applied.
    pub fn apply(&self, schema: &Schema, current: &Value) -> Result<Value, ApiError> {
        let mut result = current.clone();
        match self {
            Self::Json(operations) => apply_operations(operations, &mut result)?,
            Self::Merge(patch) => json_patch::merge(&mut result, patch),
            Self::Strategic(patch) => strategic::merge(Some(schema.root()), &mut result, patch.clone())?,
        }
        Ok(result)
    }
}

/// The most operations of one JSON patch, and the most bytes that its copies may add up to: as in the reference.
const MOST_OPERATIONS: usize = 10_000;
const MOST_COPIED: usize = 3 * 1024 * 1024;

fn apply_operations(patch: &json_patch::Patch, object: &mut Value) -> Result<(), ApiError> {
    if patch.0.len() > MOST_OPERATIONS {
        let got = patch.0.len();
        return Err(ApiError::too_large_because(format!(
            "The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {got}"
        )));
    }
    let mut copied = 0;
    for operation in &patch.0 {
        if let json_patch::PatchOperation::Copy(copy) = operation {
            // A few copies of copies are more than the memory of any machine.
            copied += object.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            if copied > MOST_COPIED {
                return Err(ApiError::too_large_because(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, \
                     exceeding the limit {MOST_COPIED}"
                )));
            }
        }
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|_| not_possible())?;
    }
    Ok(())
}

fn not_possible() -> ApiError {
    ApiError::unprocessable("the server rejected our request due to an error in our request")
}

fn decode(patch: &[u8]) -> Result<Value, ApiError> {
    let value: Value =
        serde_json::from_slice(patch).map_err(|e| ApiError::bad_request(format!("error decoding patch: json: {e}")))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(ApiError::bad_request("error decoding patch: json: expected an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::builtin;
    use k8s_openapi::api::core::v1::ConfigMap;

    #[test]
    fn copies_of_copies_are_refused_before_they_fill_the_memory() {
        let copies = (1..60).map(|i| json!({"op": "copy", "from": "/data", "path": format!("/data/x{i}")}));
        let body = Value::Array(copies.collect()).to_string();
        let patch = Patch::parse("application/json-patch+json", body.as_bytes()).unwrap();
        let refused = patch.apply(&builtin::schema::<ConfigMap>(), &json!({"data": {"a": "1"}})).unwrap_err();
        assert_eq!(refused.code, 413);
    }
}
