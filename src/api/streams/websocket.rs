//! WebSocket connections (RFC 6455): the channels of Kubernetes' subprotocols, and a tunnel for other protocols.
//!
//! A message of a channel protocol is a byte with the channel's number and the data; the base64 forms send text with
//! the number as a digit. `v5.channel.k8s.io` adds channel 255, on which the client names a channel that it closes.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, Stream, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::conversation::{Connection, Outgoing, What};

/// The largest message that is read: more than clients make of their input at once.
const MESSAGE: usize = 16 << 20;
const BUFFER: usize = 16 << 10;
/// The channel on which a client of `v5` closes others.
const CLOSE: u8 = 255;

/// How channels and bytes become messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Binary,
    Base64,
}

/// The server's end of a WebSocket, after its handshake.
pub(super) async fn accept<C: Connection>(connection: C) -> WebSocketStream<C> {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(MESSAGE)
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// What a message says: the channel and its data.
fn unframe(framing: Framing, message: Message) -> io::Result<Option<(u8, Bytes)>> {
    let bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => Bytes::from(text),
        _ => return Ok(None),
    };
    let Some(first) = bytes.first().copied() else { return Ok(None) };
    let rest = bytes.slice(1..);
    match framing {
        Framing::Binary => Ok(Some((first, rest))),
        Framing::Base64 => {
            let channel = first.wrapping_sub(b'0');
            let data = STANDARD.decode(&rest).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            Ok(Some((channel, data.into())))
        }
    }
}

fn frame(framing: Framing, channel: u8, bytes: &[u8]) -> Message {
    match framing {
        Framing::Binary => {
            let mut message = BytesMut::with_capacity(bytes.len() + 1);
            message.put_u8(channel);
            message.put_slice(bytes);
            Message::Binary(message.freeze())
        }
        Framing::Base64 => {
            Message::text(format!("{}{}", char::from(b'0'.wrapping_add(channel)), STANDARD.encode(bytes)))
        }
    }
}

/// Takes messages to the channels that somebody listens to, until the client closes the connection.
pub(super) async fn read_channels(
    mut messages: impl Stream<Item = Result<Message, Error>> + Unpin,
    framing: Framing,
    mut channels: Vec<Option<mpsc::Sender<Bytes>>>,
) -> io::Result<()> {
    while let Some(message) = messages.next().await {
        let Some((channel, bytes)) = unframe(framing, message.map_err(io::Error::other)?)? else { continue };
        if channel == CLOSE {
            if let Some(closed) = bytes.first().and_then(|closed| channels.get_mut(usize::from(*closed))) {
                *closed = None;
            }
        } else if let Some(Some(inlet)) = channels.get(usize::from(channel))
            && !bytes.is_empty()
        {
            // What nobody reads any more is dropped.
            let _ = inlet.send(bytes).await;
        }
    }
    Ok(())
}

/// Sends what is queued, and a close when nothing more can come.
pub(super) async fn write_channels<C: Connection>(
    mut sink: futures::stream::SplitSink<WebSocketStream<C>, Message>,
    framing: Framing,
    mut queue: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    while let Some(Outgoing { stream, what }) = queue.recv().await {
        let What::Data(bytes) = what else { continue };
        let channel = u8::try_from(stream).map_err(io::Error::other)?;
        sink.send(frame(framing, channel, &bytes)).await.map_err(io::Error::other)?;
    }
    sink.send(normal_close()).await.map_err(io::Error::other)
}

/// Clients take an end without a code for an error.
fn normal_close() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Carries another protocol's bytes in binary messages, to and from `inner`.
pub(super) async fn tunnel<C: Connection>(connection: C, inner: tokio::io::DuplexStream) {
    let (mut sink, mut messages) = accept(connection).await.split();
    let (reader, mut writer) = tokio::io::split(inner);
    let inward = async {
        while let Some(Ok(message)) = messages.next().await {
            match message {
                Message::Binary(bytes) if writer.write_all(&bytes).await.is_err() => break,
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = writer.shutdown().await;
    };
    let outward = async {
        let mut pieces = tokio_util::io::ReaderStream::with_capacity(reader, BUFFER);
        while let Some(Ok(piece)) = pieces.next().await {
            if sink.send(Message::Binary(piece)).await.is_err() {
                return;
            }
        }
        let _ = sink.send(normal_close()).await;
    };
    tokio::join!(inward, outward);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_a_byte_or_a_digit_in_front() {
        let binary = Message::Binary(Bytes::from_static(b"\x01out"));
        assert_eq!(frame(Framing::Binary, 1, b"out"), binary);
        assert_eq!(unframe(Framing::Binary, binary).unwrap(), Some((1, Bytes::from_static(b"out"))));
        let text = Message::text("1b3V0");
        assert_eq!(frame(Framing::Base64, 1, b"out"), text);
        assert_eq!(unframe(Framing::Base64, text).unwrap(), Some((1, Bytes::from_static(b"out"))));
        // Clients of binary protocols send text as well.
        assert_eq!(unframe(Framing::Binary, Message::text("\0in")).unwrap(), Some((0, Bytes::from_static(b"in"))));
    }

    #[test]
    fn malformed_messages_are_left_or_refused() {
        assert_eq!(unframe(Framing::Binary, Message::Binary(Bytes::new())).unwrap(), None);
        assert_eq!(unframe(Framing::Binary, Message::Ping(Bytes::new())).unwrap(), None);
        assert!(unframe(Framing::Base64, Message::text("1***")).is_err());
        assert_eq!(unframe(Framing::Base64, Message::text("0")).unwrap(), Some((0, Bytes::new())));
    }

    #[tokio::test]
    async fn closed_channel_ends_and_unknown_ones_are_dropped() {
        let (stdin, mut inlet) = mpsc::channel(4);
        let messages = [&b"\0one"[..], b"\x09none", b"\xff\x07", b"\0two", b"\xff\0", b"\0late"];
        let messages = messages.map(|message| Ok(Message::Binary(Bytes::from_static(message))));
        read_channels(futures::stream::iter(messages), Framing::Binary, vec![Some(stdin), None]).await.unwrap();
        assert_eq!([inlet.recv().await.unwrap(), inlet.recv().await.unwrap()], ["one", "two"]);
        assert_eq!(inlet.recv().await, None);
    }
}
