//! `Table` answers: what `kubectl get` prints.

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::kinds::{Info, Strategy};
use super::request::Params;
use super::status::ApiError;
use crate::store::Entry;

/// What a row carries besides its cells (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    pub(super) fn of(params: &Params) -> Result<Self, ApiError> {
        match params.get("includeObject") {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            _ => Err(ApiError::bad_request("includeObject must be None, Metadata or Object")),
        }
    }
}

/// A table of `rows`; the column definitions are left out after the first event of a watch.
pub fn table(info: &Info, metadata: Value, rows: Vec<Value>, with_columns: bool) -> Value {
    let columns: Value = if with_columns {
        info.columns
            .iter()
            .map(|column| {
                json!({"name": column.name, "type": column.kind, "format": column.format,
                       "description": column.description, "priority": column.priority})
            })
            .collect()
    } else {
        Value::Null
    };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

pub fn row(kind: &dyn Strategy, entry: &Entry, include: IncludeObject, now: Timestamp) -> Value {
    let mut row = json!({"cells": kind.cells(&entry.value, now)});
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => row["object"] = serde_json::from_str(&partial(&entry.value)).unwrap_or_default(),
        IncludeObject::Object => row["object"] = serde_json::from_slice(&entry.value).unwrap_or_default(),
    }
    row
}

/// The object's metadata alone, as `PartialObjectMetadata`: cut out of the encoded object without reading it.
pub fn partial(encoded: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Parts<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let metadata = serde_json::from_slice::<Parts<'_>>(encoded).map_or("{}", |parts| parts.metadata.get());
    format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{metadata}}}")
}

/// A duration in seconds as `kubectl` shows ages (`k8s.io/apimachinery/pkg/util/duration.HumanDuration`).
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |n: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 { format!("{n}{unit}") } else { format!("{n}{unit}{rest}{small}") }
    };
    match seconds {
        i64::MIN..=-2 => "<invalid>".into(),
        -1..=0 => "0s".into(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10799, "179m"),
            (10800, "3h"),
            (12000, "3h20m"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }
}
