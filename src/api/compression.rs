//! gzip for large answers (`k8s.io/apiserver/pkg/endpoints/handlers/responsewriters`): gets and lists above a size, for
//! clients that ask for it. Watches are never compressed: an event must not wait for the next to fill a block.

use std::io::{self, Write};

use axum::body::{Body, to_bytes};
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, header};
use http_body::Body as _;

/// Smaller answers are sent as they are.
const THRESHOLD: u64 = 128 * 1024;
/// The reference's level: clients are near, and time matters more than size.
const LEVEL: u32 = 1;
/// How much is compressed before others get their turn on the thread.
const STEP: usize = 64 * 1024;

/// The answer, compressed if it is large and the request accepts that.
pub(super) async fn negotiated(accepted: Option<&HeaderValue>, response: Response) -> Response {
    let large = response.body().size_hint().exact().is_some_and(|size| size > THRESHOLD);
    if !large || !accepted.is_some_and(accepts_gzip) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    // The whole body is in memory already.
    let Ok(plain) = to_bytes(body, usize::MAX).await else { return Response::from_parts(head, Body::empty()) };
    head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from_stream(compressed(plain)))
}

/// Whether `gzip` is among the accepted encodings; like the reference, without a look at weights.
fn accepts_gzip(accepted: &HeaderValue) -> bool {
    accepted.to_str().unwrap_or_default().split(',').any(|encoding| encoding.trim() == "gzip")
}

/// The compressed pieces of `plain`, made as the connection takes them.
fn compressed(plain: Bytes) -> impl futures::Stream<Item = Result<Bytes, io::Error>> {
    let encoder = GzEncoder::new(Vec::with_capacity(STEP), Compression::new(LEVEL));
    futures::stream::unfold(Some((encoder, plain)), |state| async move {
        let (mut encoder, mut plain) = state?;
        while !plain.is_empty() {
            let part = plain.split_to(plain.len().min(STEP));
            if let Err(e) = encoder.write_all(&part) {
                return Some((Err(e), None));
            }
            let ready = std::mem::take(encoder.get_mut());
            if !ready.is_empty() {
                return Some((Ok(ready.into()), Some((encoder, plain))));
            }
        }
        Some((encoder.finish().map(Bytes::from), None))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use std::io::Read;

    async fn answer(size: usize, accept: &str) -> (HeaderMap, Bytes) {
        let text: String = (0..size).map(|i| char::from(b'a' + (i * i % 23) as u8)).collect();
        let response = negotiated(Some(&accept.parse().unwrap()), Response::new(Body::from(text))).await;
        let (head, body) = response.into_parts();
        (head.headers, to_bytes(body, usize::MAX).await.unwrap())
    }

    #[tokio::test]
    async fn large_answers_are_compressed_for_those_who_ask() {
        let (_, plain) = answer(1 << 20, "").await;
        let (headers, body) = answer(1 << 20, "br, gzip").await;
        assert_eq!(headers[header::CONTENT_ENCODING], "gzip");
        assert_eq!(headers[header::VARY], "Accept-Encoding");
        assert!(body.len() < plain.len() / 2, "{}", body.len());
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&*body).read_to_end(&mut text).unwrap();
        assert_eq!(text, plain);
    }

    #[tokio::test]
    async fn small_answers_and_other_clients_get_plain_text() {
        for (size, accept) in [(1 << 20, "deflate"), (1 << 20, "xgzip"), (THRESHOLD as usize, "gzip")] {
            let (headers, body) = answer(size, accept).await;
            assert_eq!((headers.get(header::CONTENT_ENCODING), body.len()), (None, size), "{accept}");
        }
    }
}
