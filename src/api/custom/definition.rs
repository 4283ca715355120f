//! CustomResourceDefinition (apiextensions.k8s.io/v1).
//!
//! Names are accepted in the write itself: who has created a definition can use it with the next request.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionStatus, CustomResourceDefinitionVersion,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::columns::Cell;
use super::naming;
use super::structural::Structural;
use crate::api::alloc::Reservation;
use crate::api::causes::Causes;
use crate::api::kinds::{Admitted, Column, Context, Info, NAME, Part, Strategy, column};
use crate::api::names::{self, NameRule};
use crate::api::object::{meta_mut, meta_str};
use crate::api::schema::builtin::{self, Definitions};
use crate::api::schema::{self, Schema};
use crate::api::status::{About, ApiError};

/// The resource as the store knows it.
pub const RESOURCE: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// Holds a definition that is being deleted until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

const COLUMNS: &[Column] = &[NAME, column("Created At", "The time at which the definition was created")];
const KIND: &str = "CustomResourceDefinition";

/// What the writer of a definition with rules in CEL is told.
const NOT_EVALUATED: &str =
    "Vipyard does not evaluate x-kubernetes-validations: objects that break these rules are accepted";

/// The kind of definitions. It works on JSON as it is: within a schema, empty strings and lists mean something.
pub struct DefinitionKind {
    info: Info,
    schema: std::sync::OnceLock<Schema>,
}

impl Default for DefinitionKind {
    fn default() -> Self {
        let info = Info {
            group: "apiextensions.k8s.io",
            kind: KIND,
            plural: "customresourcedefinitions",
            singular: "customresourcedefinition",
            short_names: &["crd", "crds"],
            categories: &["api-extensions"],
            namespaced: false,
            status: true,
            generation: true,
            defines_kinds: true,
            conditional_update: true,
            name_rule: NameRule::Subdomain,
            columns: COLUMNS,
            ..Info::DEFAULT
        };
        Self { info, schema: std::sync::OnceLock::new() }
    }
}

/// Whether the definition's names were accepted.
pub fn is_established(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
}

impl DefinitionKind {
    fn decode(&self, value: &Value) -> Result<CustomResourceDefinition, ApiError> {
        schema::decode(|| self.schema(), value).map_err(|why| {
            ApiError::bad_request(format!("{KIND} in version \"v1\" cannot be handled as a {KIND}: {why}"))
        })
    }

    fn default_names(value: &mut Value) {
        let kind = value["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
        let names = &mut value["spec"]["names"];
        if names["singular"].as_str().unwrap_or_default().is_empty() {
            names["singular"] = kind.to_lowercase().into();
        }
        if names["listKind"].as_str().unwrap_or_default().is_empty() {
            names["listKind"] = format!("{kind}List").into();
        }
        if value["spec"]["conversion"].is_null() {
            value["spec"]["conversion"] = serde_json::json!({"strategy": "None"});
        }
        if value["spec"]["preserveUnknownFields"] == false
            && let Some(spec) = value["spec"].as_object_mut()
        {
            spec.remove("preserveUnknownFields");
        }
    }

    fn finish(&self, value: Value, declared: Value, causes: &Causes) -> Result<Admitted, ApiError> {
        if causes.is_empty() {
            return Ok(Admitted { value, declared: Some(declared), reservation: Reservation::none() });
        }
        let about = About { group: self.info.group, resource: KIND, name: meta_str(&value, "name") };
        Err(ApiError::invalid(about, &causes.0))
    }
}

impl Strategy for DefinitionKind {
    fn info(&self) -> &Info {
        &self.info
    }

    fn create(&self, ctx: &Context, mut object: Value, mut causes: Causes) -> Result<Admitted, ApiError> {
        self.decode(&object)?;
        Self::default_names(&mut object);
        crate::api::object::prune(&mut object["metadata"]);
        let declared = object.clone();
        let definition = self.decode(&object)?;
        check(&definition, &mut causes);
        object["status"] = naming::status(ctx, &definition, None)?;
        let metadata = meta_mut(&mut object);
        let mut finalizers: Vec<Value> =
            metadata.get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
        if !finalizers.iter().any(|name| name == CLEANUP_FINALIZER) {
            finalizers.push(CLEANUP_FINALIZER.into());
        }
        metadata.insert("finalizers".into(), finalizers.into());
        self.finish(object, declared, &causes)
    }

    fn update(
        &self,
        ctx: &Context,
        mut new: Value,
        old: Value,
        part: Part,
        mut causes: Causes,
    ) -> Result<Admitted, ApiError> {
        self.decode(&new)?;
        Self::default_names(&mut new);
        crate::api::object::prune(&mut new["metadata"]);
        let declared = new.clone();
        let (definition, before) = (self.decode(&new)?, self.decode(&old)?);
        check(&definition, &mut causes);
        for (field, new, old) in [
            ("spec.scope", &definition.spec.scope, &before.spec.scope),
            ("spec.group", &definition.spec.group, &before.spec.group),
            ("spec.names.kind", &definition.spec.names.kind, &before.spec.names.kind),
            ("spec.names.plural", &definition.spec.names.plural, &before.spec.names.plural),
        ] {
            if new != old {
                causes.invalid(field, new.as_str(), "field is immutable");
            }
        }
        if part == Part::Main {
            check_stored_versions(&definition, before.status.as_ref(), &mut causes);
            new["status"] = naming::status(ctx, &definition, before.status)?;
        }
        self.finish(new, declared, &causes)
    }

    fn release(&self, _: &Context, _: Value) {}

    fn warnings(&self, new: &Value, _: Option<&Value>) -> Vec<String> {
        if has_rules(&new["spec"]["versions"]) { vec![NOT_EVALUATED.to_owned()] } else { Vec::new() }
    }

    fn schema(&self) -> &Schema {
        self.schema.get_or_init(builtin::schema::<CustomResourceDefinition>)
    }

    fn define(&self, definitions: &mut Definitions) -> String {
        definitions.add::<CustomResourceDefinition>()
    }

    fn cells(&self, object: &[u8], _: Timestamp) -> Vec<Value> {
        let object: Value = serde_json::from_slice(object).unwrap_or_default();
        vec![meta_str(&object, "name").into(), meta_str(&object, "creationTimestamp").into()]
    }
}

/// Whether a schema in `value` has rules in CEL. A field of an object may have the same name: then its schema is there,
/// and no list.
fn has_rules(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            (name == "x-kubernetes-validations" && value.as_array().is_some_and(|rules| !rules.is_empty()))
                || has_rules(value)
        }),
        Value::Array(items) => items.iter().any(has_rules),
        _ => false,
    }
}

fn check(definition: &CustomResourceDefinition, causes: &mut Causes) {
    let spec = &definition.spec;
    let name = definition.metadata.name.as_deref().unwrap_or_default();
    let expected = format!("{}.{}", spec.names.plural, spec.group);
    if name != expected {
        causes.invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group");
    }
    if spec.group.is_empty() {
        causes.required("spec.group", "");
    } else {
        names::subdomain_errors(&spec.group)
            .into_iter()
            .for_each(|e| causes.invalid("spec.group", spec.group.as_str(), e));
        if !spec.group.contains('.') {
            causes.invalid("spec.group", spec.group.as_str(), "should be a domain with at least one dot");
        }
    }
    causes.one_of("spec.scope", Some(&spec.scope), &["Cluster", "Namespaced"]);
    check_names(definition, causes);
    if let Some(CustomResourceConversion { strategy, .. }) = &spec.conversion {
        causes.one_of("spec.conversion.strategy", Some(strategy), &["None"]);
    }
    if spec.preserve_unknown_fields == Some(true) {
        causes.invalid(
            "spec.preserveUnknownFields",
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        );
    }
    if spec.versions.is_empty() {
        causes.required("spec.versions", "must have at least one version");
    }
    let storage = spec.versions.iter().filter(|version| version.storage).count();
    if !spec.versions.is_empty() && storage != 1 {
        let versions = serde_json::to_value(&spec.versions).unwrap_or_default();
        causes.invalid("spec.versions", versions, "must have exactly one version marked as storage version");
    }
    for (i, version) in spec.versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        if spec.versions[..i].iter().any(|other| other.name == version.name) {
            causes.invalid(format!("{path}.name"), version.name.as_str(), "must contain unique version names");
        }
        check_version(version, &path, causes);
    }
}

fn check_names(definition: &CustomResourceDefinition, causes: &mut Causes) {
    let given = &definition.spec.names;
    let singular = given.singular.clone().unwrap_or_default();
    for (field, name) in [("plural", &given.plural), ("singular", &singular)] {
        let field = format!("spec.names.{field}");
        if name.is_empty() {
            causes.required(field, "");
        } else {
            names::label_errors(name).into_iter().for_each(|e| causes.invalid(field.as_str(), name.as_str(), e));
        }
    }
    if given.kind.is_empty() {
        causes.required("spec.names.kind", "");
    } else {
        let lower = given.kind.to_lowercase();
        names::label_errors(&lower).into_iter().for_each(|e| {
            let why = format!("may have mixed case, but should otherwise match: {e}");
            causes.invalid("spec.names.kind", given.kind.as_str(), why);
        });
    }
    for (i, short) in given.short_names.iter().flatten().enumerate() {
        let field = format!("spec.names.shortNames[{i}]");
        names::label_errors(short).into_iter().for_each(|e| causes.invalid(field.as_str(), short.as_str(), e));
    }
}

/// Objects may be stored in a version until `status.storedVersions` says otherwise: it cannot go before.
fn check_stored_versions(
    definition: &CustomResourceDefinition,
    status: Option<&CustomResourceDefinitionStatus>,
    causes: &mut Causes,
) {
    let stored = status.and_then(|status| status.stored_versions.as_deref()).unwrap_or_default();
    for (i, name) in stored.iter().enumerate() {
        if !definition.spec.versions.iter().any(|version| version.name == *name) {
            causes.invalid(format!("status.storedVersions[{i}]"), name.as_str(), "must appear in spec.versions");
        }
    }
}

fn check_version(version: &CustomResourceDefinitionVersion, path: &str, causes: &mut Causes) {
    names::label_errors(&version.name)
        .into_iter()
        .for_each(|e| causes.invalid(format!("{path}.name"), version.name.as_str(), e));
    match version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()) {
        Some(schema) => {
            Structural::compile(schema, &format!("{path}.schema.openAPIV3Schema"), causes);
        }
        None => causes.required(format!("{path}.schema.openAPIV3Schema"), "schemas are required"),
    }
    for (i, column) in version.additional_printer_columns.iter().flatten().enumerate() {
        let path = format!("{path}.additionalPrinterColumns[{i}]");
        if column.name.is_empty() {
            causes.required(format!("{path}.name"), "");
        }
        let types = ["boolean", "date", "integer", "number", "string"];
        causes.one_of(&format!("{path}.type"), Some(&column.type_), &types);
        if Cell::new(&column.json_path, &column.type_).is_none() {
            let why = "must be a simple json path starting with .";
            causes.invalid(format!("{path}.jsonPath"), column.json_path.as_str(), why);
        }
    }
    if let Some(scale) = version.subresources.as_ref().and_then(|subresources| subresources.scale.as_ref()) {
        for (field, value, within) in [
            ("specReplicasPath", &scale.spec_replicas_path, ".spec."),
            ("statusReplicasPath", &scale.status_replicas_path, ".status."),
        ] {
            if !value.starts_with(within) {
                let why = format!("should be a json path under {within}");
                causes.invalid(format!("{path}.subresources.scale.{field}"), value.as_str(), why.trim_end_matches('.'));
            }
        }
        let selector = scale.label_selector_path.as_deref().unwrap_or_default();
        if !selector.is_empty() && ![".spec.", ".status."].iter().any(|within| selector.starts_with(within)) {
            let why = "should be a json path under either .spec or .status";
            causes.invalid(format!("{path}.subresources.scale.labelSelectorPath"), selector, why);
        }
    }
}
