//! PersistentVolumeClaim. A controller makes a volume for each, a folder of the data directory.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::{check_selector, text};
use super::storage::{FILESYSTEM, check_class_and_mode, check_modes, check_size, modes_text, size_text};
use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell, pod_spec, wide};
use crate::api::causes::Causes;
use crate::api::status::ApiError;

const PENDING: &str = "Pending";
const IMMUTABLE: &str =
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

/// The finalizer that keeps a claim until no Pod uses it.
pub const PROTECTION: &str = "kubernetes.io/pvc-protection";

pub struct Kind;

impl super::Kind for Kind {
    type Object = PersistentVolumeClaim;
    const INFO: Info = Info {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short_names: &["pvc"],
        status: true,
        condition_times: &["lastProbeTime", "lastTransitionTime"],
        columns: &[
            NAME,
            column("Status", "phase represents the current phase of PersistentVolumeClaim."),
            column("Volume", "volumeName is the binding reference to the PersistentVolume backing this claim."),
            column("Capacity", "capacity represents the actual resources of the underlying volume."),
            column(
                "Access Modes",
                "accessModes contains the actual access modes the volume backing the PVC has. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes-1",
            ),
            column(
                "StorageClass",
                "storageClassName is the name of the StorageClass required by the claim. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#class-1",
            ),
            column(
                "VolumeAttributesClass",
                "volumeAttributesClassName may be used to set the VolumeAttributesClass used by this claim.",
            ),
            AGE,
            wide(
                "VolumeMode",
                "volumeMode defines what type of volume is required by the claim. Value of Filesystem is implied when not included in claim spec.",
            ),
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut PersistentVolumeClaim) {
        object.status.get_or_insert_default().phase.get_or_insert_with(|| PENDING.into());
        let spec = object.spec.get_or_insert_default();
        spec.resources.get_or_insert_default();
        spec.volume_mode.get_or_insert_with(|| FILESYSTEM.into());
    }

    fn create(_: &Context, object: &mut PersistentVolumeClaim, causes: &mut Causes) -> Result<(), ApiError> {
        object.status =
            Some(PersistentVolumeClaimStatus { phase: Some(PENDING.into()), ..PersistentVolumeClaimStatus::default() });
        let finalizers = object.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|name| name == PROTECTION) {
            finalizers.push(PROTECTION.into());
        }
        check(object.spec.get_or_insert_default(), causes);
        Ok(())
    }

    fn update(
        _: &Context,
        new: &mut PersistentVolumeClaim,
        old: &PersistentVolumeClaim,
        part: Part,
        causes: &mut Causes,
    ) {
        if part == Part::Status {
            return;
        }
        let before = old.spec.clone().unwrap_or_default();
        let bound = old.status.as_ref().is_some_and(|status| text(&status.phase) == "Bound");
        let spec = new.spec.get_or_insert_default();
        check(spec, causes);
        let mut rest = spec.clone();
        if bound {
            if let (Some(new), Some(old)) = (&mut rest.resources, &before.resources) {
                new.requests = old.requests.clone();
            }
            rest.volume_attributes_class_name = before.volume_attributes_class_name.clone();
        }
        // Who binds a claim names its volume once.
        if text(&before.volume_name).is_empty() {
            rest.volume_name = before.volume_name.clone();
        }
        if rest != before {
            causes.forbidden("spec", format!("{IMMUTABLE}\n{}", pod_spec::diff::unified_claims(&before, &rest)));
        }
    }

    fn cells(object: &PersistentVolumeClaim, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let deleting = object.metadata.deletion_timestamp.is_some();
        let bound = !text(&spec.volume_name).is_empty();
        let unset = || "<unset>".to_owned();
        vec![
            name_cell(object),
            if deleting { "Terminating" } else { text(&status.phase) }.into(),
            text(&spec.volume_name).into(),
            if bound { size_text(status.capacity.as_ref()) } else { String::new() }.into(),
            if bound { modes_text(status.access_modes.as_ref()) } else { String::new() }.into(),
            text(&spec.storage_class_name).into(),
            spec.volume_attributes_class_name.unwrap_or_else(unset).into(),
            age_cell(object, now),
            spec.volume_mode.unwrap_or_else(unset).into(),
        ]
    }
}

fn check(spec: &PersistentVolumeClaimSpec, causes: &mut Causes) {
    check_modes(spec.access_modes.as_ref(), "at least 1 access mode is required", causes);
    if let Some(selector) = &spec.selector {
        check_selector(causes, "spec.selector", selector);
    }
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    check_size("spec.resources", requests, causes);
    check_class_and_mode(spec.storage_class_name.as_ref(), spec.volume_mode.as_ref(), causes);
}
