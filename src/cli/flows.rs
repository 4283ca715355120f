//! `vipyard flows`: what flows through the router, a line per beginning, end and refusal.

use std::io::{self, Write};

use anyhow::anyhow;
use http::StatusCode;

use super::client::{query, runtime};
use super::{Failure, Output, View};
use crate::explain::flows::Line;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Of one Service alone: NAME, NAMESPACE/NAME, svc/NAME or svc/NAMESPACE/NAME
    #[arg(long, value_name = "[svc/][NAMESPACE/]NAME", default_value = "", hide_default_value = true)]
    service: String,
    /// From or to one Pod alone: NAME, NAMESPACE/NAME, pod/NAME or pod/NAMESPACE/NAME
    #[arg(long, value_name = "[pod/][NAMESPACE/]NAME", default_value = "", hide_default_value = true)]
    pod: String,
    /// Only what was dropped or rejected
    #[arg(long)]
    dropped: bool,
    /// Of the lines that are there, the last N alone
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    #[command(flatten)]
    view: View,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let client = args.view.data_dir.client()?;
    let tail = args.tail.map(|tail| tail.to_string()).unwrap_or_default();
    let flag = |set: bool| if set { "true" } else { "" };
    let query = query(&[
        ("follow", flag(args.follow)),
        ("service", &args.service),
        ("pod", &args.pod),
        ("namespace", &args.view.namespace),
        ("dropped", flag(args.dropped)),
        ("tail", &tail),
    ]);
    let mut out = io::stdout().lock();
    let mut broken = None;
    let code = runtime()?.block_on(client.lines(&format!("/vipyard/v1/flows?{query}"), |code, line| {
        let written = if code == StatusCode::OK { print(&mut out, line, args.view.output) } else { refusal(line) };
        written.map_err(|e| broken = Some(e)).is_ok()
    }))?;
    match broken {
        // Whoever reads has seen enough.
        Some(e) if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => Ok(()),
        Some(e) if code == StatusCode::BAD_REQUEST => Err(Failure::Usage(e)),
        Some(e) => Err(Failure::Failed(e)),
        None => Ok(()),
    }
}

fn print(out: &mut impl Write, line: &str, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Json => writeln!(out, "{line}")?,
        Output::Text => writeln!(out, "{}", serde_json::from_str::<Line>(line)?.text())?,
    }
    Ok(out.flush()?)
}

fn refusal(line: &str) -> anyhow::Result<()> {
    let status: serde_json::Value = serde_json::from_str(line)?;
    Err(anyhow!("{}", status["message"].as_str().unwrap_or("the cluster refuses without saying why")))
}
