//! The definitions of an OpenAPI v2 document as protobuf (`openapi.v2.Document` of google/gnostic), the only form in
//! which kubectl takes the document. It reads the definitions and their extensions; paths are left out.

use serde_json::{Map, Value};

/// Encodes the document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    let mut definitions = Message::default();
    for (name, definition) in document["definitions"].as_object().into_iter().flatten() {
        definitions.message(1, named(name, schema(definition)));
    }
    let mut message = Message::default();
    message.text(1, &document["swagger"]);
    message.message(2, info);
    message.message(8, Message::default());
    message.message(9, definitions);
    message.0
}

/// A message while it is written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        const LENGTH_DELIMITED: u64 = 2;
        self.varint(field << 3 | LENGTH_DELIMITED);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, message: Self) {
        self.bytes(field, &message.0);
    }

    /// A string that may be left out.
    fn text(&mut self, field: u64, value: &Value) {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }
}

/// `NamedSchema`, `NamedAny`.
fn named(name: &str, value: Message) -> Message {
    let mut message = Message::default();
    message.bytes(1, name.as_bytes());
    message.message(2, value);
    message
}

/// `Schema`; the numbers are those of its fields.
fn schema(schema: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, &schema["$ref"]);
    message.text(2, &schema["format"]);
    message.text(4, &schema["description"]);
    if let Some(default) = schema.get("default") {
        message.message(5, any(default));
    }
    for field in schema["required"].as_array().into_iter().flatten() {
        message.text(19, field);
    }
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        let mut item = Message::default();
        item.message(1, self::schema(values));
        message.message(21, item);
    }
    if let Some(kind) = schema.get("type") {
        let mut item = Message::default();
        item.text(1, kind);
        message.message(22, item);
    }
    if let Some(items) = schema.get("items") {
        let mut item = Message::default();
        item.message(1, self::schema(items));
        message.message(23, item);
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        message.message(25, all_named(properties));
    }
    for (name, value) in schema.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        message.message(31, named(name, any(value)));
    }
    message
}

fn all_named(properties: &Map<String, Value>) -> Message {
    let mut message = Message::default();
    for (name, property) in properties {
        message.message(1, named(name, schema(property)));
    }
    message
}

/// `Any`: a value as YAML, of which JSON is a part.
fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.bytes(2, value.to_string().as_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_definition_is_written_field_by_field() {
        let document = json!({"swagger": "2.0", "info": {}, "definitions": {"A": {"type": "string"}}});
        let type_item = [0x0a, 6, b's', b't', b'r', b'i', b'n', b'g'];
        let schema = [&[0xb2, 0x01, 8][..], &type_item].concat();
        let named = [&[0x0a, 1, b'A', 0x12, 11][..], &schema].concat();
        let definitions = [&[0x0a, 16][..], &named].concat();
        let expected = [&[0x0a, 3, b'2', b'.', b'0', 0x12, 0, 0x42, 0, 0x4a, 18][..], &definitions].concat();
        assert_eq!(encode(&document), expected);
    }
}
