//! The page's files, embedded from `web/dist`, and the few pages that stand in when it can't be shown.

use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "web/dist"]
struct Files;

/// For the stand-in pages: no scripts at all, one style sheet in the page. They hold constant text only.
const NOTICE_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'";

/// The page itself. Always asked for anew, since it names the hashed files of its build.
pub(super) async fn index() -> Response {
    match Files::get("index.html") {
        Some(file) => embedded("index.html", file),
        None => notice(
            StatusCode::SERVICE_UNAVAILABLE,
            "The page has not been built",
            "<p>This binary was compiled without its web page. Build the page, then the binary again:</p>\
             <pre>npm --prefix web ci\nnpm --prefix web run build\ncargo build</pre>",
        ),
    }
}

/// Any other file of the build.
pub(super) async fn file(uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    match Files::get(path).filter(|_| !path.starts_with('.')) {
        Some(file) => embedded(path, file),
        None => (StatusCode::NOT_FOUND, "there is nothing at this path\n").into_response(),
    }
}

fn embedded(path: &str, file: EmbeddedFile) -> Response {
    let mime = mime_guess::from_path(path).first_or_octet_stream();
    let mime = if mime.type_() == "text" { format!("{mime}; charset=utf-8") } else { mime.to_string() };
    // The build puts a hash of the content into the names of what it puts into assets/.
    let cache = if path.starts_with("assets/") { "private, max-age=31536000, immutable" } else { "no-cache" };
    ([(header::CONTENT_TYPE, mime.as_str()), (header::CACHE_CONTROL, cache)], file.data).into_response()
}

/// For a visitor without the token: where to find it.
pub(super) fn sign_in() -> Response {
    let body = format!(
        "<p>The dashboard opens with the address that <code>vipyard up</code> prints, token included. Run \
         <code>vipyard up</code> again and it prints it once more, or look into the file <code>{}</code> of the \
         cluster's data directory.</p>",
        super::ADDRESS_FILE
    );
    notice(StatusCode::UNAUTHORIZED, "This page needs its token", &body)
}

/// Leads from `/?token=…` to `/` by a step that begins on this site.
pub(super) fn lead_on() -> Response {
    let mut response = notice(StatusCode::OK, "Opening the dashboard", "<p><a href=\"/\">Go on</a></p>");
    response.headers_mut().insert(header::REFRESH, HeaderValue::from_static("0; url=/"));
    response
}

fn notice(status: StatusCode, title: &str, body: &str) -> Response {
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title} · Vipyard</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><link rel=\"icon\" href=\"data:,\">\
         <style>:root{{color-scheme:light dark}}body{{font:17px/1.6 system-ui,sans-serif;max-width:34em;\
         margin:18vh auto 0;padding:0 1.5em}}h1{{font-size:1.5em;line-height:1.2}}code,pre{{font:.9em ui-monospace,\
         monospace;background:color-mix(in srgb,currentColor 9%,transparent);border-radius:6px;padding:.1em .35em}}\
         pre{{padding:.9em 1.1em;overflow:auto}}</style><h1>{title}</h1>{body}</html>"
    );
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, NOTICE_POLICY)];
    (status, headers, page).into_response()
}
