//! PersistentVolume: kept and checked. Those of claims are made by a controller; no claim is bound to any other.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use super::checks::{text, to_value};
use super::storage::{FILESYSTEM, check_class_and_mode, check_modes, check_size, modes_text, size_text};
use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell, wide};
use crate::api::causes::Causes;
use crate::api::status::ApiError;

const PENDING: &str = "Pending";
/// The fields of a specification that are no source of a volume.
const NO_SOURCES: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

pub struct Kind;

impl super::Kind for Kind {
    type Object = PersistentVolume;
    const INFO: Info = Info {
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short_names: &["pv"],
        namespaced: false,
        status: true,
        columns: &[
            NAME,
            column(
                "Capacity",
                "capacity is the description of the persistent volume's resources and capacity. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#capacity",
            ),
            column(
                "Access Modes",
                "accessModes contains all ways the volume can be mounted. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes",
            ),
            column(
                "Reclaim Policy",
                "persistentVolumeReclaimPolicy defines what happens to a persistent volume when released from its claim. Valid options are Retain (default for manually created PersistentVolumes), Delete (default for dynamically provisioned PersistentVolumes), and Recycle (deprecated). Recycle must be supported by the volume plugin underlying this PersistentVolume. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#reclaiming",
            ),
            column(
                "Status",
                "phase indicates if a volume is available, bound to a claim, or released by a claim. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#phase",
            ),
            column(
                "Claim",
                "claimRef is part of a bi-directional binding between PersistentVolume and PersistentVolumeClaim. Expected to be non-nil when bound. claim.VolumeName is the authoritative bind between PV and PVC. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#binding",
            ),
            column(
                "StorageClass",
                "storageClassName is the name of StorageClass to which this persistent volume belongs. Empty value means that this volume does not belong to any StorageClass.",
            ),
            column(
                "VolumeAttributesClass",
                "Name of VolumeAttributesClass to which this persistent volume belongs. Empty value is not allowed.",
            ),
            column(
                "Reason",
                "reason is a brief CamelCase string that describes any failure and is meant for machine parsing and tidy display in the CLI.",
            ),
            AGE,
            wide(
                "VolumeMode",
                "volumeMode defines if a volume is intended to be used with a formatted filesystem or to remain in raw block state. Value of Filesystem is implied when not included in spec.",
            ),
        ],
        ..Info::DEFAULT
    };
    const NOTICE: Option<&'static str> = Some(
        "Vipyard keeps PersistentVolumes and binds no claim to one made by hand: each claim gets a volume of its own",
    );

    fn default(object: &mut PersistentVolume) {
        object.status.get_or_insert_default().phase.get_or_insert_with(|| PENDING.into());
        let spec = object.spec.get_or_insert_default();
        spec.persistent_volume_reclaim_policy.get_or_insert_with(|| "Retain".into());
        spec.volume_mode.get_or_insert_with(|| FILESYSTEM.into());
        if let Some(path) = &mut spec.host_path {
            path.type_.get_or_insert_default();
        }
    }

    fn create(_: &Context, object: &mut PersistentVolume, causes: &mut Causes) -> Result<(), ApiError> {
        object.status = Some(PersistentVolumeStatus {
            phase: Some(PENDING.into()),
            last_phase_transition_time: Some(Time(Timestamp::now())),
            ..PersistentVolumeStatus::default()
        });
        check(object.spec.get_or_insert_default(), causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut PersistentVolume, old: &PersistentVolume, part: Part, causes: &mut Causes) {
        if part == Part::Status {
            return;
        }
        let (spec, before) = (new.spec.get_or_insert_default(), old.spec.clone().unwrap_or_default());
        check(spec, causes);
        if sources(spec) != sources(&before) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            causes.forbidden("spec.persistentvolumesource", detail);
        }
        causes.immutable("spec.volumeMode", &spec.volume_mode, &before.volume_mode);
    }

    fn cells(object: &PersistentVolume, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let deleting = object.metadata.deletion_timestamp.is_some();
        let unset = || "<unset>".to_owned();
        let claim = spec.claim_ref.as_ref().map(|claim| format!("{}/{}", text(&claim.namespace), text(&claim.name)));
        vec![
            name_cell(object),
            size_text(spec.capacity.as_ref()).into(),
            modes_text(spec.access_modes.as_ref()).into(),
            text(&spec.persistent_volume_reclaim_policy).into(),
            if deleting { "Terminating" } else { text(&status.phase) }.into(),
            claim.unwrap_or_default().into(),
            text(&spec.storage_class_name).into(),
            spec.volume_attributes_class_name.unwrap_or_else(unset).into(),
            text(&status.reason).into(),
            age_cell(object, now),
            spec.volume_mode.unwrap_or_else(unset).into(),
        ]
    }
}

/// The sources that a specification names.
fn sources(spec: &PersistentVolumeSpec) -> Map<String, Value> {
    let Value::Object(mut fields) = to_value(spec) else { return Map::new() };
    fields.retain(|field, _| !NO_SOURCES.contains(&field.as_str()));
    fields
}

fn check(spec: &PersistentVolumeSpec, causes: &mut Causes) {
    check_modes(spec.access_modes.as_ref(), "", causes);
    let capacity = spec.capacity.clone().unwrap_or_default();
    if capacity.is_empty() {
        causes.required("spec.capacity", "");
    } else if capacity.len() > 1 || !capacity.contains_key("storage") {
        causes.unsupported("spec.capacity", to_value(&capacity), &["storage"]);
    } else {
        check_size("spec.capacity", Some(&capacity), causes);
    }
    let policies = &["Delete", "Recycle", "Retain"];
    causes.one_of("spec.persistentVolumeReclaimPolicy", spec.persistent_volume_reclaim_policy.as_ref(), policies);
    let sources = sources(spec);
    if sources.is_empty() {
        causes.required("spec", "must specify a volume type");
    }
    for source in sources.keys().skip(1) {
        causes.forbidden(format!("spec.{source}"), "may not specify more than 1 volume type");
    }
    check_class_and_mode(spec.storage_class_name.as_ref(), spec.volume_mode.as_ref(), causes);
}
