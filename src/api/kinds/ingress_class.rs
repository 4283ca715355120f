//! IngressClass (networking.k8s.io/v1).

use k8s_openapi::api::networking::v1::{IngressClass, IngressClassParametersReference, IngressClassSpec};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::text;
use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell};
use crate::api::causes::Causes;
use crate::api::names::{NameRule, label_errors, subdomain_errors};
use crate::api::status::ApiError;

const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
const MAX_CONTROLLER: usize = 250;

pub struct Kind;

impl super::Kind for Kind {
    type Object = IngressClass;
    const INFO: Info = Info {
        group: "networking.k8s.io",
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        namespaced: false,
        generation: true,
        columns: &[
            NAME,
            column("Controller", "Controller that is responsible for handling this class"),
            column("Parameters", "A reference to a resource with additional parameters"),
            AGE,
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut IngressClass) {
        if let Some(parameters) = object.spec.as_mut().and_then(|spec| spec.parameters.as_mut()) {
            parameters.scope.get_or_insert_with(|| "Cluster".into());
        }
    }

    fn create(_: &Context, object: &mut IngressClass, causes: &mut Causes) -> Result<(), ApiError> {
        check(object.spec.get_or_insert_default(), causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut IngressClass, old: &IngressClass, _: Part, causes: &mut Causes) {
        let spec = new.spec.get_or_insert_default();
        let before = old.spec.clone().unwrap_or_default();
        causes.immutable("spec.controller", &spec.controller, &before.controller);
        check(spec, causes);
    }

    fn cells(object: &IngressClass, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let parameters = spec.parameters.map_or_else(
            || "<none>".into(),
            |parameters| {
                let group = parameters.api_group.filter(|group| !group.is_empty());
                let group = group.map(|group| format!(".{group}")).unwrap_or_default();
                format!("{}{group}/{}", parameters.kind, parameters.name)
            },
        );
        vec![name_cell(object), text(&spec.controller).into(), parameters.into(), age_cell(object, now)]
    }
}

/// Whether Ingresses without a class get this one (IG1).
pub(super) fn is_default(class: &IngressClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(DEFAULT_ANNOTATION)).is_some_and(|value| value == "true")
}

fn check(spec: &IngressClassSpec, causes: &mut Causes) {
    let controller = text(&spec.controller);
    if controller.is_empty() {
        causes.required("spec.controller", "");
    } else {
        if controller.len() > MAX_CONTROLLER {
            causes.too_long("spec.controller", MAX_CONTROLLER);
        }
        check_prefixed_path(controller, causes);
    }
    if let Some(parameters) = &spec.parameters {
        check_parameters(parameters, causes);
    }
}

/// A domain, a slash and a path, as in `example.com/ingress-controller`.
fn check_prefixed_path(controller: &str, causes: &mut Causes) {
    const FIELD: &str = "spec.controller";
    let Some((domain, path)) =
        controller.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty())
    else {
        causes.invalid(FIELD, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        return;
    };
    causes.all(FIELD, domain, subdomain_errors(domain));
    let valid = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.~%!$&'()*+,;=:".contains(&b));
    if !valid {
        let regex = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
        causes.invalid(FIELD, path, format!("Invalid path (regex used for validation is '{regex}')"));
    }
}

fn check_parameters(parameters: &IngressClassParametersReference, causes: &mut Causes) {
    const AT: &str = "spec.parameters";
    if let Some(group) = &parameters.api_group {
        causes.all(&format!("{AT}.apiGroup"), group, subdomain_errors(group));
    }
    for (field, value) in [("kind", &parameters.kind), ("name", &parameters.name)] {
        if value.is_empty() {
            causes.required(format!("{AT}.{field}"), "");
        } else {
            causes.all(&format!("{AT}.{field}"), value, NameRule::PathSegment.errors(value));
        }
    }
    let field = format!("{AT}.namespace");
    match (text(&parameters.scope), &parameters.namespace) {
        ("Namespace", None) => causes.required(field, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", Some(namespace)) => causes.all(&field, namespace, label_errors(namespace)),
        ("Cluster", Some(_)) => causes.forbidden(field, "`parameters.scope` is set to 'Cluster'"),
        ("Cluster", None) => {}
        (other, _) => causes.unsupported(format!("{AT}.scope"), other, &["Cluster", "Namespace"]),
    }
}
