//! Which of the names that a definition asks for it gets: those that no definition of its group has.
//!
//! Rules and wordings are those of the naming controller in `k8s.io/apiextensions-apiserver/pkg/controller/status`.

use std::collections::HashSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition, CustomResourceDefinitionNames,
    CustomResourceDefinitionStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::definition::RESOURCE;
use crate::api::kinds::Context;
use crate::api::status::ApiError;
use crate::store::Scope;

/// The status after a write: accepted names, stored versions, and the conditions that clients wait for.
pub(super) fn status(
    ctx: &Context,
    definition: &CustomResourceDefinition,
    before: Option<CustomResourceDefinitionStatus>,
) -> Result<Value, ApiError> {
    let before = before.unwrap_or_default();
    let spec = &definition.spec;
    let taken = Taken::of_group(ctx, &spec.group);
    let had = before.accepted_names.clone().unwrap_or_default();
    let (accepted_names, conflict) = accept(&spec.names, &had, &taken);
    let now = Timestamp::now();
    let condition = |type_: &str, ok: bool, reason: &str, message: &str| {
        let status = if ok { "True" } else { "False" };
        let since = before.conditions.iter().flatten().find(|old| old.type_ == type_ && old.status == status);
        let since = since.and_then(|old| old.last_transition_time.clone()).unwrap_or(Time(now));
        CustomResourceDefinitionCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(since),
            ..CustomResourceDefinitionCondition::default()
        }
    };
    let names = match &conflict {
        None => condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
        Some((reason, message)) => condition("NamesAccepted", false, reason, message),
    };
    let was = before.conditions.iter().flatten().find(|c| c.type_ == "Established" && c.status == "True");
    let established = match was {
        // Whatever names come later, those from before are served on.
        Some(was) => was.clone(),
        None if conflict.is_none() => {
            condition("Established", true, "InitialNamesAccepted", "the initial names have been accepted")
        }
        None => condition("Established", false, "NotAccepted", "not all names are accepted"),
    };
    let mut stored = before.stored_versions.unwrap_or_default();
    for version in spec.versions.iter().filter(|version| version.storage) {
        if !stored.contains(&version.name) {
            stored.push(version.name.clone());
        }
    }
    let status = CustomResourceDefinitionStatus {
        accepted_names: Some(accepted_names),
        conditions: Some(vec![names, established]),
        stored_versions: Some(stored),
        ..CustomResourceDefinitionStatus::default()
    };
    serde_json::to_value(status).map_err(ApiError::internal)
}

/// The names that the definitions of a group have got: of resources, and of kinds.
#[derive(Default)]
struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Taken {
    fn of_group(ctx: &Context, group: &str) -> Self {
        let mut taken = Self::default();
        for entry in ctx.store.list(&Scope::all(RESOURCE)).items {
            let Ok(other) = serde_json::from_slice::<CustomResourceDefinition>(&entry.value) else { continue };
            let Some(names) = other.status.and_then(|status| status.accepted_names) else { continue };
            if other.spec.group == group {
                taken.resources.insert(names.plural);
                taken.resources.extend(names.singular);
                taken.resources.extend(names.short_names.into_iter().flatten());
                taken.kinds.insert(names.kind);
                taken.kinds.extend(names.list_kind);
            }
        }
        taken
    }
}

/// The accepted names, and why not all are, with the reason of the condition.
fn accept(
    wanted: &CustomResourceDefinitionNames,
    had: &CustomResourceDefinitionNames,
    taken: &Taken,
) -> (CustomResourceDefinitionNames, Option<(&'static str, String)>) {
    let mut names = CustomResourceDefinitionNames { categories: wanted.categories.clone(), ..had.clone() };
    let mut conflict = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    let mut free = |wanted: &str, had: &str, taken: &HashSet<String>, reason: &'static str| {
        let free = wanted == had || !taken.contains(wanted);
        if !free {
            conflict = Some((reason, in_use(wanted)));
        }
        free
    };
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    if free(&wanted.plural, &had.plural, &taken.resources, "PluralConflict") {
        names.plural.clone_from(&wanted.plural);
    }
    if free(&text(&wanted.singular), &text(&had.singular), &taken.resources, "SingularConflict") {
        names.singular.clone_from(&wanted.singular);
    }
    let shorts: Vec<String> = wanted
        .short_names
        .iter()
        .flatten()
        .filter(|short| !had.short_names.iter().flatten().any(|own| own == *short) && taken.resources.contains(*short))
        .map(|short| in_use(short))
        .collect();
    if shorts.is_empty() {
        names.short_names.clone_from(&wanted.short_names);
    }
    if free(&wanted.kind, &had.kind, &taken.kinds, "KindConflict") {
        names.kind.clone_from(&wanted.kind);
    }
    if free(&text(&wanted.list_kind), &text(&had.list_kind), &taken.kinds, "ListKindConflict") {
        names.list_kind.clone_from(&wanted.list_kind);
    }
    // The last conflict counts, in the order of the names.
    let conflict = match conflict {
        Some((reason @ ("KindConflict" | "ListKindConflict"), why)) => Some((reason, why)),
        _ if !shorts.is_empty() => {
            let why = if shorts.len() == 1 { shorts.concat() } else { format!("[{}]", shorts.join(", ")) };
            Some(("ShortNamesConflict", why))
        }
        other => other,
    };
    (names, conflict)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plural: &str, singular: &str, shorts: &[&str], kind: &str) -> CustomResourceDefinitionNames {
        CustomResourceDefinitionNames {
            plural: plural.into(),
            singular: Some(singular.into()),
            short_names: Some(shorts.iter().map(|short| (*short).to_owned()).collect()),
            kind: kind.into(),
            list_kind: Some(format!("{kind}List")),
            ..CustomResourceDefinitionNames::default()
        }
    }

    fn taken() -> Taken {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Taken { resources: set(&["widgets", "widget", "wd", "w"]), kinds: set(&["Widget", "WidgetList"]) }
    }

    #[test]
    fn names_of_others_are_not_accepted_and_the_last_conflict_is_told() {
        let none = CustomResourceDefinitionNames::default();
        for (wanted, told) in [
            (names("gadgets", "gadget", &["gd"], "Gadget"), None),
            (names("widget", "gadget", &[], "Gadget"), Some(("PluralConflict", "\"widget\" is already in use"))),
            (names("gadgets", "wd", &[], "Gadget"), Some(("SingularConflict", "\"wd\" is already in use"))),
            (names("wd", "g", &["gd", "w"], "Gadget"), Some(("ShortNamesConflict", "\"w\" is already in use"))),
            (
                names("g", "gadget", &["wd", "w"], "Gadget"),
                Some(("ShortNamesConflict", "[\"wd\" is already in use, \"w\" is already in use]")),
            ),
            (names("g", "gadget", &["w"], "WidgetList"), Some(("KindConflict", "\"WidgetList\" is already in use"))),
            (names("g", "gadget", &[], "Widget"), Some(("ListKindConflict", "\"WidgetList\" is already in use"))),
        ] {
            let (accepted, conflict) = accept(&wanted, &none, &taken());
            assert_eq!(conflict.as_ref().map(|(reason, why)| (*reason, why.as_str())), told, "{wanted:?}");
            assert_eq!(accepted == wanted, told.is_none());
        }
    }

    #[test]
    fn names_that_a_definition_has_stay_its_own() {
        let had = names("widgets", "widget", &["wd"], "Widget");
        assert_eq!(accept(&had, &had, &taken()), (had.clone(), None));
        let (accepted, conflict) = accept(&names("widgets", "widget", &["wd", "w"], "Widget"), &had, &taken());
        assert_eq!(accepted, had);
        assert_eq!(conflict.map(|(reason, _)| reason), Some("ShortNamesConflict"));
    }
}
