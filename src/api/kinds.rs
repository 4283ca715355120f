//! The served kinds: one file per kind says its defaults, rules, what may change, and its columns.
//!
//! Verbs work on JSON values and know nothing of kinds; a [`Kind`] works on its typed object. [`Typed`] stands between
//! and is where JSON is checked against the type: a wrong type is refused with its path, unknown fields fall away.

mod checks;
mod config_map;
mod controller_revision;
mod cron_job;
mod cron_schedule;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod events_event;
mod ingress;
mod ingress_class;
mod ip_address;
mod job;
mod lease;
mod namespace;
mod network_policy;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_columns;
mod pod_disruption_budget;
mod pod_spec;
mod priority_class;
mod quantity;
mod rbac;
mod registry;
mod replica_set;
mod replication_controller;
mod secret;
mod service;
mod service_account;
mod service_addresses;
mod service_cidr;
mod service_validation;
mod service_warnings;
mod stateful_set;
mod storage;
mod template;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::networking::v1::IPAddress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::alloc::{Allocators, Reservation};
use super::causes::Causes;
use super::names::NameRule;
use super::schema::builtin::{self, Definitions};
use super::schema::{self, Schema};
use super::status::ApiError;
use crate::config::{Network, NodeTimes};
use crate::store::Store;

pub use checks::{scaled_down, scaled_up, selects};
pub use cron_schedule::{CronSchedule, parse as parse_schedule};
pub use persistent_volume_claim::PROTECTION as CLAIM_PROTECTION;
pub(crate) use quantity::billionths;
pub use registry::{Registry, Resources};

pub(super) use events_event::{check as event_rules, from_core as event_from_core, to_core as event_to_core};

/// Group and name of PodDisruptionBudgets, which evictions ask.
pub(super) const BUDGETS_GROUP: &str = "policy";
pub(super) const BUDGETS: &str = "poddisruptionbudgets";

/// What is fixed about a kind.
#[derive(Clone, Debug)]
pub struct Info {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    /// The kind of lists, where it is not the kind with `List` behind it.
    pub list_kind: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// Whether the kind has a `status` subresource, so that a write to the object leaves its status alone.
    pub status: bool,
    /// Where the kind's `scale` subresource reads and writes, if it has one.
    pub scale: Option<ScalePaths>,
    /// What every client of this version is told.
    pub deprecation: Option<&'static str>,
    /// Whether `metadata.generation` counts the changes of `spec`.
    pub generation: bool,
    /// Whether a CustomResourceDefinition brought the kind.
    pub custom: bool,
    /// Whether the kind's objects define kinds.
    pub defines_kinds: bool,
    /// Whether a PUT must say which version it replaces.
    pub conditional_update: bool,
    /// Whether a PUT to a name that is not there creates it.
    pub create_on_update: bool,
    /// Whether a DELETE that says nothing of dependents leaves them, as it did before there was garbage collection.
    pub orphans_dependents: bool,
    /// Whether a DELETE answers with the deleted object rather than with a Status.
    pub returns_deleted: bool,
    pub name_rule: NameRule,
    /// Fields that are null when unset rather than left out, as Go writes them without `omitempty`: of the object,
    pub nulls: &'static [&'static str],
    /// and the times of each of its conditions.
    pub condition_times: &'static [&'static str],
    /// The texts of each of its conditions that are there even when empty.
    pub condition_texts: &'static [&'static str],
    /// Field selectors beyond the two of metadata.
    pub fields: &'static [&'static str],
    pub columns: &'static [Column],
}

impl Info {
    /// What most kinds have in common.
    pub const DEFAULT: Self = Self {
        group: "",
        version: "v1",
        kind: "",
        plural: "",
        singular: "",
        list_kind: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        status: false,
        scale: None,
        deprecation: None,
        generation: false,
        custom: false,
        defines_kinds: false,
        conditional_update: false,
        create_on_update: false,
        orphans_dependents: false,
        returns_deleted: false,
        name_rule: NameRule::Subdomain,
        nulls: &[],
        condition_times: &[],
        condition_texts: &[],
        fields: &[],
        columns: &[NAME, AGE],
    };

    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    pub fn list_kind(&self) -> String {
        if self.list_kind.is_empty() { format!("{}List", self.kind) } else { self.list_kind.to_owned() }
    }

    fn show_empty(&self, object: &mut Value) {
        let show = |value: &mut Value, names: &[&str]| {
            let Some(fields) = value.as_object_mut() else { return };
            for name in names {
                fields.entry(*name).or_insert(Value::Null);
            }
        };
        show(object, self.nulls);
        for condition in object.pointer_mut("/status/conditions").and_then(Value::as_array_mut).into_iter().flatten() {
            show(condition, self.condition_times);
            for name in self.condition_texts {
                condition.as_object_mut().map(|fields| fields.entry(*name).or_insert_with(|| "".into()));
            }
        }
    }

    /// Whether this is a kind of the core group: others may have the same name.
    pub(super) fn is_core(&self, kind: &str) -> bool {
        self.group.is_empty() && self.kind == kind
    }

    /// Whether IPAddresses come and go with the kind's objects.
    pub(super) fn has_addresses(&self) -> bool {
        self.is_core("Service")
    }

    /// Namespaces go one by one only.
    pub fn deletes_collections(&self) -> bool {
        !self.is_core("Namespace")
    }

    /// The name of the resource in the store: `services`, `endpointslices.discovery.k8s.io`.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// The fields behind a `scale` subresource, as simple JSON paths (`.spec.replicas`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    pub replicas: &'static str,
    pub status_replicas: &'static str,
    /// A selector as an object, or as the text of one; empty for none.
    pub selector: &'static str,
}

impl ScalePaths {
    /// Those of the built-in workloads.
    pub const WORKLOAD: Self =
        Self { replicas: ".spec.replicas", status_replicas: ".status.replicas", selector: ".spec.selector" };
}

/// A column of `kubectl get`; those with a priority above 0 are shown with `-o wide`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Column {
    pub name: &'static str,
    pub kind: &'static str,
    pub format: &'static str,
    pub priority: i32,
    pub description: &'static str,
}

pub(super) const fn column(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 0, description }
}

pub(in crate::api) const fn integer(name: &'static str, description: &'static str) -> Column {
    Column { kind: "integer", ..column(name, description) }
}

pub(super) const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 1, description }
}

pub(in crate::api) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
};

pub(in crate::api) const AGE: Column = column(
    "Age",
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
);

/// What rules may look at besides the object.
#[derive(Clone)]
pub struct Context {
    pub network: Network,
    pub node_times: NodeTimes,
    pub allocators: Arc<Allocators>,
    pub store: Store,
}

/// What `metav1.Condition` always says, for [`Info::condition_texts`].
pub(super) const STANDARD_TEXTS: &[&str] = &["reason", "message"];

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The object itself; its status stays as it was where the kind has a status subresource.
    Main,
    Status,
    /// `finalize` of a Namespace.
    Finalize,
    /// `ephemeralcontainers` of a Pod.
    EphemeralContainers,
    /// `resize` of a Pod.
    Resize,
}

/// The rules of one kind. Every method has a default that does nothing.
pub trait Kind: Send + Sync + 'static {
    type Object: Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + JsonSchema + Send;
    const INFO: Info;
    /// Whether the rules give objects fields that clients leave out, beyond defaults: addresses, volumes.
    const ASSIGNS: bool = true;

    /// Fills in what a client left out; also run on updates.
    fn default(_object: &mut Self::Object) {}

    /// Prepares and checks a new object.
    fn create(_ctx: &Context, _object: &mut Self::Object, _causes: &mut Causes) -> Result<(), ApiError> {
        Ok(())
    }

    /// Prepares and checks a changed object.
    fn update(_ctx: &Context, _new: &mut Self::Object, _old: &Self::Object, _part: Part, _causes: &mut Causes) {}

    /// Takes from the allocators what the object needs. What is taken goes back unless the write is committed.
    fn reserve(
        _ctx: &Context,
        _new: &mut Self::Object,
        _old: Option<&Self::Object>,
        _causes: &mut Causes,
    ) -> Result<Reservation, ApiError> {
        Ok(Reservation::none())
    }

    /// Gives back what a deleted object held.
    fn release(_ctx: &Context, _object: &Self::Object) {}

    /// What the one who makes an object should know; nothing for most kinds.
    const NOTICE: Option<&'static str> = None;

    /// What the writer of an object should know.
    fn warnings(_new: &Value, old: Option<&Value>) -> Vec<String> {
        Self::NOTICE.filter(|_| old.is_none()).map(str::to_owned).into_iter().collect()
    }

    /// One table cell per column.
    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        vec![name_cell(object), age_cell(object, now)]
    }
}

pub(super) fn name_cell<T: Metadata<Ty = ObjectMeta>>(object: &T) -> Value {
    object.metadata().name.clone().unwrap_or_default().into()
}

pub(in crate::api) fn age_cell<T: Metadata<Ty = ObjectMeta>>(object: &T, now: Timestamp) -> Value {
    match &object.metadata().creation_timestamp {
        Some(created) => super::table::human_duration(now.as_second() - created.0.as_second()).into(),
        None => "<unknown>".into(),
    }
}

/// An object that passed its kind's rules and may be written.
#[derive(Debug)]
pub struct Admitted {
    pub value: Value,
    /// The object as the client declared it, with defaults, before rules gave it addresses and the like: what its
    /// writer owns. `None` where that is the object as it is.
    pub declared: Option<Value>,
    pub reservation: Reservation,
}

/// A kind with its type erased.
pub trait Strategy: Send + Sync {
    fn info(&self) -> &Info;
    /// Checks a new object. The metadata rules that all kinds share have been checked; their causes are in `causes`.
    fn create(&self, ctx: &Context, object: Value, causes: Causes) -> Result<Admitted, ApiError>;
    fn update(&self, ctx: &Context, new: Value, old: Value, part: Part, causes: Causes) -> Result<Admitted, ApiError>;
    fn release(&self, ctx: &Context, object: Value);
    /// What the writer of an object should know, in `Warning` headers.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }
    /// The structure of the kind's objects.
    fn schema(&self) -> &Schema;
    /// Adds the kind's type to a description of the API, and returns its name there.
    fn define(&self, definitions: &mut Definitions) -> String;
    fn cells(&self, object: &[u8], now: Timestamp) -> Vec<Value>;
}

struct Typed<K> {
    info: Info,
    /// Made when it is first needed: most clusters never see most kinds.
    schema: OnceLock<Schema>,
    kind: PhantomData<fn(K)>,
}

impl<K: Kind> Typed<K> {
    fn boxed() -> Arc<dyn Strategy> {
        Arc::new(Self { info: K::INFO, schema: OnceLock::new(), kind: PhantomData })
    }

    fn decode(&self, mut value: Value) -> Result<K::Object, ApiError> {
        let refused = |why: String| {
            let Info { kind, version, .. } = self.info;
            ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
        };
        quantity::normalize(&mut value).map_err(|e| refused(e.into()))?;
        schema::decode(|| self.schema(), &value).map_err(refused)
    }

    /// An object that came out of the store always has its type; a failure is a defect of ours.
    fn stored(value: &Value) -> Result<K::Object, ApiError> {
        K::Object::deserialize(value).map_err(ApiError::internal)
    }

    fn encode(&self, object: &K::Object) -> Result<Value, ApiError> {
        let mut value = serde_json::to_value(object).map_err(ApiError::internal)?;
        super::object::prune(&mut value);
        self.info.show_empty(&mut value);
        Ok(value)
    }

    fn finish(
        &self,
        object: &K::Object,
        declared: Option<Value>,
        reservation: Reservation,
        causes: Causes,
    ) -> Result<Admitted, ApiError> {
        if !causes.is_empty() {
            let name = object.metadata().name.as_deref().unwrap_or_default();
            let about = super::status::About { group: self.info.group, resource: self.info.kind, name };
            return Err(ApiError::invalid(about, &causes.0));
        }
        Ok(Admitted { value: self.encode(object)?, declared, reservation })
    }
}

impl<K: Kind> Strategy for Typed<K> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn create(&self, ctx: &Context, object: Value, mut causes: Causes) -> Result<Admitted, ApiError> {
        let mut object = self.decode(object)?;
        K::default(&mut object);
        let declared = if K::ASSIGNS { Some(self.encode(&object)?) } else { None };
        K::create(ctx, &mut object, &mut causes)?;
        let reservation =
            if causes.is_empty() { K::reserve(ctx, &mut object, None, &mut causes)? } else { Reservation::none() };
        self.finish(&object, declared, reservation, causes)
    }

    fn update(
        &self,
        ctx: &Context,
        new: Value,
        old: Value,
        part: Part,
        mut causes: Causes,
    ) -> Result<Admitted, ApiError> {
        let mut new = self.decode(new)?;
        let old = Self::stored(&old)?;
        K::default(&mut new);
        // With a status nothing is given, and some of what came along with it is not taken.
        let assigns = K::ASSIGNS && part != Part::Status;
        let declared = if assigns { Some(self.encode(&new)?) } else { None };
        K::update(ctx, &mut new, &old, part, &mut causes);
        let reserve = causes.is_empty() && part == Part::Main;
        let reservation =
            if reserve { K::reserve(ctx, &mut new, Some(&old), &mut causes)? } else { Reservation::none() };
        self.finish(&new, declared, reservation, causes)
    }

    fn release(&self, ctx: &Context, object: Value) {
        if let Ok(object) = Self::stored(&object) {
            K::release(ctx, &object);
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        K::warnings(new, old)
    }

    fn schema(&self) -> &Schema {
        self.schema.get_or_init(builtin::schema::<K::Object>)
    }

    fn define(&self, definitions: &mut Definitions) -> String {
        definitions.add::<K::Object>()
    }

    fn cells(&self, object: &[u8], now: Timestamp) -> Vec<Value> {
        match serde_json::from_slice(object) {
            Ok(object) => K::cells(&object, now),
            Err(_) => self.info.columns.iter().map(|_| Value::Null).collect(),
        }
    }
}

/// A selector in the form that list requests take.
pub(super) fn selector_text(selector: &LabelSelector) -> String {
    if checks::is_empty(selector) { String::new() } else { checks::format_selector(Some(selector)) }
}

/// What a stored Service holds of the allocators.
pub(super) fn held_by(spec: &ServiceSpec) -> Vec<super::alloc::Item> {
    service_addresses::held(spec)
}

/// What a stored IPAddress keeps from Services.
pub(super) fn kept_by(address: &IPAddress) -> Option<super::alloc::Item> {
    ip_address::held(address)
}
