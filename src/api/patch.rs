//! Patches: JSON merge patch (RFC 7386), JSON patch (RFC 6902) and strategic merge patch.

mod strategic;

use serde_json::Value;

use super::kinds::Info;
use super::status::ApiError;

/// What a PATCH body is, by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
}

const ACCEPTED: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";

impl PatchType {
    pub fn of(content_type: &str) -> Result<Self, ApiError> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            _ => Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {ACCEPTED}"
            ))),
        }
    }
}

/// `current` with `patch` applied.
pub fn apply(kind: PatchType, info: &Info, current: &Value, patch: &[u8]) -> Result<Value, ApiError> {
    let mut result = current.clone();
    match kind {
        PatchType::Json => {
            let operations: json_patch::Patch = serde_json::from_slice(patch)
                .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
            json_patch::patch(&mut result, &operations).map_err(|_| {
                ApiError::unprocessable("the server rejected our request due to an error in our request")
            })?;
        }
        PatchType::Merge => {
            let patch: Value = decode(patch)?;
            json_patch::merge(&mut result, &patch);
        }
        PatchType::Strategic => {
            let patch: Value = decode(patch)?;
            strategic::merge(info.kind, &mut result, patch)?;
        }
    }
    Ok(result)
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
