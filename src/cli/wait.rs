//! `vipyard wait`: returns when a write is in the packets.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use http::StatusCode;

use super::{DataDir, Failure, client::runtime};
use crate::api::barrier::LONGEST;

/// More is as good, and would be beyond what clocks count.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    data_dir: DataDir,
    /// What to wait for
    #[arg(long = "for", value_name = "WHAT", value_enum, default_value_t)]
    what: What,
    /// The resourceVersion of the write; without it, everything that is written now
    #[arg(value_name = "RESOURCE_VERSION")]
    revision: Option<u64>,
    /// How long to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum What {
    /// EndpointSlices, DNS answers and the router of every node follow the write
    #[default]
    Dataplane,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let What::Dataplane = args.what;
    Ok(runtime()?.block_on(wait(&args))?)
}

async fn wait(args: &Args) -> anyhow::Result<()> {
    let client = args.data_dir.client()?;
    let end = Instant::now() + Duration::from_secs(args.timeout).min(FOR_EVER);
    let revision = args.revision.map(|revision| format!("&resourceVersion={revision}")).unwrap_or_default();
    loop {
        // Rounded up: with none the server would not even look.
        let left = end.saturating_duration_since(Instant::now()).min(LONGEST).as_secs_f64().ceil().max(1.0);
        match client.get(&format!("/vipyard/v1/barrier?timeoutSeconds={left}{revision}")).await? {
            (StatusCode::OK, _) => return Ok(()),
            // The server's longest wait is over before ours.
            (StatusCode::GATEWAY_TIMEOUT, _) if Instant::now() < end => {}
            (code, status) => return Err(anyhow!("{}", status["message"].as_str().unwrap_or(code.as_str()))),
        }
    }
}
