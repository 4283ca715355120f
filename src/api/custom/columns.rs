//! Columns of custom resources: JSONPath as `additionalPrinterColumns` and `selectableFields` write it.
//!
//! Kubernetes' JSONPath is older than RFC 9535 and differs from it (no `$`, dots escaped by `\.`), hence this evaluator
//! for the part that columns use: fields, indices, `[*]`, and filters that compare a field with a value.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::api::table::human_duration;

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// `[?(@.type=="Ready")]`
    Filter {
        path: Vec<Step>,
        equal: bool,
        value: Value,
    },
}

/// Reads a path; `None` if it is none that columns can have.
fn parse(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}');
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('.') {
            let (name, tail) = name(tail);
            if name == "*" {
                steps.push(Step::All);
            } else if !name.is_empty() {
                steps.push(Step::Field(name));
            }
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix("[?(") {
            let (condition, tail) = tail.split_once(")]")?;
            steps.push(filter(condition)?);
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix('[') {
            let (inside, tail) = tail.split_once(']')?;
            steps.push(match inside {
                "*" => Step::All,
                quoted if quoted.starts_with('\'') || quoted.starts_with('"') => {
                    Step::Field(quoted.trim_matches(['\'', '"']).to_owned())
                }
                index => Step::Index(index.parse().ok()?),
            });
            rest = tail;
        } else {
            return None;
        }
    }
    Some(steps)
}

/// A field's name up to the next step; `\.` is a dot of the name.
fn name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (name, &text[at..]),
            other => name.push(other),
        }
    }
    (name, "")
}

fn filter(condition: &str) -> Option<Step> {
    let (equal, (left, right)) = match condition.split_once("==") {
        Some(sides) => (true, sides),
        None => (false, condition.split_once("!=")?),
    };
    let right = right.trim();
    let value = match right.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
        Some(text) => Value::from(text),
        None => serde_json::from_str(right).ok()?,
    };
    Some(Step::Filter { path: parse(left.trim().strip_prefix('@')?)?, equal, value })
}

fn find<'a>(steps: &[Step], value: &'a Value, found: &mut Vec<&'a Value>) {
    let Some((step, rest)) = steps.split_first() else { return found.push(value) };
    match step {
        Step::Field(name) => value.get(name).into_iter().for_each(|value| find(rest, value, found)),
        Step::Index(index) => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let at =
                if *index < 0 { items.len().checked_add_signed(*index as isize) } else { usize::try_from(*index).ok() };
            at.and_then(|at| items.get(at)).into_iter().for_each(|value| find(rest, value, found));
        }
        Step::All => match value {
            Value::Array(items) => items.iter().for_each(|value| find(rest, value, found)),
            Value::Object(fields) => fields.values().for_each(|value| find(rest, value, found)),
            _ => {}
        },
        Step::Filter { path, equal, value: wanted } => {
            for item in value.as_array().into_iter().flatten() {
                let mut sides = Vec::new();
                find(path, item, &mut sides);
                if sides.first().is_some_and(|side| (*side == wanted) == *equal) {
                    find(rest, item, found);
                }
            }
        }
    }
}

/// How a column gets its cell.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    steps: Vec<Step>,
    kind: String,
}

impl Cell {
    /// `None` if the path is none that columns can have.
    pub(super) fn new(path: &str, kind: &str) -> Option<Self> {
        Some(Self { steps: parse(path)?, kind: kind.to_owned() })
    }

    /// The first value at the path, as the column's type shows it.
    pub(super) fn show(&self, object: &Value, now: Timestamp) -> Value {
        let mut found = Vec::new();
        find(&self.steps, object, &mut found);
        let Some(value) = found.first() else { return Value::Null };
        match (self.kind.as_str(), value) {
            ("date", Value::String(text)) => match text.parse::<Timestamp>() {
                Ok(time) => human_duration(now.as_second() - time.as_second()).into(),
                Err(_) => "<invalid>".into(),
            },
            ("integer" | "number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*value).clone(),
            ("string", Value::String(text)) => text.as_str().into(),
            ("string", other) => other.to_string().into(),
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(path: &str, kind: &str, object: &Value) -> Value {
        Cell::new(path, kind).unwrap().show(object, "2026-01-01T01:00:00Z".parse().unwrap())
    }

    #[test]
    fn paths_lead_to_fields_elements_and_filtered_elements() {
        let object = json!({
            "metadata": {"labels": {"example.com/team": "net"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"replicas": 3, "list": ["a", "b"]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Synced", "status": "False"}]},
        });
        for (path, kind, expected) in [
            (".spec.replicas", "integer", json!(3)),
            (".spec.list[1]", "string", json!("b")),
            (".spec.list", "string", json!("[\"a\",\"b\"]")),
            (".metadata.labels.example\\.com/team", "string", json!("net")),
            (".status.conditions[?(@.type==\"Synced\")].status", "string", json!("False")),
            (".status.conditions[?(@.type=='Ready')].status", "string", json!("True")),
            (".metadata.creationTimestamp", "date", json!("60m")),
            (".spec.nothing", "string", Value::Null),
        ] {
            assert_eq!(shown(path, kind, &object), expected, "{path}");
        }
        assert!(Cell::new("spec", "string").is_none());
    }
}
