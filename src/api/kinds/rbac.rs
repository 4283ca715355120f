//! Role, ClusterRole, RoleBinding and ClusterRoleBinding (rbac.authorization.k8s.io/v1): stored and checked, so that
//! charts that bring them can be tried. They grant and deny nothing: every authenticated user may do everything.

use k8s_openapi::Metadata;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::{check_selector, text, to_value};
use super::{AGE, Column, Context, Info, NAME, Part, age_cell, column, name_cell, wide};
use crate::api::causes::Causes;
use crate::api::names::{NameRule, subdomain_errors};
use crate::api::object::format_time;
use crate::api::status::ApiError;

const GROUP: &str = "rbac.authorization.k8s.io";
const CREATED: Column = Column { name: "Created At", kind: "date", ..AGE };
const USERS: Column = wide("Users", "Users in the roleBinding");
const GROUPS: Column = wide("Groups", "Groups in the roleBinding");
const ACCOUNTS: Column = wide("ServiceAccounts", "ServiceAccounts in the roleBinding");
const DEFAULT: Info = Info { group: GROUP, name_rule: NameRule::PathSegment, create_on_update: true, ..Info::DEFAULT };

pub struct RoleKind;
pub struct ClusterRoleKind;
pub struct RoleBindingKind;
pub struct ClusterRoleBindingKind;

impl super::Kind for RoleKind {
    type Object = Role;
    const INFO: Info = Info {
        kind: "Role",
        plural: "roles",
        singular: "role",
        nulls: &["rules"],
        columns: &[NAME, CREATED],
        ..DEFAULT
    };

    fn create(_: &Context, object: &mut Role, causes: &mut Causes) -> Result<(), ApiError> {
        check_rules(object.rules.as_deref(), true, causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut Role, _: &Role, _: Part, causes: &mut Causes) {
        check_rules(new.rules.as_deref(), true, causes);
    }

    fn cells(object: &Role, _: Timestamp) -> Vec<Value> {
        vec![name_cell(object), created_cell(object)]
    }
}

impl super::Kind for ClusterRoleKind {
    type Object = ClusterRole;
    const INFO: Info = Info {
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        namespaced: false,
        nulls: &["rules"],
        columns: &[NAME, CREATED],
        ..DEFAULT
    };

    fn create(_: &Context, object: &mut ClusterRole, causes: &mut Causes) -> Result<(), ApiError> {
        check_cluster_role(object, causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut ClusterRole, _: &ClusterRole, _: Part, causes: &mut Causes) {
        check_cluster_role(new, causes);
    }

    fn cells(object: &ClusterRole, _: Timestamp) -> Vec<Value> {
        vec![name_cell(object), created_cell(object)]
    }
}

impl super::Kind for RoleBindingKind {
    type Object = RoleBinding;
    const INFO: Info = Info {
        kind: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        columns: &[
            NAME,
            column(
                "Role",
                "RoleRef can reference a Role in the current namespace or a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error. This field is immutable.",
            ),
            AGE,
            USERS,
            GROUPS,
            ACCOUNTS,
        ],
        ..DEFAULT
    };

    fn default(object: &mut RoleBinding) {
        default_binding(&mut object.role_ref, object.subjects.as_deref_mut());
    }

    fn create(_: &Context, object: &mut RoleBinding, causes: &mut Causes) -> Result<(), ApiError> {
        check_binding(&object.role_ref, object.subjects.as_deref(), true, causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut RoleBinding, old: &RoleBinding, _: Part, causes: &mut Causes) {
        check_binding(&new.role_ref, new.subjects.as_deref(), true, causes);
        check_same_role(&new.role_ref, &old.role_ref, causes);
    }

    fn cells(object: &RoleBinding, now: Timestamp) -> Vec<Value> {
        binding_cells(object, &object.role_ref, object.subjects.as_deref(), now)
    }
}

impl super::Kind for ClusterRoleBindingKind {
    type Object = ClusterRoleBinding;
    const INFO: Info = Info {
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        namespaced: false,
        columns: &[
            NAME,
            column(
                "Role",
                "RoleRef can only reference a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error. This field is immutable.",
            ),
            AGE,
            USERS,
            GROUPS,
            ACCOUNTS,
        ],
        ..DEFAULT
    };

    fn default(object: &mut ClusterRoleBinding) {
        default_binding(&mut object.role_ref, object.subjects.as_deref_mut());
    }

    fn create(_: &Context, object: &mut ClusterRoleBinding, causes: &mut Causes) -> Result<(), ApiError> {
        check_binding(&object.role_ref, object.subjects.as_deref(), false, causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut ClusterRoleBinding, old: &ClusterRoleBinding, _: Part, causes: &mut Causes) {
        check_binding(&new.role_ref, new.subjects.as_deref(), false, causes);
        check_same_role(&new.role_ref, &old.role_ref, causes);
    }

    fn cells(object: &ClusterRoleBinding, now: Timestamp) -> Vec<Value> {
        binding_cells(object, &object.role_ref, object.subjects.as_deref(), now)
    }
}

fn created_cell<T: Metadata<Ty = ObjectMeta>>(object: &T) -> Value {
    object.metadata().creation_timestamp.as_ref().map(|time| format_time(time.0)).into()
}

fn binding_cells<T: Metadata<Ty = ObjectMeta>>(
    object: &T,
    role: &RoleRef,
    subjects: Option<&[Subject]>,
    now: Timestamp,
) -> Vec<Value> {
    let named = |kind: &str| -> Value {
        let subjects = subjects.unwrap_or_default().iter().filter(|subject| subject.kind == kind);
        let names = subjects.map(|subject| match &subject.namespace {
            Some(namespace) if kind == "ServiceAccount" => format!("{namespace}/{}", subject.name),
            _ => subject.name.clone(),
        });
        names.collect::<Vec<_>>().join(", ").into()
    };
    let role = format!("{}/{}", role.kind, role.name);
    let cells = [name_cell(object), role.into(), age_cell(object, now)];
    cells.into_iter().chain(["User", "Group", "ServiceAccount"].map(named)).collect()
}

/// Users and groups are of the group that roles are of; accounts are of the core group.
fn default_binding(role: &mut RoleRef, subjects: Option<&mut [Subject]>) {
    if text(&role.api_group).is_empty() {
        role.api_group = Some(GROUP.into());
    }
    for subject in subjects.into_iter().flatten().filter(|subject| text(&subject.api_group).is_empty()) {
        subject.api_group = (subject.kind == "User" || subject.kind == "Group").then(|| GROUP.into());
    }
}

fn check_cluster_role(role: &ClusterRole, causes: &mut Causes) {
    check_rules(role.rules.as_deref(), false, causes);
    let Some(aggregation) = &role.aggregation_rule else { return };
    let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
    if selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        causes.required("aggregationRule.clusterRoleSelectors", detail);
    }
    for (i, selector) in selectors.iter().enumerate() {
        check_selector(causes, &format!("aggregationRule.clusterRoleSelectors[{i}]"), selector);
    }
}

fn check_rules(rules: Option<&[PolicyRule]>, namespaced: bool, causes: &mut Causes) {
    for (i, rule) in rules.unwrap_or_default().iter().enumerate() {
        let at = format!("rules[{i}]");
        let has = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
        if rule.verbs.is_empty() {
            causes.required(format!("{at}.verbs"), "verbs must contain at least one value");
        }
        if has(&rule.non_resource_urls) {
            let field = format!("{at}.nonResourceURLs");
            let urls = rule.non_resource_urls.clone().unwrap_or_default();
            if namespaced {
                causes.invalid(&field, urls.clone(), "namespaced rules cannot apply to non-resource URLs");
            }
            if has(&rule.api_groups) || has(&rule.resources) || has(&rule.resource_names) {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                causes.invalid(field, urls, detail);
            }
            continue;
        }
        if !has(&rule.api_groups) {
            causes.required(format!("{at}.apiGroups"), "resource rules must supply at least one api group");
        }
        if !has(&rule.resources) {
            causes.required(format!("{at}.resources"), "resource rules must supply at least one resource");
        }
    }
}

fn check_binding(role: &RoleRef, subjects: Option<&[Subject]>, namespaced: bool, causes: &mut Causes) {
    let group = text(&role.api_group).to_owned();
    causes.one_of("roleRef.apiGroup", Some(&group), &[GROUP]);
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    causes.one_of("roleRef.kind", Some(&role.kind), kinds);
    if role.name.is_empty() {
        causes.required("roleRef.name", "");
    } else {
        causes.all("roleRef.name", &role.name, NameRule::PathSegment.errors(&role.name));
    }
    for (i, subject) in subjects.unwrap_or_default().iter().enumerate() {
        check_subject(subject, namespaced, &format!("subjects[{i}]"), causes);
    }
}

fn check_subject(subject: &Subject, namespaced: bool, at: &str, causes: &mut Causes) {
    let field = format!("{at}.name");
    if subject.name.is_empty() {
        causes.required(&field, "");
    }
    let group = text(&subject.api_group);
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                causes.all(&field, &subject.name, subdomain_errors(&subject.name));
            }
            if !group.is_empty() {
                causes.unsupported(format!("{at}.apiGroup"), group, &[""]);
            }
            if !namespaced && text(&subject.namespace).is_empty() {
                causes.required(format!("{at}.namespace"), "");
            }
        }
        kind @ ("User" | "Group") => {
            if subject.name.is_empty() {
                causes.invalid(&field, "", format!("{} name cannot be empty", kind.to_lowercase()));
            }
            causes.one_of(&format!("{at}.apiGroup"), Some(&group.to_owned()), &[GROUP]);
        }
        other => causes.unsupported(format!("{at}.kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

fn check_same_role(new: &RoleRef, old: &RoleRef, causes: &mut Causes) {
    if new != old {
        causes.invalid("roleRef", to_value(new), "cannot change roleRef");
    }
}
