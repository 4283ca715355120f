//! Probes by HTTP and HTTPS.

use std::net::SocketAddr;

use http::Request;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Finding, Target, connect};
use crate::insecure_tls;
use crate::node::environment::resolve_port;

pub(super) async fn get(action: &HTTPGetAction, target: &Target) -> Finding {
    let tls = action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https"));
    let Some(port) = resolve_port(&action.port, &target.container) else {
        return Finding::Unhealthy(format!("couldn't find port: {:?}", action.port));
    };
    let host = action.host.as_deref().filter(|h| !h.is_empty());
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let authority = match host {
        Some(host) => format!("{host}:{port}"),
        None => SocketAddr::new(target.address, port).to_string(),
    };
    let url = format!("{}://{authority}{path}", if tls { "https" } else { "http" });
    let stream = match connect(target, host, port).await {
        Ok(stream) => stream,
        Err(Finding::Refused(message)) => return Finding::Refused(format!("Get {url:?}: {message}")),
        Err(Finding::Unhealthy(message)) => return Finding::Unhealthy(format!("Get {url:?}: {message}")),
        Err(healthy) => return healthy,
    };
    let answer = if tls {
        let address = host.and_then(|host| host.parse().ok()).unwrap_or(target.address);
        match insecure_tls::connect(stream, address).await {
            Ok(stream) => request(action, &authority, &path, stream).await,
            Err(e) => Err(e.into()),
        }
    } else {
        request(action, &authority, &path, stream).await
    };
    match answer {
        Ok(200..=399) => Finding::Healthy,
        Ok(status) => Finding::Unhealthy(format!("HTTP probe failed with statuscode: {status}")),
        Err(e) => Finding::Unhealthy(format!("Get {url:?}: {e}")),
    }
}

async fn request(
    action: &HTTPGetAction,
    authority: &str,
    path: &str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<u16, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::builder()
        .uri(path)
        .header("Host", authority)
        .header("User-Agent", "kube-probe/1.36")
        .header("Accept", "*/*")
        .header("Connection", "close");
    for header in action.http_headers.iter().flatten() {
        if header.name.eq_ignore_ascii_case("host")
            && let Some(headers) = request.headers_mut()
        {
            headers.remove("Host");
        }
        request = request.header(&header.name, &header.value);
    }
    let response = sender.send_request(request.body(Empty::<bytes::Bytes>::new())?);
    // The connection is driven here, by the same task, and is closed when the answer's head is there.
    tokio::select! {
        response = response => Ok(response?.status().as_u16()),
        Err(e) = connection => Err(e.into()),
    }
}
