//! Namespace: cluster-scoped, held by its own finalizer until its content is gone.

use k8s_openapi::api::core::v1::{Namespace, NamespaceSpec, NamespaceStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell};
use crate::api::causes::Causes;
use crate::api::names::NameRule;
use crate::api::status::ApiError;

/// The finalizer in `spec.finalizers` that holds a Namespace until everything in it is deleted.
pub const FINALIZER: &str = "kubernetes";
/// Every Namespace is labelled with its own name, so that selectors can name it.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub struct Kind;

impl super::Kind for Kind {
    type Object = Namespace;
    const INFO: Info = Info {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        status: true,
        name_rule: NameRule::Label,
        fields: &["status.phase"],
        columns: &[NAME, column("Status", "The status of the namespace"), AGE],
        ..Info::DEFAULT
    };

    fn default(object: &mut Namespace) {
        let name = object.metadata.name.clone().unwrap_or_default();
        object.metadata.labels.get_or_insert_default().insert(NAME_LABEL.into(), name);
    }

    fn create(_: &Context, object: &mut Namespace, _: &mut Causes) -> Result<(), ApiError> {
        object.spec = Some(NamespaceSpec { finalizers: Some(vec![FINALIZER.into()]) });
        object.status = Some(NamespaceStatus { phase: Some("Active".into()), conditions: None });
        Ok(())
    }

    fn update(_: &Context, new: &mut Namespace, old: &Namespace, part: Part, _: &mut Causes) {
        if part != Part::Finalize {
            new.spec = old.spec.clone();
        }
    }

    fn cells(object: &Namespace, now: Timestamp) -> Vec<Value> {
        let phase = object.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        vec![name_cell(object), phase.into(), age_cell(object, now)]
    }
}
