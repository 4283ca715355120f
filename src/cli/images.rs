//! `vipyard images`: which images can be run.

use std::path::{Path, PathBuf};

use super::{DataDir, Failure};
use crate::config::IMAGE_MAP_FILE;
use crate::images::{BUILT_IN, ImageMap, MappedImage};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    data_dir: DataDir,
    /// Check and show this map file instead of the running cluster's
    #[arg(long, value_name = "FILE")]
    images: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let known = std::fs::read_to_string(args.data_dir.data_dir.join(IMAGE_MAP_FILE)).ok();
    let file = args.images.clone().or_else(|| known.map(|path| PathBuf::from(path.trim_end())));
    // Before anything is printed: a file that is wrong is the answer.
    let map = file.as_deref().map(ImageMap::read).transpose().map_err(|e| Failure::Usage(e.into()))?;
    let mut rows: Vec<[String; 3]> = vec![["IMAGE", "FILE SYSTEM", "RUNS"].map(str::to_owned)];
    rows.extend(BUILT_IN.iter().map(|(name, does)| [(*name).to_owned(), "built in".to_owned(), (*does).to_owned()]));
    rows.extend(map.iter().flat_map(ImageMap::images).map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1)];
    for [name, root, runs] in &rows {
        println!("{}", format!("{name:<0$}   {root:<1$}   {runs}", widths[0], widths[1]).trim_end());
    }
    if file.is_none() {
        println!("no map file: start with `vipyard up --images FILE` to give names to programs and folders");
    }
    Ok(())
}

fn row(image: &MappedImage) -> [String; 3] {
    let root = image.rootfs.as_deref().map_or_else(|| "host".to_owned(), |path| path.display().to_string());
    let mut runs = [image.entrypoint.as_slice(), &image.cmd].concat().join(" ");
    let program = image.entrypoint.first().filter(|program| image.rootfs.is_none() && program.contains('/'));
    if image.rootfs.as_deref().is_some_and(|path| !path.is_dir()) {
        runs += " (no such folder yet)";
    } else if program.is_some_and(|program| !Path::new(program).exists()) {
        runs += " (no such program yet)";
    }
    [image.name.clone(), root, runs]
}
