//! Notices a new web UI, which rust-embed takes from `web/dist`. Cargo never runs npm: without a build of the UI
//! the binary serves a page that tells how to make it, unless `REQUIRE_WEB_UI=1` asks for an error (for releases).

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=web/dist");
    println!("cargo:rerun-if-env-changed=REQUIRE_WEB_UI");
    let required = std::env::var("REQUIRE_WEB_UI").is_ok_and(|value| value == "1");
    if required && !Path::new("web/dist/index.html").exists() {
        println!("cargo:error=the web UI is missing: run `npm --prefix web ci` and `npm --prefix web run build` first");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
