//! The list of broken rules that a validation collects, with the wordings of `field.ErrorList`.

use std::fmt::Display;

use serde_json::Value;

use super::status::Cause;

/// Collects causes; empty means valid.
#[derive(Debug, Default)]
pub struct Causes(pub Vec<Cause>);

impl Causes {
    fn push(&mut self, field: impl Into<String>, reason: &'static str, message: String) {
        self.0.push(Cause { field: field.into(), reason, message });
    }

    pub fn required(&mut self, field: impl Into<String>, detail: &str) {
        let message = if detail.is_empty() { "Required value".into() } else { format!("Required value: {detail}") };
        self.push(field, "FieldValueRequired", message);
    }

    pub fn invalid(&mut self, field: impl Into<String>, value: impl Into<Value>, detail: impl Display) {
        self.push(field, "FieldValueInvalid", format!("Invalid value: {}: {detail}", value.into()));
    }

    pub fn duplicate(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.push(field, "FieldValueDuplicate", format!("Duplicate value: {}", value.into()));
    }

    pub fn forbidden(&mut self, field: impl Into<String>, detail: impl Display) {
        self.push(field, "FieldValueForbidden", format!("Forbidden: {detail}"));
    }

    /// `value` is of another type than its schema says; `value` is the name of its type.
    pub fn type_invalid(&mut self, field: impl Into<String>, value: &str, detail: impl Display) {
        self.push(field, "FieldValueTypeInvalid", format!("Invalid value: {value:?}: {detail}"));
    }

    /// A replacement must say which version it replaces. Go prints the number in its own way.
    pub fn must_name_version(&mut self) {
        let message = "Invalid value: 0x0: must be specified for an update".to_owned();
        self.push("metadata.resourceVersion", "FieldValueInvalid", message);
    }

    pub fn too_many(&mut self, field: impl Into<String>, actual: usize, limit: i64) {
        self.push(field, "FieldValueTooMany", format!("Too many: {actual}: must have at most {limit} items"));
    }

    pub fn too_long(&mut self, field: impl Into<String>, limit: usize) {
        self.push(field, "FieldValueTooLong", format!("Too long: may not be more than {limit} bytes"));
    }

    /// `value` is none of `supported`, which are listed in the order given.
    pub fn unsupported(&mut self, field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message = format!("Unsupported value: {}: supported values: {}", value.into(), list.join(", "));
        self.push(field, "FieldValueNotSupported", message);
    }

    /// Refuses a value that is set and none of `supported`.
    pub fn one_of(&mut self, field: &str, value: Option<&String>, supported: &[&str]) {
        if let Some(value) = value.filter(|value| !supported.contains(&value.as_str())) {
            self.unsupported(field, value.as_str(), supported);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
