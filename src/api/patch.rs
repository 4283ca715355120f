//! Patches: JSON merge patch (RFC 7386), JSON patch (RFC 6902) and strategic merge patch. Server-side apply, which comes
//! as a PATCH too, is in [`super::managed`].

mod strategic;

use json_patch::PatchOperation;
use serde_json::{Map, Value, json};

use super::object;
use super::schema::Schema;
use super::status::ApiError;

/// The content type of a server-side apply.
pub const APPLY: &str = "application/apply-patch+yaml";

/// How many operations a JSON patch may have, in the reference, too.
const MOST_OPERATIONS: usize = 10_000;
/// How many bytes of JSON its copies may add, as in the reference: else each could double the object.
const MOST_COPIED: usize = 3 * 1024 * 1024;

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
                if operations.len() > MOST_OPERATIONS {
                    return Err(ApiError::entity_too_large(format!(
                        "The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {}",
                        operations.len()
                    )));
                }
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
            Self::Json(operations) => apply_operations(&mut result, operations)?,
            Self::Merge(patch) => json_patch::merge(&mut result, patch),
            Self::Strategic(patch) => strategic::merge(Some(schema.root()), &mut result, patch.clone())?,
        }
        Ok(result)
    }
}

fn apply_operations(object: &mut Value, operations: &[PatchOperation]) -> Result<(), ApiError> {
    let mut copied = 0;
    for operation in operations {
        let source = match operation {
            PatchOperation::Add(add) => Some((&add.path, &add.value)),
            PatchOperation::Replace(replace) => Some((&replace.path, &replace.value)),
            PatchOperation::Move(from) => object.pointer(from.from.as_str()).map(|value| (&from.path, value)),
            PatchOperation::Copy(from) => object.pointer(from.from.as_str()).map(|value| (&from.path, value)),
            _ => None,
        };
        if let Some((path, value)) = source {
            let copy = matches!(operation, PatchOperation::Copy(_));
            copied += if copy { value.to_string().len() } else { 0 };
            if copied > MOST_COPIED || path.tokens().count() + object::depth(value) > object::MOST_DEPTH {
                return Err(not_possible());
            }
        }
        // The form that undoes what went before panics where it cannot; a half patched object is dropped here.
        json_patch::patch_unsafe(object, std::slice::from_ref(operation)).map_err(|_| not_possible())?;
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
