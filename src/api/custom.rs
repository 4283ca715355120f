//! Custom resources: kinds that a CustomResourceDefinition brings at run time.
//!
//! A definition is a kind like any other ([`definition`]); after each change of one, the registry serves its versions,
//! each a [`Custom`] with the rules of its structural schema. Objects are stored as they were written and shown in any
//! served version (`conversion.strategy: None`). Not served: conversion by webhooks, which would be a call to a Pod for
//! each read.
//!
//! Rules in CEL (`x-kubernetes-validations`) are kept in the schema and not evaluated; who writes a definition that has
//! any is told so. Of the crates for CEL, `cel` (0.15, MIT) is the one that is kept up. It checks no types ahead of
//! evaluation, so that a rule that does not fit its schema could not be refused when it is written, it has none of the
//! functions that Kubernetes adds (`quantity`, `isURL`, `ip`, `isSorted`, `find` and more), and no budget that ends a
//! costly rule. Half of the rules evaluated would refuse objects that are fine; none evaluated refuses none.

mod columns;
pub mod definition;
mod intern;
mod naming;
mod structural;
mod validate;

use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionSpec, CustomResourceDefinitionVersion,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::alloc::Reservation;
use super::causes::Causes;
use super::kinds::{AGE, Admitted, Column, Context, Info, NAME, Part, ScalePaths, Strategy};
use super::names::NameRule;
use super::object::{meta_mut, meta_str};
use super::schema::Schema;
use super::schema::builtin::Definitions;
use super::status::{About, ApiError};
use super::table::human_duration;
use columns::Cell;
use structural::Structural;

/// One version of a custom resource.
struct Custom {
    info: Info,
    structural: Structural,
    schema: Schema,
    /// The schema as OpenAPI has it, and its name there.
    open_api: Value,
    name: String,
    cells: Vec<Cell>,
    /// Whether the definition is being deleted: no new objects then.
    terminating: bool,
}

/// The versions that a definition serves; none until its names are accepted. The objects of a definition that is being
/// deleted can always be reached, so that they can be deleted.
pub(super) fn kinds_of(definition: &CustomResourceDefinition) -> Vec<Arc<dyn Strategy>> {
    if !definition::is_established(definition) {
        return Vec::new();
    }
    let any = definition.spec.versions.iter().any(|version| version.served);
    let last = |version: &CustomResourceDefinitionVersion| {
        !any && version.storage && definition.metadata.deletion_timestamp.is_some()
    };
    let served = definition.spec.versions.iter().filter(|version| version.served || last(version));
    served.map(|version| Arc::new(Custom::new(definition, version)) as Arc<dyn Strategy>).collect()
}

impl Custom {
    fn new(definition: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion) -> Self {
        let spec = &definition.spec;
        // Names that are not accepted are not served, but those from before are.
        let accepted = definition.status.as_ref().and_then(|status| status.accepted_names.as_ref());
        let names = accepted.unwrap_or(&spec.names);
        let given = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
        // The definition was checked when it was written.
        let structural =
            given.map(|schema| Structural::compile(schema, "", &mut Causes::default())).unwrap_or_default();
        let (columns, cells) = columns_of(version);
        let subresources = version.subresources.as_ref();
        let selectable: Vec<String> = version
            .selectable_fields
            .iter()
            .flatten()
            .map(|field| field.json_path.trim_start_matches('.').to_owned())
            .collect();
        let info = Info {
            group: intern::text(&spec.group),
            version: intern::text(&version.name),
            kind: intern::text(&names.kind),
            plural: intern::text(&names.plural),
            singular: intern::text(names.singular.as_deref().unwrap_or_default()),
            list_kind: intern::text(names.list_kind.as_deref().unwrap_or_default()),
            short_names: intern::list(names.short_names.as_deref().unwrap_or_default()),
            categories: intern::list(names.categories.as_deref().unwrap_or_default()),
            namespaced: spec.scope == "Namespaced",
            status: subresources.is_some_and(|subresources| subresources.status.is_some()),
            scale: subresources.and_then(|subresources| subresources.scale.as_ref()).map(|scale| ScalePaths {
                replicas: intern::text(&scale.spec_replicas_path),
                status_replicas: intern::text(&scale.status_replicas_path),
                selector: intern::text(scale.label_selector_path.as_deref().unwrap_or_default()),
            }),
            deprecation: deprecation(definition, version).map(|text| intern::text(&text)),
            generation: true,
            custom: true,
            conditional_update: true,
            name_rule: NameRule::Subdomain,
            fields: intern::list(&selectable),
            columns: intern::columns(columns),
            ..Info::DEFAULT
        };
        let name = open_api_name(&info);
        let open_api = given.and_then(|schema| serde_json::to_value(schema).ok()).unwrap_or_else(|| json!({}));
        let mut definitions = Definitions::default();
        let open_api = with_object_fields(open_api, &definitions.add::<ObjectMeta>());
        let schema = Schema::new(&open_api, &definitions.finish());
        let terminating = definition.metadata.deletion_timestamp.is_some();
        Self { info, structural, schema, open_api, name, cells, terminating }
    }

    fn admit(&self, mut value: Value, old: Option<&Value>, mut causes: Causes) -> Result<Admitted, ApiError> {
        if let Err(e) = ObjectMeta::deserialize(&value["metadata"]) {
            let Info { kind, version, .. } = &self.info;
            return Err(ApiError::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: metadata: cannot unmarshal: {e}"
            )));
        }
        super::object::prune(&mut value["metadata"]);
        self.structural.prune(&mut value);
        self.structural.fill_in(&mut value);
        validate::check(&self.structural, &value, old, &mut causes);
        if !causes.is_empty() {
            let about = About { group: self.info.group, resource: self.info.kind, name: meta_str(&value, "name") };
            return Err(ApiError::invalid(about, &causes.0));
        }
        Ok(Admitted { declared: None, value, reservation: Reservation::none() })
    }
}

impl Strategy for Custom {
    fn info(&self) -> &Info {
        &self.info
    }

    fn create(&self, _: &Context, mut object: Value, causes: Causes) -> Result<Admitted, ApiError> {
        if self.terminating {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(ApiError::method_not_allowed_because(why));
        }
        if self.info.status
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        self.admit(object, None, causes)
    }

    fn update(
        &self,
        _: &Context,
        mut new: Value,
        old: Value,
        part: Part,
        causes: Causes,
    ) -> Result<Admitted, ApiError> {
        if part == Part::Status {
            // Who owns what is written afterwards.
            new["metadata"] = old["metadata"].clone();
        }
        if new["status"].is_null()
            && let Some(fields) = new.as_object_mut()
        {
            fields.remove("status");
        }
        meta_mut(&mut new);
        self.admit(new, Some(&old), causes)
    }

    fn release(&self, _: &Context, _: Value) {}

    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn define(&self, definitions: &mut Definitions) -> String {
        definitions.add::<ObjectMeta>();
        definitions.insert(self.name.clone(), self.open_api.clone());
        self.name.clone()
    }

    fn cells(&self, object: &[u8], now: Timestamp) -> Vec<Value> {
        let object: Value = serde_json::from_slice(object).unwrap_or_default();
        let mut cells = vec![Value::from(meta_str(&object, "name"))];
        cells.extend(self.cells.iter().map(|cell| cell.show(&object, now)));
        if self.cells.len() + 1 < self.info.columns.len() {
            let created = meta_str(&object, "creationTimestamp").parse::<Timestamp>();
            cells.push(created.map_or(Value::Null, |time| human_duration(now.as_second() - time.as_second()).into()));
        }
        cells
    }
}

/// What clients of a deprecated version are told: what its definition says, else which newer version to use.
fn deprecation(definition: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion) -> Option<String> {
    if version.deprecated != Some(true) {
        return None;
    }
    let CustomResourceDefinitionSpec { group, names, versions, .. } = &definition.spec;
    let newer = versions.iter().filter(|other| other.served && other.deprecated != Some(true));
    let newer = newer.map(|other| other.name.as_str()).filter(|name| priority(name) > priority(&version.name));
    let standard = match newer.max_by_key(|name| priority(name)) {
        Some(newer) => {
            let kind = &names.kind;
            format!("{group}/{} {kind} is deprecated; use {group}/{newer} {kind}", version.name)
        }
        None => format!("{group}/{} {} is deprecated", version.name, names.kind),
    };
    Some(version.deprecation_warning.clone().unwrap_or(standard))
}

/// The order of versions, the best last: v1alpha1, v1beta1, v1beta2, v1, v2; names of another form come before all.
fn priority(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, rest) = rest.split_at(digits);
    let (stability, minor) = match rest {
        "" => (2, "0"),
        _ => rest.strip_prefix("beta").map(|minor| (1, minor)).or_else(|| Some((0, rest.strip_prefix("alpha")?)))?,
    };
    Some((stability, major.parse().ok()?, minor.parse().ok()?))
}

/// The columns of a version after its name; without any of its own there is the age.
fn columns_of(version: &CustomResourceDefinitionVersion) -> (Vec<Column>, Vec<Cell>) {
    let given = version.additional_printer_columns.as_deref().unwrap_or_default();
    if given.is_empty() {
        return (vec![NAME, AGE], Vec::new());
    }
    let (mut columns, mut cells) = (vec![NAME], Vec::new());
    for column in given {
        let Some(cell) = Cell::new(&column.json_path, &column.type_) else { continue };
        cells.push(cell);
        columns.push(Column {
            name: intern::text(&column.name),
            kind: intern::text(&column.type_),
            format: intern::text(column.format.as_deref().unwrap_or_default()),
            priority: column.priority.unwrap_or(0),
            description: intern::text(column.description.as_deref().unwrap_or_default()),
        });
    }
    (columns, cells)
}

/// `com.example.v1.Widget` for `widgets.example.com`.
fn open_api_name(info: &Info) -> String {
    let group: Vec<&str> = info.group.rsplit('.').collect();
    format!("{}.{}.{}", group.join("."), info.version, info.kind)
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// Every object has these fields, whether its schema says so or not.
fn with_object_fields(mut schema: Value, metadata: &str) -> Value {
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    let properties = &mut schema["properties"];
    properties["apiVersion"] = json!({"type": "string", "description": API_VERSION});
    properties["kind"] = json!({"type": "string", "description": KIND});
    let reference = json!({"$ref": format!("#/components/schemas/{metadata}")});
    properties["metadata"] = json!({"description": METADATA, "allOf": [reference]});
    schema
}

#[cfg(test)]
mod tests;
