//! What is known about messages: number, JSON name and type of every field. Read from messages.tsv at the first body.

use std::collections::HashMap;
use std::sync::LazyLock;

/// See make_table.py for the columns, and for where the facts are from.
const FACTS: &str = include_str!("messages.tsv");

/// Kinds that every group has: `DeleteOptions` comes as `v1` as well as `policy/v1`.
const COMMON: &str = "meta.k8s.io/v1";

/// Stands for a message in the table it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId(usize);

/// How a field's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    String,
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    Message(MessageId),
    /// A message of which JSON writes one field's value: `JSONSchemaPropsOrBool`.
    Choice(MessageId),
    /// A message without fields, `{}`.
    Empty,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// JSON inside a message of its own: `RawExtension`, `FieldsV1`, `JSON`.
    Json,
    /// A list of strings inside a message of its own: `ExtraValue`.
    Strings,
}

impl Type {
    fn parse(text: &str, message: impl Fn(&str) -> Option<MessageId>) -> Option<Self> {
        Some(match text {
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "bool" => Self::Bool,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "double" => Self::Double,
            "empty" => Self::Empty,
            "time" => Self::Time,
            "microtime" => Self::MicroTime,
            "quantity" => Self::Quantity,
            "intorstring" => Self::IntOrString,
            "json" => Self::Json,
            "strings" => Self::Strings,
            name => match name.strip_prefix("choice:") {
                Some(name) => Self::Choice(message(name)?),
                None => Self::Message(message(name)?),
            },
        })
    }
}

/// Where a field's value stands in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    One,
    /// Left out when zero, which means "not set": Go writes these fields always.
    NonZero,
    List,
    /// A map from strings.
    Map,
    /// The message's fields stand among those of the message that contains it.
    Inline,
}

impl Shape {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "one" => Self::One,
            "nonzero" => Self::NonZero,
            "list" => Self::List,
            "map" => Self::Map,
            "inline" => Self::Inline,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug)]
pub struct Field {
    pub number: u32,
    pub name: &'static str,
    pub shape: Shape,
    pub of: Type,
}

#[derive(Debug)]
pub struct Message {
    /// `apps/v1/Deployment`.
    pub name: &'static str,
    pub fields: Vec<Field>,
}

#[derive(Debug)]
pub struct Table {
    messages: Vec<Message>,
    by_name: HashMap<&'static str, MessageId>,
}

impl Table {
    pub fn get() -> &'static Self {
        static TABLE: LazyLock<Table> = LazyLock::new(|| Table::parse(FACTS));
        &TABLE
    }

    fn parse(facts: &'static str) -> Self {
        let rows: Vec<[&'static str; 5]> = facts
            .lines()
            .map(|line| {
                let columns: Vec<&str> = line.split('\t').collect();
                columns.try_into().expect("make_table.py writes five columns")
            })
            .collect();
        let mut table = Self { messages: Vec::new(), by_name: HashMap::new() };
        for [message, ..] in &rows {
            table.by_name.entry(message).or_insert_with(|| {
                table.messages.push(Message { name: message, fields: Vec::new() });
                MessageId(table.messages.len() - 1)
            });
        }
        for [message, number, name, shape, of] in &rows {
            let field = Field {
                number: number.parse().expect("make_table.py writes field numbers"),
                name,
                shape: Shape::parse(shape).expect("make_table.py writes known shapes"),
                of: Type::parse(of, |name| table.by_name.get(name).copied()).expect("make_table.py writes known types"),
            };
            table.messages[table.by_name[message].0].fields.push(field);
        }
        table
    }

    /// The message of a kind.
    pub fn kind(&self, version: &str, kind: &str) -> Option<MessageId> {
        let named = |version: &str| self.by_name.get(format!("{version}/{kind}").as_str()).copied();
        named(version).or_else(|| named(COMMON))
    }

    pub fn message(&self, id: MessageId) -> &Message {
        &self.messages[id.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_numbers_and_names_are_unique_within_a_message() {
        for message in &Table::get().messages {
            for (i, field) in message.fields.iter().enumerate() {
                let rest = &message.fields[i + 1..];
                assert!(rest.iter().all(|other| other.number != field.number), "{} {}", message.name, field.number);
                assert!(rest.iter().all(|other| other.name != field.name), "{} {}", message.name, field.name);
            }
        }
    }

    #[test]
    fn only_messages_stand_inline() {
        for message in &Table::get().messages {
            for field in &message.fields {
                let inline = field.shape == Shape::Inline;
                assert!(!inline || matches!(field.of, Type::Message(_)), "{} {}", message.name, field.number);
                assert_eq!(inline, field.name == "-", "{} {}", message.name, field.number);
            }
        }
    }

    #[test]
    fn options_have_any_version_and_kinds_their_own() {
        let table = Table::get();
        let name = |version, kind| table.kind(version, kind).map(|id| table.message(id).name);
        assert_eq!(name("v1", "DeleteOptions"), Some("meta.k8s.io/v1/DeleteOptions"));
        assert_eq!(name("policy/v1", "DeleteOptions"), Some("meta.k8s.io/v1/DeleteOptions"));
        assert_eq!(name("apps/v1", "Deployment"), Some("apps/v1/Deployment"));
        assert_eq!(name("v1", "Deployment"), None);
        assert_eq!(name("example.org/v1", "Widget"), None);
    }
}
