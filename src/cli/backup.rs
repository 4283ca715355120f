//! `vipyard backup`: copies a cluster into one file, also while it runs.

use std::path::{Path, PathBuf};

use super::{DataDir, Failure, client::runtime};
use crate::api::pki;
use crate::config::{DATABASE_FILE, PKI_FOLDER};
use crate::store::backup::{SideFile, backup};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The file to make; it holds the cluster's secrets and keys
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    data_dir: DataDir,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let dir = args.data_dir.data_dir;
    let files = identity(&dir.join(PKI_FOLDER))?;
    let revision = runtime()?.block_on(backup(&dir.join(DATABASE_FILE), &files, &args.file))?;
    println!("backup of revision {revision} in {}", args.file.display());
    Ok(())
}

/// What makes the cluster itself for its clients: with the CA their kubeconfigs stay good, with the key of tokens those
/// of ServiceAccounts.
fn identity(folder: &Path) -> Result<Vec<SideFile>, Failure> {
    let mut files = Vec::new();
    for name in pki::IDENTITY {
        let path = folder.join(name);
        match std::fs::read(&path) {
            Ok(content) => files.push(SideFile { name: name.to_owned(), content }),
            // A cluster of an earlier version has no key of tokens.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(anyhow::Error::new(e).context(format!("cannot read {}", path.display())).into()),
        }
    }
    Ok(files)
}
