//! Probes by gRPC: `grpc.health.v1.Health/Check`, whose messages have one field each.

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::GRPCAction;

use super::{Finding, Target, connect};

/// The words of `HealthCheckResponse.ServingStatus`, by their numbers.
const STATUS: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;
const OK: &str = "0";
const UNIMPLEMENTED: &str = "12";

/// Asks for the health of a service.
pub(super) async fn check(action: &GRPCAction, target: &Target) -> Finding {
    let Ok(port) = u16::try_from(action.port) else {
        return Finding::Unhealthy(format!("invalid port: {}", action.port));
    };
    let stream = match connect(target, None, port).await {
        Ok(stream) => stream,
        Err(finding) => return finding,
    };
    let service = action.service.as_deref().unwrap_or_default();
    match ask(stream, service, port).await {
        Ok((code, message)) if code == OK => match status(&message) {
            Some(SERVING) => Finding::Healthy,
            other => {
                let word = usize::try_from(other.unwrap_or(0)).ok().and_then(|at| STATUS.get(at)).unwrap_or(&STATUS[0]);
                Finding::Unhealthy(format!("service unhealthy (responded with {word:?})"))
            }
        },
        Ok((code, _)) if code == UNIMPLEMENTED => Finding::Unhealthy(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned(),
        ),
        Ok((code, _)) => Finding::Unhealthy(format!("error: health rpc failed: rpc error: code = {code}")),
        Err(e) => Finding::Unhealthy(format!("error: health rpc failed: {e}")),
    }
}

/// The status of the call, and the message of its answer.
async fn ask(
    stream: tokio::net::TcpStream,
    service: &str,
    port: u16,
) -> Result<(String, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://localhost:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("user-agent", "kube-probe/1.36")
        .header("te", "trailers")
        .body(Full::new(framed(service)))?;
    let answer = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?;
        // A call that fails at once has its status in the head.
        let trailers = body.trailers().cloned().unwrap_or_default();
        let code = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"));
        let code = code.and_then(|code| code.to_str().ok()).unwrap_or("none").to_owned();
        Ok((code, body.to_bytes()))
    };
    let answer = answer.await;
    driver.abort();
    answer
}

/// A request, with the five bytes that gRPC puts before each message: not compressed, and its length.
fn framed(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The field `status` of a framed answer; an absent one is 0.
fn status(frame: &[u8]) -> Option<u64> {
    let length = u32::from_be_bytes(frame.get(1..5)?.try_into().ok()?);
    let mut message = frame.get(5..5 + usize::try_from(length).ok()?)?;
    let mut found = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = varint(&mut message)?;
                found = if key >> 3 == 1 { value } else { found };
            }
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_framed_as_grpc_does() {
        assert_eq!(&framed("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&framed("db")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b']);
        assert_eq!(framed(&"x".repeat(200))[5..8], [0x0a, 0xc8, 1]);
    }

    #[test]
    fn status_is_read_and_damage_is_none() {
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status(&[0, 0, 0, 0, 5, 0x12, 1, b'x', 8, 2]), Some(2));
        for bad in [&[][..], &[0, 0, 0, 0, 2, 8], &[0, 0, 0, 0, 1, 8], &[0, 0, 0, 0, 2, 0x12, 9]] {
            assert_eq!(status(bad), None, "{bad:?}");
        }
    }
}
