//! Rules that several kinds share, with the wordings of `k8s.io/apimachinery` and `k8s.io/kubernetes/pkg/apis`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::service_validation::check_port_number;
use crate::api::causes::Causes;
use crate::api::names::{check_labels, label_value_errors, port_name_errors, qualified_name_errors};
use crate::api::status::Cause;

pub(super) const IMMUTABLE: &str = "field is immutable";
pub(super) const NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const NOT_POSITIVE: &str = "must be greater than zero";
pub(super) const IP_HELP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
pub(super) const MAPPED: &str = "must not be an IPv4-mapped IPv6 address";
pub(super) const CIDR_HELP: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

impl Causes {
    pub(super) fn not_found(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        let message = format!("Not found: {}", value.into());
        self.0.push(Cause { field: field.into(), reason: "FieldValueNotFound", message });
    }

    /// One cause for each of `errors` about the text `value`.
    pub(in crate::api) fn all(&mut self, field: &str, value: &str, errors: Vec<String>) {
        errors.into_iter().for_each(|error| self.invalid(field, value, error));
    }

    pub(super) fn non_negative(&mut self, field: impl Into<String>, value: Option<impl Into<i64>>) {
        if let Some(value) = value.map(Into::into).filter(|value| *value < 0) {
            self.invalid(field, value, NEGATIVE);
        }
    }

    /// Refuses a value that differs from the one before.
    pub(super) fn immutable<T: PartialEq + serde::Serialize>(&mut self, field: &str, new: &T, old: &T) {
        if new != old {
            self.invalid(field, to_value(new), IMMUTABLE);
        }
    }
}

/// An object of the API as JSON; the types of the API always have one.
pub(super) fn to_value<T: serde::Serialize>(object: &T) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// The text of an optional field; an unset one reads as empty, as Go has it.
pub(super) fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// Forgets numbers that Go leaves out of its JSON: fields that are no pointers and have `omitempty`.
pub(super) fn forget_zero<T: Default + PartialEq>(value: &mut Option<T>) {
    if value.as_ref().is_some_and(|value| *value == T::default()) {
        *value = None;
    }
}

/// Fills in a field that is unset or has Go's zero value.
pub(super) fn fill<T: Default + PartialEq>(value: &mut Option<T>, default: impl Into<T>) {
    forget_zero(value);
    value.get_or_insert_with(|| default.into());
}

pub(super) fn check_label_key(causes: &mut Causes, field: &str, key: &str) {
    causes.all(field, key, qualified_name_errors(key));
}

pub(super) fn check_selector(causes: &mut Causes, field: &str, selector: &LabelSelector) {
    if let Some(labels) = &selector.match_labels {
        check_labels(causes, &format!("{field}.matchLabels"), labels);
    }
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let field = format!("{field}.matchExpressions[{i}]");
        let values = expression.values.as_deref().unwrap_or_default();
        check_operator(causes, &field, &expression.operator, values);
        check_label_key(causes, &format!("{field}.key"), &expression.key);
        for (j, value) in values.iter().enumerate() {
            causes.all(&format!("{field}.values[{j}]"), value, label_value_errors(value));
        }
    }
}

/// Whether an operator is one of a label selector, with the values that it needs.
pub(super) fn check_operator(causes: &mut Causes, field: &str, operator: &str, values: &[String]) {
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            causes.required(format!("{field}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            causes.forbidden(format!("{field}.values"), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => causes.invalid(format!("{field}.operator"), other, "not a valid selector operator"),
    }
}

pub(super) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether a selector of an object selects these labels; the empty one selects everything.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let listed = || value.is_some_and(|value| expression.values.iter().flatten().any(|v| v == value));
            match expression.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// A selector as kubectl prints it (`metav1.FormatLabelSelector`).
pub(super) fn format_selector(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector.filter(|selector| !is_empty(selector)) else { return "<none>".into() };
    let equal = selector.match_labels.iter().flatten().map(|(key, value)| (key.clone(), format!("{key}={value}")));
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let key = &expression.key;
        let values: BTreeSet<&str> = expression.values.iter().flatten().map(String::as_str).collect();
        let values = values.into_iter().collect::<Vec<_>>().join(",");
        let text = match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            _ => format!("!{key}"),
        };
        (key.clone(), text)
    });
    let mut terms: Vec<(String, String)> = equal.chain(expressions).collect();
    terms.sort();
    terms.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

pub(super) fn check_port(causes: &mut Causes, field: &str, port: &IntOrString) {
    match port {
        IntOrString::Int(number) => check_port_number(causes, field, *number),
        IntOrString::String(name) => causes.all(field, name, port_name_errors(name)),
    }
}

/// Whether `text` is an address in its canonical form (`validation.IsValidIP`).
pub(super) fn check_ip(causes: &mut Causes, field: &str, text: &str) {
    match text.parse::<IpAddr>() {
        Err(_) => causes.invalid(field, text, IP_HELP),
        Ok(ip) if is_mapped(ip) => causes.invalid(field, text, MAPPED),
        Ok(ip) if ip.to_string() != text => {
            causes.invalid(field, text, format!("must be in canonical form ({:?})", ip.to_string()));
        }
        Ok(_) => {}
    }
}

/// Whether `text` is a CIDR. With `canonical` it must be in canonical form, else it must only be unambiguous.
pub(super) fn check_cidr(causes: &mut Causes, field: &str, text: &str, canonical: bool) -> Option<IpNet> {
    let Ok(net) = text.parse::<IpNet>() else {
        causes.invalid(field, text, CIDR_HELP);
        return None;
    };
    if is_mapped(net.addr()) {
        causes.invalid(field, text, "must not have an IPv4-mapped IPv6 address");
    } else if net.addr() != net.network() {
        causes.invalid(field, text, "must not have bits set beyond the prefix length");
    } else if text.split_once('/').is_some_and(|(_, length)| length.len() > 1 && length.starts_with('0')) {
        causes.invalid(field, text, "must not have leading 0s in IP or prefix length");
    } else if canonical && net.to_string() != text {
        causes.invalid(field, text, format!("must be in canonical form ({:?})", net.to_string()));
    }
    Some(net)
}

pub(super) fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

/// A number of things, or a share of them in percent.
pub(super) fn check_amount(causes: &mut Causes, field: &str, amount: &IntOrString) {
    match amount {
        IntOrString::Int(number) => causes.non_negative(field, Some(*number)),
        IntOrString::String(text) if percent(text).is_none() => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' \
                          (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            causes.invalid(field, text.as_str(), detail);
        }
        IntOrString::String(_) => {}
    }
}

pub(super) fn check_at_most_all(causes: &mut Causes, field: &str, amount: &IntOrString) {
    if let IntOrString::String(text) = amount
        && percent(text).is_some_and(|share| share > 100)
    {
        causes.invalid(field, text.as_str(), "must not be greater than 100%");
    }
}

/// The number itself, or the percentage without its sign; 0 for what is neither.
pub(super) fn amount(value: &IntOrString) -> i64 {
    match value {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(text) => percent(text).unwrap_or(0),
    }
}

fn percent(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().unwrap_or(i64::MAX))
}

/// An amount out of `total`; percentages are rounded up.
pub fn scaled_up(value: &IntOrString, total: i64) -> i64 {
    match value {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(text) => {
            percent(text).map_or(0, |share| share.saturating_mul(total).saturating_add(99) / 100)
        }
    }
}

/// An amount out of `total`; percentages are rounded down.
pub fn scaled_down(value: &IntOrString, total: i64) -> i64 {
    match value {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(text) => percent(text).map_or(0, |share| share.saturating_mul(total) / 100),
    }
}

/// An amount as kubectl prints it.
pub(super) fn format_amount(value: Option<&IntOrString>) -> String {
    match value {
        None => "N/A".into(),
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(text)) => text.clone(),
    }
}

/// Whether a path is relative and does not leave its folder.
pub(super) fn check_descending_path(causes: &mut Causes, field: &str, path: &str) {
    if path.starts_with('/') {
        causes.invalid(field, path, "must be a relative path");
    }
    check_no_backsteps(causes, field, path);
}

pub(super) fn check_no_backsteps(causes: &mut Causes, field: &str, path: &str) {
    if path.split('/').any(|part| part == "..") {
        causes.invalid(field, path, "must not contain '..'");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selector(value: Value) -> LabelSelector {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn selectors_select_by_labels_and_expressions() {
        let labels: BTreeMap<String, String> = [("app".into(), "web".into()), ("tier".into(), "a".into())].into();
        for (wanted, value) in [
            (true, json!({})),
            (true, json!({"matchLabels": {"app": "web"}})),
            (false, json!({"matchLabels": {"app": "db"}})),
            (true, json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]})),
            (false, json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["a"]}]})),
            (true, json!({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["a"]}]})),
            (false, json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]})),
            (
                false,
                json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "none", "operator": "Exists"}]}),
            ),
        ] {
            assert_eq!(selects(&selector(value.clone()), &labels), wanted, "{value}");
        }
    }

    #[test]
    fn selectors_print_as_kubectl_does() {
        let all = selector(json!({"matchLabels": {"b": "1"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]}));
        assert_eq!(format_selector(Some(&all)), "a in (x,y),b=1,!c");
        assert_eq!(format_selector(Some(&LabelSelector::default())), "<none>");
    }

    #[test]
    fn selector_rules_name_the_field() {
        let mut causes = Causes::default();
        let bad = selector(json!({"matchLabels": {"bad key": "v"}, "matchExpressions": [
            {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["x"]}, {"key": "a", "operator": "Like"}]}));
        check_selector(&mut causes, "spec.selector", &bad);
        let fields: Vec<&str> = causes.0.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.selector.matchLabels",
                "spec.selector.matchExpressions[0].values",
                "spec.selector.matchExpressions[1].values",
                "spec.selector.matchExpressions[2].operator",
            ]
        );
    }

    #[test]
    fn shares_are_rounded_up() {
        let share = |text: &str| IntOrString::String(text.into());
        for (value, total, wanted) in [
            (share("25%"), 3, 1),
            (share("50%"), 4, 2),
            (share("1%"), 1, 1),
            (share("x"), 9, 0),
            (IntOrString::Int(3), 1, 3),
        ] {
            assert_eq!(scaled_up(&value, total), wanted, "{value:?} of {total}");
        }
    }

    #[test]
    fn cidrs_have_no_host_bits() {
        for (text, message) in [
            ("10.0.0.0/8", None),
            ("nope", Some(CIDR_HELP)),
            ("10.1.0.0/8", Some("must not have bits set beyond the prefix length")),
            ("fd00:0::/64", Some("must be in canonical form (\"fd00::/64\")")),
        ] {
            let mut causes = Causes::default();
            check_cidr(&mut causes, "f", text, true);
            match message {
                None => assert!(causes.is_empty(), "{text}: {causes:?}"),
                Some(message) => assert!(causes.0[0].message.ends_with(message), "{text}: {causes:?}"),
            }
        }
    }
}
