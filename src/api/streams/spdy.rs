//! Frames of SPDY/3.1, as far as Kubernetes' clients use them (draft-mbelshe-httpbis-spdy-00, and its update 3.1).
//!
//! No crate for it is alive, and every kubectl speaks it: for port-forwards inside a WebSocket, and for all streams with
//! `KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false`. The codec is pure and bounded: DATA frames come out in parts as they
//! arrive, control frames and what their headers expand to have limits. Flow control by WINDOW_UPDATE is read and not
//! used, as in the library that all clients share (moby/spdystream): each stream has a bounded queue, and one that is
//! full stops the connection, which TCP passes on to the sender.

mod headers;
#[cfg(test)]
mod tests;

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use headers::{Deflater, Inflater};

pub use headers::Headers;

/// The largest control frame that is read.
const CONTROL_LIMIT: usize = 64 * 1024;
/// Data comes out in parts of at most this size.
const PART: usize = 32 * 1024;
const VERSION: u16 = 3;
const HEAD: usize = 8;
const CONTROL: u32 = 1 << 31;
const FIN: u8 = 1;

/// Why a stream was refused or given up (RST_STREAM).
pub const REFUSED_STREAM: u32 = 3;

/// One frame, or a part of a DATA frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The peer opens a stream.
    SynStream {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    /// The other side's consent.
    SynReply {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Ping(u32),
    GoAway {
        last_stream: u32,
        status: u32,
    },
    Data {
        stream: u32,
        bytes: Bytes,
        /// The sender sends no more on this stream.
        fin: bool,
    },
    /// SETTINGS, HEADERS, WINDOW_UPDATE and what a later version may add: nothing follows from them here.
    Other(u16),
}

/// Both directions of one connection: each has its own state of compression.
pub struct Codec {
    inflater: Inflater,
    deflater: Deflater,
    /// What is still to come of a DATA frame.
    data: Option<Rest>,
}

#[derive(Clone, Copy)]
struct Rest {
    stream: u32,
    left: usize,
    fin: bool,
}

impl Default for Codec {
    fn default() -> Self {
        Self { inflater: Inflater::new(), deflater: Deflater::new(), data: None }
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> io::Result<Option<Frame>> {
        loop {
            if let Some(rest) = self.data {
                return Ok(self.take_data(rest, input));
            }
            if input.len() < HEAD {
                return Ok(None);
            }
            let word = u32::from_be_bytes([input[0], input[1], input[2], input[3]]);
            let (flags, length) = (input[4], u32::from_be_bytes([0, input[5], input[6], input[7]]) as usize);
            if word & CONTROL == 0 {
                if word == 0 {
                    return Err(invalid("data for stream 0"));
                }
                input.advance(HEAD);
                self.data = Some(Rest { stream: word, left: length, fin: flags & FIN != 0 });
                continue;
            }
            if length > CONTROL_LIMIT {
                return Err(invalid(format!("control frame of {length} bytes")));
            }
            if input.len() < HEAD + length {
                input.reserve(HEAD + length - input.len());
                return Ok(None);
            }
            input.advance(HEAD);
            let body = input.split_to(length).freeze();
            let [version, kind] = [(word >> 16) as u16 & 0x7fff, word as u16];
            if version != VERSION {
                return Err(invalid(format!("version {version} of SPDY")));
            }
            return self.control(kind, flags & FIN != 0, body).map(Some);
        }
    }
}

impl Codec {
    /// The part of a DATA frame that is there.
    fn take_data(&mut self, rest: Rest, input: &mut BytesMut) -> Option<Frame> {
        if input.is_empty() && rest.left > 0 {
            return None;
        }
        let bytes = input.split_to(rest.left.min(input.len()).min(PART)).freeze();
        let left = rest.left - bytes.len();
        self.data = (left > 0).then_some(Rest { left, ..rest });
        Some(Frame::Data { stream: rest.stream, bytes, fin: rest.fin && left == 0 })
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> io::Result<Frame> {
        let short = |_| invalid(format!("short control frame of type {kind}"));
        Ok(match kind {
            1 => {
                let stream = stream_id(body.try_get_u32().map_err(short)?)?;
                let _associated = body.try_get_u32().map_err(short)?;
                let _priority_and_slot = body.try_get_u16().map_err(short)?;
                Frame::SynStream { stream, headers: self.inflater.headers(&body)?, fin }
            }
            2 => {
                let stream = stream_id(body.try_get_u32().map_err(short)?)?;
                Frame::SynReply { stream, headers: self.inflater.headers(&body)?, fin }
            }
            3 => Frame::Reset {
                stream: stream_id(body.try_get_u32().map_err(short)?)?,
                status: body.try_get_u32().map_err(short)?,
            },
            6 => Frame::Ping(body.try_get_u32().map_err(short)?),
            7 => Frame::GoAway {
                last_stream: body.try_get_u32().map_err(short)?,
                status: body.try_get_u32().map_err(short)?,
            },
            8 => {
                let _stream = stream_id(body.try_get_u32().map_err(short)?)?;
                // The state of compression goes on through them.
                self.inflater.headers(&body)?;
                Frame::Other(kind)
            }
            _ => Frame::Other(kind),
        })
    }
}

fn stream_id(word: u32) -> io::Result<u32> {
    match word & !CONTROL {
        0 => Err(invalid("stream 0")),
        stream => Ok(stream),
    }
}

impl Encoder<Frame> for Codec {
    type Error = io::Error;

    fn encode(&mut self, frame: Frame, output: &mut BytesMut) -> io::Result<()> {
        match frame {
            Frame::Data { stream, bytes, fin } => {
                output.reserve(HEAD + bytes.len());
                output.put_u32(stream);
                put_flags_and_length(output, fin, bytes.len())?;
                output.put(bytes);
                Ok(())
            }
            Frame::SynStream { stream, headers, fin } => {
                let mut body = BytesMut::new();
                body.put_u32(stream);
                body.put_u32(0);
                body.put_u16(0);
                self.deflater.put(&headers, &mut body)?;
                put_control(output, 1, fin, &body)
            }
            Frame::SynReply { stream, headers, fin } => {
                let mut body = BytesMut::new();
                body.put_u32(stream);
                self.deflater.put(&headers, &mut body)?;
                put_control(output, 2, fin, &body)
            }
            Frame::Reset { stream, status } => put_control(output, 3, false, &words([stream, status])),
            Frame::Ping(id) => put_control(output, 6, false, &id.to_be_bytes()),
            Frame::GoAway { last_stream, status } => put_control(output, 7, false, &words([last_stream, status])),
            Frame::Other(kind) => Err(invalid(format!("no frame of type {kind} is ever sent"))),
        }
    }
}

fn words([first, second]: [u32; 2]) -> [u8; 8] {
    (u64::from(first) << 32 | u64::from(second)).to_be_bytes()
}

fn put_control(output: &mut BytesMut, kind: u16, fin: bool, body: &[u8]) -> io::Result<()> {
    output.reserve(HEAD + body.len());
    output.put_u32(CONTROL | u32::from(VERSION) << 16 | u32::from(kind));
    put_flags_and_length(output, fin, body.len())?;
    output.put_slice(body);
    Ok(())
}

fn put_flags_and_length(output: &mut BytesMut, fin: bool, length: usize) -> io::Result<()> {
    let length = u32::try_from(length).ok().filter(|length| *length < 1 << 24);
    let length = length.ok_or_else(|| invalid("a frame of more than 16 MiB"))?;
    output.put_u32(u32::from(if fin { FIN } else { 0 }) << 24 | length);
    Ok(())
}
