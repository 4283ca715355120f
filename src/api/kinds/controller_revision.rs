//! ControllerRevision (apps/v1): a state of a workload that it can go back to.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::to_value;
use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell};
use crate::api::causes::Causes;
use crate::api::status::ApiError;

pub struct Kind;

impl super::Kind for Kind {
    type Object = ControllerRevision;
    const INFO: Info = Info {
        group: "apps",
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        columns: &[
            NAME,
            column("Controller", "Controller of the object"),
            column("Revision", "Revision indicates the revision of the state represented by Data."),
            AGE,
        ],
        ..Info::DEFAULT
    };

    fn create(_: &Context, object: &mut ControllerRevision, causes: &mut Causes) -> Result<(), ApiError> {
        check(object, causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut ControllerRevision, old: &ControllerRevision, _: Part, causes: &mut Causes) {
        check(new, causes);
        if new.data != old.data {
            causes.invalid("data", to_value(&new.data), super::checks::IMMUTABLE);
        }
    }

    fn cells(object: &ControllerRevision, now: Timestamp) -> Vec<Value> {
        let owners = object.metadata.owner_references.as_deref().unwrap_or_default();
        let controller = match owners.iter().find(|owner| owner.controller == Some(true)) {
            Some(owner) => {
                let group = owner.api_version.split_once('/').map(|(group, _)| format!(".{group}"));
                format!("{}{}/{}", owner.kind.to_lowercase(), group.unwrap_or_default(), owner.name)
            }
            None => "<none>".into(),
        };
        vec![name_cell(object), controller.into(), object.revision.into(), age_cell(object, now)]
    }
}

fn check(object: &ControllerRevision, causes: &mut Causes) {
    if object.data.is_none() {
        causes.required("data", "data is mandatory");
    }
    causes.non_negative("revision", Some(object.revision));
}
