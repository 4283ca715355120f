//! Request bodies in Kubernetes' protobuf, which kubectl's typed commands and most Go clients send.
//!
//! A body becomes the JSON value that the same client would have sent as JSON, so that everything behind works on one
//! form; answers are always JSON, which these clients accept. A body is the magic [`MAGIC`] and a `runtime.Unknown`:
//! the object's type, its message as bytes, and how these are encoded.
//!
//! ```text
//! wire     tags, varints and lengths of protobuf
//! table    which fields a message has, and how JSON writes them: facts in messages.tsv
//! decode   a message to JSON by the table
//! forms    messages with a JSON form of their own: times, quantities, int-or-string
//! ```
//!
//! make_table.py makes messages.tsv from the sources of k8s-pb (numbers, types on the wire) and k8s-openapi (names in
//! JSON, required fields), and zeros.txt, which names the fields of which a zero is not the same as no value. k8s-pb has
//! no JSON and no reflection, hence a table rather than its types. It follows Kubernetes' releases late: missing.txt lists
//! the kinds and fields of ours that it does not have yet. On the wire these are skipped, as all unknown fields are.

mod decode;
mod forms;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use serde_json::{Map, Value};

use super::status::ApiError;
use decode::Decoder;
use table::Table;
use wire::Reader;

/// The content type of such bodies.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

/// Why a body cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("the body does not begin with the prefix \"k8s\\0\"")]
    NoMagic,
    #[error("Object 'Kind' is missing")]
    NoKind,
    /// Custom resources, and kinds that are not in the table.
    #[error("kind {kind:?} of version {version:?} has no protobuf form here: send it as application/json")]
    UnknownKind { version: String, kind: String },
    #[error("the object is encoded as {0:?}: send it as plain protobuf or as application/json")]
    UnknownEncoding(String),
    #[error("the message ends in the middle of a field")]
    Truncated,
    #[error("a variable-length number is longer than 64 bits")]
    LongNumber,
    #[error("a field has the number 0 or more than 29 bits")]
    FieldNumber,
    #[error("wire type {0} is not in use")]
    WireType(u8),
    #[error("a field of the object's type and encoding has the wrong wire type")]
    Envelope,
    #[error("{message}.{field} has the wrong wire type")]
    Field { message: &'static str, field: &'static str },
    #[error("a string is not UTF-8")]
    NotUtf8,
    #[error("{seconds} seconds and {nanos} nanoseconds are not a time")]
    Time { seconds: i64, nanos: i32 },
    #[error("{0} is not a type of int-or-string: expected 0 or 1")]
    IntOrString(i64),
    #[error("embedded JSON: {0}")]
    Json(String),
    #[error("a number is not finite")]
    NotFinite,
    #[error("the object has more than {0} parts")]
    TooMany(usize),
    #[error("the object's parts are more than {0} deep in each other")]
    TooDeep(usize),
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::UnknownKind { .. } | Error::UnknownEncoding(_) => Self::unsupported_media_type(error.to_string()),
            error => Self::bad_request(format!("couldn't get version/kind; protobuf parse error: {error}")),
        }
    }
}

/// The object of a request's body, with `apiVersion` and `kind`. A malformed body is refused with 400, a kind without a
/// protobuf form with 415.
pub(super) fn decode(body: &[u8]) -> Result<Value, ApiError> {
    Ok(object(body)?)
}

fn object(body: &[u8]) -> Result<Value, Error> {
    let envelope = Envelope::parse(body.strip_prefix(MAGIC).ok_or(Error::NoMagic)?)?;
    if envelope.kind.is_empty() {
        return Err(Error::NoKind);
    }
    if !envelope.encoding.is_empty() {
        return Err(Error::UnknownEncoding(envelope.encoding.to_owned()));
    }
    if !["", MEDIA_TYPE].contains(&envelope.media) {
        return Err(Error::UnknownEncoding(envelope.media.to_owned()));
    }
    let table = Table::get();
    let Some(message) = table.kind(envelope.version, envelope.kind) else {
        return Err(Error::UnknownKind { version: envelope.version.into(), kind: envelope.kind.into() });
    };
    let mut fields = Map::new();
    fields.insert("apiVersion".into(), envelope.version.into());
    fields.insert("kind".into(), envelope.kind.into());
    Decoder::new(table).message(message, envelope.raw, &mut fields)?;
    Ok(Value::Object(fields))
}

/// `runtime.Unknown` with its `runtime.TypeMeta`.
#[derive(Default)]
struct Envelope<'a> {
    version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
    encoding: &'a str,
    media: &'a str,
}

impl<'a> Envelope<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut envelope = Self::default();
        let mut fields = Reader::new(bytes);
        while let Some((number, wire)) = fields.next()? {
            let value = || wire.bytes().ok_or(Error::Envelope);
            match number {
                1 => envelope.parse_type(value()?)?,
                2 => envelope.raw = value()?,
                3 => envelope.encoding = forms::text(value()?)?,
                4 => envelope.media = forms::text(value()?)?,
                _ => {}
            }
        }
        Ok(envelope)
    }

    fn parse_type(&mut self, bytes: &'a [u8]) -> Result<(), Error> {
        let mut fields = Reader::new(bytes);
        while let Some((number, wire)) = fields.next()? {
            let value = || forms::text(wire.bytes().ok_or(Error::Envelope)?);
            match number {
                1 => self.version = value()?,
                2 => self.kind = value()?,
                _ => {}
            }
        }
        Ok(())
    }
}
