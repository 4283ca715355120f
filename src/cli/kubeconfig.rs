//! `vipyard kubeconfig`: prints the kubeconfig of a cluster.

use anyhow::Context;

use super::{DataDir, Failure};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    data_dir: DataDir,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let path = crate::app::kubeconfig_path(&args.data_dir.data_dir);
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!("no kubeconfig at {}: start the cluster with `vipyard up`, or name its --data-dir", path.display())
    })?;
    print!("{text}");
    Ok(())
}
