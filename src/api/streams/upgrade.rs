//! From an HTTP/1.1 request to a connection of its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use axum::extract::Request;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};

use super::conversation::Connection;
use crate::api::serve::TlsConnection;
use crate::api::status::ApiError;
use crate::sys::readiness;

/// The versions that a SPDY client offers and the one that the server takes.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What RFC 6455 has the server prove that it understands.
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a client wants to speak instead of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    WebSocket,
    Spdy,
}

impl Protocol {
    /// # Errors
    /// 400 in Kubernetes' words when the request asks for neither.
    pub fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let refused = || ApiError::bad_request("Upgrade request required");
        if !tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
            return Err(refused());
        }
        let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if upgrade.eq_ignore_ascii_case("websocket") {
            Ok(Self::WebSocket)
        } else if upgrade.eq_ignore_ascii_case("SPDY/3.1") {
            Ok(Self::Spdy)
        } else {
            Err(refused())
        }
    }
}

/// The members of a header that is a list.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// An upgrade that the server agrees to.
pub(super) struct Upgrade {
    on_upgrade: OnUpgrade,
    response: Response,
    /// The subprotocol that was agreed on; empty where the client names none.
    pub subprotocol: String,
}

impl Upgrade {
    /// Agrees to the first of `supported` subprotocols that the client offers; a client that offers none speaks the
    /// one named by `default`, if there is one.
    ///
    /// # Errors
    /// 400 when there is none in common, or when the connection cannot be upgraded (HTTP/2).
    pub fn agree(
        request: &mut Request,
        protocol: Protocol,
        supported: &[&'static str],
        default: Option<&'static str>,
    ) -> Result<Self, ApiError> {
        let name = match protocol {
            Protocol::WebSocket => header::SEC_WEBSOCKET_PROTOCOL,
            Protocol::Spdy => STREAM_PROTOCOL,
        };
        let headers = request.headers();
        let offered: Vec<&str> = tokens(headers, &name).collect();
        let chosen = offered.iter().find_map(|offer| supported.iter().find(|known| *known == offer)).copied();
        let subprotocol = match (chosen, offered.is_empty()) {
            (Some(chosen), _) => chosen,
            (None, true) if default.is_some() => default.unwrap_or_default(),
            (None, _) => {
                return Err(ApiError::bad_request(format!(
                    "unable to negotiate protocol: client supports {offered:?}, server accepts {supported:?}"
                )));
            }
        };
        let mut answer = HeaderMap::new();
        if !offered.is_empty() {
            answer.insert(name, HeaderValue::from_static(subprotocol));
        }
        answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        match protocol {
            Protocol::Spdy => {
                answer.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            }
            Protocol::WebSocket => {
                answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
                if key.is_empty() || headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
                    return Err(ApiError::bad_request("a WebSocket of version 13 with a key is needed"));
                }
                let proof = [key, WEBSOCKET_GUID.as_bytes()].concat();
                let proof = STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &proof));
                answer.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::try_from(proof).map_err(ApiError::internal)?);
            }
        }
        let on_upgrade = request
            .extensions_mut()
            .remove::<OnUpgrade>()
            .ok_or_else(|| ApiError::bad_request("this connection cannot be upgraded: use HTTP/1.1"))?;
        let mut response = Response::default();
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = answer;
        Ok(Self { on_upgrade, response, subprotocol: subprotocol.to_owned() })
    }

    /// The answer that makes the client switch, and what comes of it.
    pub fn into_parts(self) -> (Response, OnUpgrade) {
        (self.response, self.on_upgrade)
    }
}

/// A connection once its HTTP is over.
pub(in crate::api) struct Switched {
    pub connection: Box<dyn Connection>,
    /// Ends when the client has hung up, also while nothing is read from it.
    pub hung_up: BoxFuture<'static, ()>,
}

/// Waits until the client has switched.
pub(in crate::api) async fn switched(on_upgrade: OnUpgrade) -> io::Result<Switched> {
    let upgraded = on_upgrade.await.map_err(io::Error::other)?;
    match upgraded.downcast::<TokioIo<TlsConnection>>() {
        Ok(parts) => {
            let tls = parts.io.into_inner();
            let socket = tls.get_ref().0;
            // A stream may stand still for as long as both sides like: a pager does that to it. The sign of life that
            // the kernel asks for on quiet connections goes on.
            set_tcp_user_timeout(socket, 0)?;
            let watched = readiness::watch(socket.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
            let (read, write) = tokio::io::split(tls);
            let read = io::Cursor::new(parts.read_buf).chain(read);
            let connection = Box::new(tokio::io::join(read, write));
            Ok(Switched { connection, hung_up: Box::pin(hung_up(watched)) })
        }
        Err(upgraded) => {
            let connection = Box::new(TokioIo::new(upgraded));
            Ok(Switched { connection, hung_up: Box::pin(std::future::pending()) })
        }
    }
}

async fn hung_up(socket: AsyncFd<OwnedFd>) {
    while let Ok(mut ready) = socket.readable().await {
        if ready.ready().is_read_closed() {
            return;
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, &'static str)]) -> Request {
        let mut request = Request::new(axum::body::Body::empty());
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn protocol_is_asked_for_by_two_headers() {
        let of = |headers: &[(&'static str, &'static str)]| Protocol::of(request(headers).headers()).ok();
        assert_eq!(of(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]), Some(Protocol::WebSocket));
        assert_eq!(of(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]), Some(Protocol::Spdy));
        assert_eq!(of(&[("upgrade", "websocket")]), None);
        assert_eq!(of(&[("connection", "Upgrade"), ("upgrade", "h2c")]), None);
        let error = Protocol::of(&HeaderMap::new()).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (StatusCode::BAD_REQUEST, "Upgrade request required"));
    }

    #[test]
    fn subprotocol_is_the_clients_first_choice_among_ours() {
        let agree = |headers: &[(&'static str, &'static str)], default| {
            let mut request = request(headers);
            let upgrade = Upgrade::agree(&mut request, Protocol::Spdy, &["v5", "v4"], default);
            upgrade.map(|_| ()).unwrap_err().message
        };
        // Without a connection of hyper's the last step fails, after the protocol is agreed on.
        let http2 = "this connection cannot be upgraded: use HTTP/1.1";
        let offer = |value| [("x-stream-protocol-version", value)];
        assert_eq!(agree(&offer("v4, v3"), None), http2);
        assert_eq!(agree(&[], Some("v1")), http2);
        assert_eq!(
            agree(&offer("v3"), Some("v1")),
            r#"unable to negotiate protocol: client supports ["v3"], server accepts ["v5", "v4"]"#
        );
        assert!(agree(&[], None).starts_with("unable to negotiate"));
    }
}
