//! `vipyard restore`: makes a new data directory from a backup.

use std::path::{Path, PathBuf};

use super::{DataDir, Failure, client::runtime};
use crate::api::pki;
use crate::config::{DATABASE_FILE, PKI_FOLDER};
use crate::store::backup::restore;

#[derive(clap::Args)]
pub(super) struct Args {
    /// A file that `vipyard backup` has made
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    data_dir: DataDir,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let dir = std::path::absolute(args.data_dir.data_dir)?;
    let place = |name: &str| pki::IDENTITY.contains(&name).then(|| Path::new(PKI_FOLDER).join(name));
    let revision = runtime()?.block_on(restore(&args.file, &dir, DATABASE_FILE, place))?;
    println!("restored into {}; revisions go on from {revision}", dir.display());
    println!("try:  vipyard up --data-dir {}", dir.display());
    Ok(())
}
