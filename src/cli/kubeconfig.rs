//! `vipyard kubeconfig`: prints the kubeconfig of a cluster.

use super::{DataDir, Failure};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    data_dir: DataDir,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    print!("{}", args.data_dir.kubeconfig()?);
    Ok(())
}
