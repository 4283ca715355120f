//! Content negotiation of answers.

use http::{HeaderMap, header};

use super::status::ApiError;

/// The form in which objects are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Table,
    /// Metadata alone: `PartialObjectMetadata`, or its list.
    Partial,
}

const OFFERED: &str = "application/json";

impl Form {
    /// The first form among the accepted ones that is served. Clients list them in the order they like.
    pub fn negotiate(headers: &HeaderMap) -> Result<Self, ApiError> {
        let accept = headers.get_all(header::ACCEPT);
        let text: Vec<&str> = accept.iter().filter_map(|value| value.to_str().ok()).collect();
        let text = text.join(",");
        if text.trim().is_empty() {
            return Ok(Self::Json);
        }
        text.split(',').find_map(Self::of).ok_or_else(|| ApiError::not_acceptable(OFFERED))
    }

    fn of(media: &str) -> Option<Self> {
        let mut parts = media.split(';').map(str::trim);
        if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
            return None;
        }
        let (mut form, mut group, mut version) = ("", "", "");
        for parameter in parts {
            match parameter.split_once('=') {
                Some(("as", value)) => form = value,
                Some(("g", value)) => group = value,
                Some(("v", value)) => version = value,
                _ => {}
            }
        }
        match (form, group, version) {
            ("", ..) => Some(Self::Json),
            ("Table", "meta.k8s.io", "v1") => Some(Self::Table),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => Some(Self::Partial),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiate(accept: &str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        Form::negotiate(&headers).ok()
    }

    #[test]
    fn the_first_served_form_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(negotiate(kubectl), Some(Form::Table));
        assert_eq!(negotiate("application/vnd.kubernetes.protobuf,application/json"), Some(Form::Json));
        assert_eq!(negotiate("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"), Some(Form::Partial));
        assert_eq!(negotiate("*/*"), Some(Form::Json));
        assert_eq!(negotiate("text/csv"), None);
    }
}
