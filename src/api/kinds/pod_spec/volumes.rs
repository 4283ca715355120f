//! Volumes: each has a name of its own and exactly one source.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, PersistentVolumeClaimSpec, ProjectedVolumeSource, Volume,
    VolumeProjection,
};
use serde_json::{Map, Value};

use super::super::checks::{check_descending_path, check_no_backsteps, text, to_value};
use super::super::quantity;
use super::env;
use crate::api::causes::Causes;
use crate::api::names::label_errors;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
/// Fields that may be read into a file.
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
/// The sources in the order in which they are looked at.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];
/// What sources of storage that this cluster does not have must name at least.
const REQUIRED: &[(&str, &[&str])] = &[
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("nfs", &["server", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("csi", &["driver"]),
    ("secret", &["secretName"]),
    ("configMap", &["name"]),
];

/// The valid volumes by name, for the mounts that refer to them.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Volume>;

pub(super) fn check<'a>(volumes: &'a [Volume], at: &str, causes: &mut Causes) -> Volumes<'a> {
    let mut valid = Volumes::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let before = causes.0.len();
        check_source(volume, &at, causes);
        if volume.name.is_empty() {
            causes.required(format!("{at}.name"), "");
        } else {
            causes.all(&format!("{at}.name"), &volume.name, label_errors(&volume.name));
        }
        if valid.contains_key(volume.name.as_str()) {
            causes.duplicate(format!("{at}.name"), volume.name.as_str());
        }
        // A volume that breaks a rule cannot be mounted.
        if causes.0.len() == before {
            valid.insert(&volume.name, volume);
        }
    }
    valid
}

fn check_source(volume: &Volume, at: &str, causes: &mut Causes) {
    let fields: Map<String, Value> = to_value(volume).as_object().cloned().unwrap_or_default();
    let mut sources = SOURCES.iter().filter(|source| fields.contains_key(**source));
    let Some(first) = sources.next() else {
        causes.required(at, "must specify a volume type");
        return;
    };
    check_first(volume, first, &fields[*first], &format!("{at}.{first}"), causes);
    sources.for_each(|source| causes.forbidden(format!("{at}.{source}"), "may not specify more than 1 volume type"));
}

fn check_first(volume: &Volume, source: &str, fields: &Value, at: &str, causes: &mut Causes) {
    for field in REQUIRED.iter().filter(|(name, _)| *name == source).flat_map(|(_, fields)| *fields) {
        let missing = match &fields[*field] {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        if missing {
            causes.required(format!("{at}.{field}"), "");
        }
    }
    if let Some(size) = volume.empty_dir.as_ref().and_then(|empty_dir| empty_dir.size_limit.as_ref())
        && quantity::parse(&size.0).is_none_or(|size| size.nano < 0)
    {
        causes.forbidden(format!("{at}.sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
    if let Some(host_path) = &volume.host_path {
        check_host_path(host_path, at, causes);
    }
    if let Some(nfs) = volume.nfs.as_ref().filter(|nfs| !nfs.path.starts_with('/')) {
        causes.invalid(format!("{at}.path"), nfs.path.as_str(), "must be an absolute path");
    }
    if let Some(secret) = &volume.secret {
        check_mode(secret.default_mode, &format!("{at}.defaultMode"), causes);
        check_items(secret.items.as_deref(), &format!("{at}.items"), causes);
    }
    if let Some(config_map) = &volume.config_map {
        check_mode(config_map.default_mode, &format!("{at}.defaultMode"), causes);
        check_items(config_map.items.as_deref(), &format!("{at}.items"), causes);
    }
    if let Some(downward) = &volume.downward_api {
        check_mode(downward.default_mode, &format!("{at}.defaultMode"), causes);
        // The reference names the source here, not the item.
        downward.items.iter().flatten().for_each(|file| check_file(file, at, causes));
    }
    if let Some(projected) = &volume.projected {
        check_projected(projected, at, causes);
    }
    if let Some(ephemeral) = &volume.ephemeral {
        match &ephemeral.volume_claim_template {
            None => causes.required(format!("{at}.volumeClaimTemplate"), ""),
            Some(template) => check_claim(&template.spec, &format!("{at}.volumeClaimTemplate.spec"), causes),
        }
    }
}

fn check_host_path(host_path: &HostPathVolumeSource, at: &str, causes: &mut Causes) {
    if host_path.path.is_empty() {
        causes.required(format!("{at}.path"), "");
        return;
    }
    check_no_backsteps(causes, &format!("{at}.path"), &host_path.path);
    causes.one_of(&format!("{at}.type"), host_path.type_.as_ref(), HOST_PATH_TYPES);
}

fn check_mode(mode: Option<i32>, field: &str, causes: &mut Causes) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        causes.invalid(field, mode, MODE);
    }
}

/// A path inside a volume: relative, without `..` at its start.
fn check_file_path(path: &str, field: &str, causes: &mut Causes) {
    check_descending_path(causes, field, path);
    if path.starts_with("..") && !path.starts_with("../") && path != ".." {
        causes.invalid(field, path, "must not start with '..'");
    }
}

fn check_items(items: Option<&[KeyToPath]>, at: &str, causes: &mut Causes) {
    for (i, item) in items.unwrap_or_default().iter().enumerate() {
        let at = format!("{at}[{i}]");
        if item.key.is_empty() {
            causes.required(format!("{at}.key"), "");
        }
        if item.path.is_empty() {
            causes.required(format!("{at}.path"), "");
        }
        check_file_path(&item.path, &format!("{at}.path"), causes);
        check_mode(item.mode, &format!("{at}.mode"), causes);
    }
}

fn check_file(file: &DownwardAPIVolumeFile, at: &str, causes: &mut Causes) {
    if file.path.is_empty() {
        causes.required(format!("{at}.path"), "");
    }
    check_file_path(&file.path, &format!("{at}.path"), causes);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            env::check_field(field, FILE_FIELDS, &format!("{at}.fieldRef"), causes);
            if resource.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                causes.invalid(at, "resource", detail);
            }
        }
        (None, Some(resource)) => env::check_resource(resource, true, &format!("{at}.resourceFieldRef"), causes),
        (None, None) => causes.required(at, "one of fieldRef and resourceFieldRef is required"),
    }
    check_mode(file.mode, &format!("{at}.mode"), causes);
}

fn check_projected(projected: &ProjectedVolumeSource, at: &str, causes: &mut Causes) {
    check_mode(projected.default_mode, &format!("{at}.defaultMode"), causes);
    let mut paths = HashSet::new();
    for (i, source) in projected.sources.iter().flatten().enumerate() {
        let source_at = format!("{at}.sources[{i}]");
        let count = to_value(source).as_object().map_or(0, Map::len);
        check_projection(source, at, &source_at, causes);
        for path in files(source) {
            if !path.is_empty() && !paths.insert(path.to_owned()) {
                causes.invalid(at, path, "conflicting duplicate paths");
            }
        }
        if count > 1 {
            causes.forbidden(source_at, "may not specify more than 1 volume type per source");
        }
    }
}

fn check_projection(source: &VolumeProjection, volume: &str, at: &str, causes: &mut Causes) {
    let named = [
        ("secret", source.secret.as_ref().map(|secret| (&secret.name, secret.items.as_deref()))),
        ("configMap", source.config_map.as_ref().map(|config_map| (&config_map.name, config_map.items.as_deref()))),
    ];
    for (kind, source) in named {
        let Some((name, items)) = source else { continue };
        if name.is_empty() {
            causes.required(format!("{at}.{kind}.name"), "");
        }
        check_items(items, &format!("{at}.{kind}.items"), causes);
    }
    for file in source.downward_api.iter().flat_map(|downward| downward.items.iter().flatten()) {
        check_file(file, &format!("{at}.downwardAPI"), causes);
    }
    if let Some(token) = &source.service_account_token {
        let field = format!("{at}.serviceAccountToken.expirationSeconds");
        let seconds = token.expiration_seconds.unwrap_or_default();
        if seconds < 600 {
            causes.invalid(&field, seconds, "may not specify a duration less than 10 minutes");
        } else if seconds > 1 << 32 {
            causes.invalid(&field, seconds, "may not specify a duration larger than 2^32 seconds");
        }
        // The reference names the volume here, not the source.
        if token.path.is_empty() {
            causes.required(format!("{volume}.path"), "");
        } else {
            check_file_path(&token.path, &format!("{volume}.path"), causes);
        }
    }
}

/// The paths of the files that a source makes, as far as it says.
fn files(source: &VolumeProjection) -> Vec<&str> {
    let items = source.secret.iter().flat_map(|secret| secret.items.iter().flatten());
    let items = items.chain(source.config_map.iter().flat_map(|config_map| config_map.items.iter().flatten()));
    let downward = source.downward_api.iter().flat_map(|downward| downward.items.iter().flatten());
    items.map(|item| item.path.as_str()).chain(downward.map(|file| file.path.as_str())).collect()
}

/// What a claim for storage must say; also of the claims of a StatefulSet.
fn check_claim(spec: &PersistentVolumeClaimSpec, at: &str, causes: &mut Causes) {
    if text_list(spec.access_modes.as_deref()).is_empty() {
        causes.required(format!("{at}.accessModes"), "at least 1 access mode is required");
    }
    for mode in text_list(spec.access_modes.as_deref()) {
        let modes = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
        causes.one_of(&format!("{at}.accessModes"), Some(mode), modes);
    }
    let storage = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage"));
    match storage {
        None => causes.required(format!("{at}.resources[storage]"), ""),
        Some(size) if quantity::parse(&size.0).is_none_or(|size| size.nano <= 0) => {
            causes.invalid(format!("{at}.resources[storage]"), size.0.as_str(), super::super::checks::NOT_POSITIVE);
        }
        Some(_) => {}
    }
    let class = text(&spec.storage_class_name);
    if !class.is_empty() {
        causes.all(&format!("{at}.storageClassName"), class, crate::api::names::subdomain_errors(class));
    }
    causes.one_of(&format!("{at}.volumeMode"), spec.volume_mode.as_ref(), &["Block", "Filesystem"]);
}

fn text_list(list: Option<&[String]>) -> &[String] {
    list.unwrap_or_default()
}
