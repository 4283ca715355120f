//! Messages whose form in JSON is their own, and scalars.
//!
//! Each function takes the message's bytes. `None` stands for a value that JSON leaves out: no time, no JSON.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::Error;
use super::wire::{Reader, Wire};
use crate::api::object::format_time;

/// Year 1, Go's zero time.
const ZERO_TIME: i64 = -62_135_596_800;

pub fn text(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|_| Error::NotUtf8)
}

/// int32: the lower half, as negative numbers are sign-extended on the wire.
pub fn int32(number: u64) -> i32 {
    number as i32
}

/// A double; whole ones as Go writes them, without a fraction.
pub fn double(number: f64) -> Result<Value, Error> {
    const LARGEST_WHOLE: f64 = (1_u64 << f64::MANTISSA_DIGITS) as f64;
    if number.fract() == 0.0 && number.abs() <= LARGEST_WHOLE {
        return Ok((number as i64).into());
    }
    Number::from_f64(number).map(Value::Number).ok_or(Error::NotFinite)
}

/// `Time` has whole seconds, RFC 3339.
pub fn time(bytes: &[u8]) -> Result<Option<Value>, Error> {
    Ok(timestamp(bytes)?.map(|time| format_time(time).into()))
}

/// `MicroTime` always has six digits.
pub fn micro_time(bytes: &[u8]) -> Result<Option<Value>, Error> {
    Ok(timestamp(bytes)?.map(|time| time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into()))
}

/// `Timestamp { 1: seconds, 2: nanos }`. No time is no bytes; the epoch is two zeros.
fn timestamp(bytes: &[u8]) -> Result<Option<Timestamp>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut fields = Reader::new(bytes);
    while let Some((number, wire)) = fields.next()? {
        match (number, wire) {
            (1, Wire::Varint(number)) => seconds = number as i64,
            (2, Wire::Varint(number)) => nanos = int32(number),
            (1 | 2, _) => return Err(Error::Field { message: "Time", field: "seconds or nanos" }),
            _ => {}
        }
    }
    if (seconds, nanos) == (ZERO_TIME, 0) {
        return Ok(None);
    }
    Timestamp::new(seconds, nanos).map(Some).map_err(|_| Error::Time { seconds, nanos })
}

/// `Quantity { 1: string }`. The zero quantity is "0".
pub fn quantity(bytes: &[u8]) -> Result<Value, Error> {
    let mut amount = "0";
    let mut fields = Reader::new(bytes);
    while let Some((number, wire)) = fields.next()? {
        if number == 1 {
            let wrong = Error::Field { message: "Quantity", field: "string" };
            amount = Some(text(wire.bytes().ok_or(wrong)?)?).filter(|text| !text.is_empty()).unwrap_or("0");
        }
    }
    Ok(amount.into())
}

/// `IntOrString { 1: type (0 int, 1 string), 2: intVal, 3: strVal }`.
pub fn int_or_string(bytes: &[u8]) -> Result<Value, Error> {
    let (mut of, mut int, mut string) = (0, 0, "");
    let mut fields = Reader::new(bytes);
    while let Some((number, wire)) = fields.next()? {
        match (number, wire) {
            (1, Wire::Varint(number)) => of = number as i64,
            (2, Wire::Varint(number)) => int = int32(number),
            (3, Wire::Bytes(bytes)) => string = text(bytes)?,
            (1..=3, _) => return Err(Error::Field { message: "IntOrString", field: "type, intVal or strVal" }),
            _ => {}
        }
    }
    match of {
        0 => Ok(int.into()),
        1 => Ok(string.into()),
        other => Err(Error::IntOrString(other)),
    }
}

/// `RawExtension { 1: raw }`, `FieldsV1 { 1: Raw }` and `JSON { 1: raw }`: the JSON inside.
pub fn json(bytes: &[u8]) -> Result<Option<Value>, Error> {
    let mut raw: &[u8] = &[];
    let mut fields = Reader::new(bytes);
    while let Some((number, wire)) = fields.next()? {
        if number == 1 {
            raw = wire.bytes().ok_or(Error::Field { message: "RawExtension", field: "raw" })?;
        }
    }
    if raw.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(raw).map(Some).map_err(|e| Error::Json(e.to_string()))
}

/// `JSONSchemaPropsOrArray { schema, jSONSchemas }`, `JSONSchemaPropsOrBool { allows, schema }` and
/// `JSONSchemaPropsOrStringArray { schema, property }`: a list that has items, else the schema, else the boolean where
/// there may be one.
pub fn choice(mut fields: Map<String, Value>, boolean: bool) -> Value {
    let chosen = ["jSONSchemas", "property", "schema", "allows"].iter().find_map(|field| fields.remove(*field));
    chosen.unwrap_or(if boolean { Value::Bool(false) } else { Value::Null })
}

/// `ExtraValue { 1: repeated items }`.
pub fn strings(bytes: &[u8]) -> Result<Value, Error> {
    let mut items = Vec::new();
    let mut fields = Reader::new(bytes);
    while let Some((number, wire)) = fields.next()? {
        if number == 1 {
            let item = wire.bytes().ok_or(Error::Field { message: "ExtraValue", field: "items" })?;
            items.push(Value::from(text(item)?));
        }
    }
    Ok(items.into())
}
