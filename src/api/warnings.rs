//! `Warning` headers (RFC 7234, code 299): what a client should know of its request, whether it is carried out or
//! refused. kubectl prints them.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;

/// What is said to the client of one request, each thing once. Clones share the list.
#[derive(Clone, Default)]
pub(super) struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    pub fn add(&self, text: impl Into<String>) {
        let (text, mut said) = (text.into(), self.0.lock());
        if !said.contains(&text) {
            said.push(text);
        }
    }

    pub fn write_to(&self, headers: &mut HeaderMap) {
        for warning in self.0.lock().iter() {
            let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
                headers.append(header::WARNING, value);
            }
        }
    }
}
