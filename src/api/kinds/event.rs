//! Event of the core group.

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{Context, Info, column, name_cell, wide};
use crate::api::causes::Causes;
use crate::api::status::ApiError;
use crate::api::table::human_duration;

pub struct Kind;

impl super::Kind for Kind {
    type Object = Event;
    const INFO: Info = Info {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        create_on_update: true,
        fields: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        nulls: &["eventTime", "firstTimestamp", "lastTimestamp"],
        columns: &[
            column("Last Seen", "The time at which the most recent occurrence of this event was recorded."),
            column("Type", "Type of this event (Normal, Warning), new types could be added in the future"),
            column(
                "Reason",
                "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.",
            ),
            column("Object", "The object that this event is about."),
            wide(
                "Subobject",
                "If referring to a piece of an object instead of an entire object, this string should contain a valid JSON/Go field access statement, such as desiredState.manifest.containers\\[2\\]. For example, if the object reference is to a container within a pod, this would take on a value like: \"spec.containers{name}\" (where \"name\" refers to the name of the container that triggered the event) or if no container name is specified \"spec.containers\\[2\\]\" (container with index 2 in this pod). This syntax is chosen only to have some well-defined way of referencing a part of an object.",
            ),
            wide("Source", "The component reporting this event. Should be a short machine understandable string."),
            column("Message", "A human-readable description of the status of this operation."),
            wide(
                "First Seen",
                "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
            ),
            wide("Count", "The number of times this event has occurred."),
            wide("Name", "Name must be unique within a namespace."),
        ],
        ..Info::DEFAULT
    };
    const ASSIGNS: bool = false;

    fn create(_: &Context, object: &mut Event, causes: &mut Causes) -> Result<(), ApiError> {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let about = object.involved_object.namespace.clone().unwrap_or_default();
        if about != namespace && !(about.is_empty() && namespace == "default") {
            causes.invalid("involvedObject.namespace", about, "does not match event.namespace");
        }
        Ok(())
    }

    fn cells(object: &Event, now: Timestamp) -> Vec<Value> {
        let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let event_time = object.event_time.as_ref().map(|time| time.0);
        let first = object.first_timestamp.as_ref().map(|time| time.0).or(event_time).or(created);
        let last = object
            .series
            .as_ref()
            .and_then(|series| series.last_observed_time.as_ref().map(|time| time.0))
            .or(object.last_timestamp.as_ref().map(|time| time.0))
            .or(first);
        let ago = |time: Option<Timestamp>| match time {
            Some(time) => human_duration(now.as_second() - time.as_second()),
            None => "<unknown>".into(),
        };
        let regarding = &object.involved_object;
        let source = object.source.as_ref();
        let component =
            source.and_then(|s| s.component.clone()).or(object.reporting_component.clone()).unwrap_or_default();
        let host = source.and_then(|s| s.host.clone()).or(object.reporting_instance.clone()).unwrap_or_default();
        let source = if host.is_empty() { component } else { format!("{component}, {host}") };
        let count = object.series.as_ref().and_then(|s| s.count).or(object.count).unwrap_or(1);
        let kind = regarding.kind.clone().unwrap_or_default().to_lowercase();
        vec![
            ago(last).into(),
            object.type_.clone().unwrap_or_default().into(),
            object.reason.clone().unwrap_or_default().into(),
            format!("{kind}/{}", regarding.name.clone().unwrap_or_default()).into(),
            regarding.field_path.clone().unwrap_or_default().into(),
            source.into(),
            object.message.as_deref().unwrap_or_default().trim().into(),
            ago(first).into(),
            count.into(),
            name_cell(object),
        ]
    }
}
