//! `Warning` headers (RFC 7234, code 299): what a client should know of its request, whether it is carried out or
//! refused. kubectl prints them.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;

/// The most characters of all warnings of one answer, and of each where there would be more: as in the reference.
/// Clients give up on longer headers, after the write that they would tell of.
const MOST: usize = 4096;
const MOST_EACH: usize = 256;

/// What is said to the client of one request, each thing once. Clones share the list.
#[derive(Clone, Default)]
pub(super) struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    pub fn add(&self, text: impl Into<String>) {
        let (text, mut said) = (text.into(), self.0.lock());
        // What does not fit any more is not kept.
        if said.len() < MOST && !said.contains(&text) {
            said.push(text);
        }
    }

    pub fn write_to(&self, headers: &mut HeaderMap) {
        let said = self.0.lock();
        let long = said.iter().map(String::len).sum::<usize>() > MOST;
        let mut room = MOST;
        for warning in said.iter() {
            let warning: String = warning.chars().take(if long { MOST_EACH } else { MOST }).collect();
            let Some(rest) = room.checked_sub(warning.len()) else { return };
            room = rest;
            let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
                headers.append(header::WARNING, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_without_number_are_cut_to_what_a_header_can_hold() {
        let (warnings, mut headers) = (Warnings::default(), HeaderMap::new());
        (0..1000).for_each(|i| warnings.add(format!("unknown field \"spec.x{i}\"")));
        warnings.add("y".repeat(10_000));
        warnings.write_to(&mut headers);
        let all: Vec<usize> = headers.get_all(header::WARNING).iter().map(|value| value.len()).collect();
        assert!(all.len() > 100 && all.iter().sum::<usize>() < 2 * MOST, "{all:?}");
    }
}
