//! A message to JSON, by the table.
//!
//! The result is what Go's JSON encoding of the same object is, with two differences that no reader sees: times that
//! are not set are left out, where Go writes `null` for some; and so are lists that Go writes as `null`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use super::Error;
use super::forms;
use super::table::{Field, Message, MessageId, Shape, Table, Type};
use super::wire::{Reader, Wire};

/// How many messages a body may have. A message of four bytes on the wire takes hundreds in memory; objects that people
/// send have thousands at most.
pub const MESSAGE_LIMIT: usize = 1 << 17;

/// How deep messages may be in each other. Only schemas of custom resources contain themselves; all else is less than
/// 20 deep. JSON gets no deeper than what serde_json reads, as a message adds two levels at most.
pub const DEPTH_LIMIT: usize = 64;

pub struct Decoder {
    table: &'static Table,
    /// How many more messages there may be.
    left: usize,
    depth: usize,
}

impl Decoder {
    pub fn new(table: &'static Table) -> Self {
        Self { table, left: MESSAGE_LIMIT, depth: 0 }
    }

    /// Adds a message's fields to those that are there: the parts of a message may come apart. Unknown fields are
    /// skipped.
    pub fn message(&mut self, id: MessageId, bytes: &[u8], into: &mut Map<String, Value>) -> Result<(), Error> {
        self.left = self.left.checked_sub(1).ok_or(Error::TooMany(MESSAGE_LIMIT))?;
        if self.depth == DEPTH_LIMIT {
            return Err(Error::TooDeep(DEPTH_LIMIT));
        }
        self.depth += 1;
        let message = self.table.message(id);
        let mut fields = Reader::new(bytes);
        while let Some((number, wire)) = fields.next()? {
            if let Some(field) = message.fields.iter().find(|field| field.number == number) {
                self.field(message, field, wire, into)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn field(
        &mut self,
        message: &Message,
        field: &Field,
        wire: Wire<'_>,
        into: &mut Map<String, Value>,
    ) -> Result<(), Error> {
        let wrong = || Error::Field { message: message.name, field: field.name };
        match (field.shape, field.of) {
            (Shape::Inline, Type::Message(id)) => self.message(id, wire.bytes().ok_or_else(wrong)?, into),
            (Shape::One, Type::Message(id)) => {
                let part = into.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                let part = part.as_object_mut().ok_or_else(wrong)?;
                self.message(id, wire.bytes().ok_or_else(wrong)?, part)
            }
            (Shape::One | Shape::NonZero | Shape::Inline, of) => {
                match self.value(of, wire, &wrong)?.filter(|value| field.shape != Shape::NonZero || !is_zero(value)) {
                    Some(value) => into.insert(field.name.into(), value),
                    // Of a field that comes twice, the last counts.
                    None => into.remove(field.name),
                };
                Ok(())
            }
            (Shape::List, of) => {
                let list = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                let list = list.as_array_mut().ok_or_else(wrong)?;
                if let (Type::Bool | Type::Int32 | Type::Int64, Wire::Bytes(packed)) = (of, wire) {
                    let mut numbers = Reader::new(packed);
                    while !numbers.is_empty() {
                        let number = Wire::Varint(numbers.varint()?);
                        list.extend(self.value(of, number, &wrong)?);
                    }
                } else {
                    list.push(self.value(of, wire, &wrong)?.unwrap_or_default());
                }
                Ok(())
            }
            (Shape::Map, of) => {
                let map = into.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                let map = map.as_object_mut().ok_or_else(wrong)?;
                let (key, value) = self.entry(of, wire.bytes().ok_or_else(wrong)?, &wrong)?;
                map.insert(key, value);
                Ok(())
            }
        }
    }

    /// An entry of a map is a message `{ 1: key, 2: value }`; either is left out when empty.
    fn entry(&mut self, of: Type, bytes: &[u8], wrong: &impl Fn() -> Error) -> Result<(String, Value), Error> {
        let (mut key, mut value) = ("", Wire::Bytes(&[]));
        let mut fields = Reader::new(bytes);
        while let Some((number, wire)) = fields.next()? {
            match number {
                1 => key = forms::text(wire.bytes().ok_or_else(wrong)?)?,
                2 => value = wire,
                _ => {}
            }
        }
        Ok((key.to_owned(), self.value(of, value, wrong)?.unwrap_or_default()))
    }

    /// One value; `None` stands for one that JSON leaves out.
    fn value(&mut self, of: Type, wire: Wire<'_>, wrong: &impl Fn() -> Error) -> Result<Option<Value>, Error> {
        let varint = || wire.varint().ok_or_else(wrong);
        let bytes = || wire.bytes().ok_or_else(wrong);
        Ok(Some(match of {
            Type::String => forms::text(bytes()?)?.into(),
            Type::Bytes => BASE64_STANDARD.encode(bytes()?).into(),
            Type::Bool => (varint()? != 0).into(),
            Type::Int32 => forms::int32(varint()?).into(),
            Type::Int64 => (varint()? as i64).into(),
            Type::Message(id) => {
                let mut fields = Map::new();
                self.message(id, bytes()?, &mut fields)?;
                fields.into()
            }
            Type::Choice(id) => {
                let mut fields = Map::new();
                self.message(id, bytes()?, &mut fields)?;
                let boolean = self.table.message(id).fields.iter().any(|field| field.of == Type::Bool);
                forms::choice(fields, boolean)
            }
            Type::Empty => bytes().map(|_| Map::new())?.into(),
            Type::Double => forms::double(wire.double().ok_or_else(wrong)?)?,
            Type::Time => return forms::time(bytes()?),
            Type::MicroTime => return forms::micro_time(bytes()?),
            Type::Json => return forms::json(bytes()?),
            Type::Quantity => forms::quantity(bytes()?)?,
            Type::IntOrString => forms::int_or_string(bytes()?)?,
            Type::Strings => forms::strings(bytes()?)?,
        }))
    }
}

/// What `omitempty` leaves out of scalars.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}
