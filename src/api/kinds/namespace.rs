//! Namespace: cluster-scoped, held by its own finalizer until its content is gone.

use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell};
use crate::api::causes::Causes;
use crate::api::names::{self, NameRule};
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

    fn create(_: &Context, object: &mut Namespace, causes: &mut Causes) -> Result<(), ApiError> {
        let finalizers = object.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|name| name == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
        check_finalizers(object, causes);
        object.status = Some(NamespaceStatus { phase: Some("Active".into()), conditions: None });
        Ok(())
    }

    fn update(_: &Context, new: &mut Namespace, old: &Namespace, part: Part, causes: &mut Causes) {
        if part == Part::Finalize {
            new.status = old.status.clone();
            check_finalizers(new, causes);
        } else {
            new.spec = old.spec.clone();
        }
    }

    fn cells(object: &Namespace, now: Timestamp) -> Vec<Value> {
        let phase = object.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        vec![name_cell(object), phase.into(), age_cell(object, now)]
    }
}

fn check_finalizers(object: &Namespace, causes: &mut Causes) {
    for (i, name) in object.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten()).enumerate() {
        causes.all(&format!("spec.finalizers[{i}]"), name, names::finalizer_errors(name));
    }
}
