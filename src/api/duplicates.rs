//! Fields that a JSON text says twice. A parsed object has forgotten them: of two values it keeps the last.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// So many are told of, as in the reference.
const MOST: usize = 100;

/// The paths of the fields that `json` has more than once, each once and as strict decoding names them:
/// `spec.containers[0].image`. Nothing of a text that is no JSON.
pub(super) fn duplicate_fields(json: &[u8]) -> Vec<String> {
    let mut walk = Walk::default();
    match walk.deserialize(&mut serde_json::Deserializer::from_slice(json)) {
        Ok(()) => walk.found,
        Err(_) => Vec::new(),
    }
}

#[derive(Default)]
struct Walk {
    path: String,
    found: Vec<String>,
}

impl Walk {
    fn note(&mut self) {
        if self.found.len() < MOST && !self.found.contains(&self.path) {
            self.found.push(self.path.clone());
        }
    }
}

/// A name without a copy, where it has no escapes.
#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for &mut Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Walk {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let end = self.path.len();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<Name<'de>>()? {
            if end > 0 {
                self.path.push('.');
            }
            self.path.push_str(&name.0);
            if !names.insert(name) {
                self.note();
            }
            map.next_value_seed(&mut *self)?;
            self.path.truncate(end);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let end = self.path.len();
        for i in 0.. {
            self.path.push_str(&format!("[{i}]"));
            if list.next_element_seed(&mut *self)?.is_none() {
                break;
            }
            self.path.truncate(end);
        }
        self.path.truncate(end);
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_said_twice_are_found_at_their_places() {
        let text = r#"{"metadata": {"name": "a", "name": "b", "labels": {"x": "1", "\u0078": "2", "x": "3"}},
            "spec": {"ports": [{"port": 1}, {"port": 2, "port": null}]}, "spec": {"spec": true, "n": -1.5}}"#;
        assert_eq!(
            duplicate_fields(text.as_bytes()),
            ["metadata.name", "metadata.labels.x", "spec.ports[1].port", "spec"]
        );
        assert_eq!(duplicate_fields(br#"{"a": {"b": 1}, "c": {"b": 1}, "d": [{"b": 1}, {"b": 1}]}"#), [""; 0]);
        assert_eq!(duplicate_fields(br#"{"a": 1, "a": "#), [""; 0]);
        let many: String = (0..1000).map(|i| format!("\"f{i}\":1,\"f{i}\":2,")).collect();
        assert_eq!(duplicate_fields(format!("{{{many}\"end\":0}}").as_bytes()).len(), MOST);
    }
}
