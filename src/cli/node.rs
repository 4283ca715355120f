//! `vipyard node`: takes the power from a virtual node, and gives it back.

use anyhow::anyhow;
use http::StatusCode;

use super::{DataDir, Failure, client::runtime};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Take the power from a node: its processes end at once, its packets and its agent's status writes stop
    Stop(Node),
    /// Give the power back: the agent registers the node anew and starts its Pods again
    Start(Node),
}

#[derive(clap::Args)]
struct Node {
    #[command(flatten)]
    data_dir: DataDir,
    /// The node's name, as `kubectl get nodes` shows it
    name: String,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let (node, action) = match args.command {
        Command::Stop(node) => (node, "stop"),
        Command::Start(node) => (node, "start"),
    };
    Ok(runtime()?.block_on(switch(&node, action))?)
}

async fn switch(node: &Node, action: &str) -> anyhow::Result<()> {
    let client = node.data_dir.client()?;
    match client.post(&format!("/vipyard/v1/nodes/{}/{action}", node.name)).await? {
        (StatusCode::OK, _) => Ok(()),
        (code, status) => Err(anyhow!("{}", status["message"].as_str().unwrap_or(code.as_str()))),
    }
}
