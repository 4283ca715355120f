//! Event of the group events.k8s.io: the same stored objects as the core group's, with other names for some fields.

use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};

use super::checks::text;
use super::{Info, event};
use crate::api::causes::Causes;
use crate::api::names::qualified_name_errors;

/// `(name in the core group, name here)` of the fields that differ.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];
const MAX_ACTION: usize = 128;
const MAX_NOTE: usize = 1024;

pub struct Kind;

impl super::Kind for Kind {
    type Object = Event;
    const INFO: Info = Info { group: "events.k8s.io", ..event::Kind::INFO };
}

/// The object as the core group has it.
pub(in crate::api) fn to_core(mut object: Value) -> Value {
    object["apiVersion"] = "v1".into();
    rename(&mut object, RENAMED.iter().map(|(core, here)| (*here, *core)));
    if object.get("involvedObject").is_none() {
        object["involvedObject"] = json!({});
    }
    object
}

/// The object as this group has it.
pub(in crate::api) fn from_core(mut object: Value) -> Value {
    object["apiVersion"] = "events.k8s.io/v1".into();
    rename(&mut object, RENAMED.iter().copied());
    object
}

fn rename(object: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(fields) = object.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.into(), value);
        }
    }
}

/// What a new Event of this group must say; the core group asks for less.
pub(in crate::api) fn check(event: &Event, causes: &mut Causes) {
    if event.event_time.is_none() {
        causes.required("eventTime", "");
    }
    let controller = text(&event.reporting_controller);
    if controller.is_empty() {
        causes.required("reportingController", "");
    } else {
        causes.all("reportingController", controller, qualified_name_errors(controller));
    }
    for (field, value) in
        [("reportingInstance", &event.reporting_instance), ("action", &event.action), ("reason", &event.reason)]
    {
        let value = text(value);
        if value.is_empty() {
            causes.required(field, "");
        } else if value.len() > MAX_ACTION {
            causes.invalid(field, "", format!("can have at most {MAX_ACTION} characters"));
        }
    }
    if text(&event.note).len() > MAX_NOTE {
        causes.invalid("message", "", format!("can have at most {MAX_NOTE} characters"));
    }
    let kind = text(&event.type_);
    if !["Normal", "Warning"].contains(&kind) {
        causes.invalid("type", "", "has invalid value: ".to_owned() + kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversion_there_and_back_changes_nothing() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"name": "p"},
            "message": "m", "count": 2, "source": {"component": "c"}, "reportingComponent": "r", "type": "Normal"});
        let here = from_core(core.clone());
        assert_eq!(
            here,
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "regarding": {"name": "p"},
                "note": "m", "deprecatedCount": 2, "deprecatedSource": {"component": "c"}, "reportingController": "r", "type": "Normal"})
        );
        assert_eq!(to_core(here), core);
    }

    #[test]
    fn new_events_say_who_reports_what_and_when() {
        let event = json!({"eventTime": "2024-01-01T00:00:00.000000Z", "reportingController": "example.com/c",
            "reportingInstance": "i", "action": "Do", "reason": "Done", "type": "Normal"});
        for (missing, field) in [
            (None, None),
            (Some("eventTime"), Some("eventTime")),
            (Some("reportingController"), Some("reportingController")),
            (Some("action"), Some("action")),
            (Some("type"), Some("type")),
        ] {
            let mut event = event.clone();
            if let Some(missing) = missing {
                event.as_object_mut().unwrap().remove(missing);
            }
            let mut causes = Causes::default();
            check(&serde_json::from_value(event).unwrap(), &mut causes);
            let fields: Vec<&str> = causes.0.iter().map(|cause| cause.field.as_str()).collect();
            assert_eq!(fields, field.into_iter().collect::<Vec<_>>());
        }
    }
}
