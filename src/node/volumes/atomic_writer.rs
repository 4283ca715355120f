//! Files of a volume that change all at once, in the layout of the kubelet's `AtomicWriter`.
//!
//! ```text
//! FOLDER/token              -> ..data/token
//! FOLDER/..data             -> ..2026_01_02_03_04_05.000000006
//! FOLDER/..2026_01_02_.../token
//! ```
//!
//! A new set of files goes into a folder of its own; then `..data` is exchanged for a link to it by a rename. Whoever
//! opens a file sees the old set or the new one, and a watcher of the folder sees the one rename.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::jiff::Timestamp;

/// The link to the present set.
const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";
const FOLDER_MODE: u32 = 0o755;

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFile {
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// The files of a volume by their paths inside it.
pub type Files = BTreeMap<PathBuf, VolumeFile>;

/// Makes the volume in `folder` have exactly these files, of this group. Nothing is touched when it has them already.
///
/// # Errors
/// Of the file system, and for a path that leads out of the volume or into the layout. What was there before stays.
pub fn write(folder: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    if let Some(bad) = files.keys().find(|path| !is_inside(path)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {:?}", bad.display())));
    }
    make_folder(folder)?;
    let present = fs::read_link(folder.join(DATA)).ok().map(|name| folder.join(name));
    if present.as_deref().is_some_and(|present| holds(present, files)) {
        return Ok(());
    }
    let name = Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
    let next = folder.join(&name);
    let made = fill(&next, files, group).and_then(|()| {
        let link = folder.join(DATA_NEW);
        // Left behind by a writer that was cut off.
        let _ = fs::remove_file(&link);
        symlink(&name, &link)?;
        fs::rename(link, folder.join(DATA))
    });
    if let Err(e) = made {
        let _ = fs::remove_dir_all(&next);
        return Err(e);
    }
    link_names(folder, files)?;
    present.map_or(Ok(()), fs::remove_dir_all)
}

fn is_inside(path: &Path) -> bool {
    let normal = path.components().all(|component| matches!(component, Component::Normal(_)));
    let first = path.components().next().map(|component| component.as_os_str().as_encoded_bytes());
    normal && first.is_some_and(|first| !first.starts_with(b".."))
}

fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(FOLDER_MODE))
}

/// Whether a set is the one that is wanted. Files that should not be there count by their number.
fn holds(set: &Path, files: &Files) -> bool {
    let same = |(path, file): (&PathBuf, &VolumeFile)| {
        let found = set.join(path);
        let mode = fs::metadata(&found).map(|found| found.permissions().mode() & 0o7777);
        mode.is_ok_and(|mode| mode == file.mode) && fs::read(found).is_ok_and(|content| content == file.content)
    };
    files.iter().all(same) && count(set).is_ok_and(|count| count == files.len())
}

fn count(set: &Path) -> io::Result<usize> {
    let mut all = 0;
    for entry in fs::read_dir(set)? {
        let entry = entry?;
        all += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(all)
}

fn fill(set: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    make_folder(set)?;
    for (path, file) in files {
        let place = set.join(path);
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            make_folder(&set.join(parent))?;
        }
        fs::write(&place, &file.content)?;
        if group.is_some() {
            chown(&place, None, group)?;
        }
        fs::set_permissions(&place, fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

/// The names that users see: links through `..data`, one for each first part of a path.
fn link_names(folder: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<_> = files.keys().filter_map(|path| path.components().next()).collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), folder.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let ours = name.as_encoded_bytes().starts_with(b"..");
        if !ours && !wanted.contains(&Component::Normal(&name)) {
            fs::remove_file(folder.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |content: &str| VolumeFile { content: content.into(), mode: 0o640 };
        list.iter().map(|(path, content)| (PathBuf::from(path), file(content))).collect()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with(".."));
        names.sort();
        names
    }

    fn sets(folder: &Path) -> usize {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("..2")).count()
    }

    #[test]
    fn files_are_there_with_their_modes_and_change_by_one_rename() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("volume");
        write(&folder, &files(&[("token", "one"), ("deep/er/file", "x")]), None).unwrap();
        assert_eq!(names(&folder), ["deep", "token"]);
        assert_eq!(fs::read_to_string(folder.join("token")).unwrap(), "one");
        assert_eq!(fs::metadata(folder.join("token")).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_link(folder.join("token")).unwrap(), Path::new("..data/token"));
        let open = fs::File::open(folder.join("token")).unwrap();

        write(&folder, &files(&[("token", "two"), ("more", "y")]), None).unwrap();
        assert_eq!(names(&folder), ["more", "token"]);
        assert_eq!(fs::read_to_string(folder.join("token")).unwrap(), "two");
        assert_eq!(std::io::read_to_string(open).unwrap(), "one", "who has it open reads on");
        assert_eq!(sets(&folder), 1, "the old set is gone");
    }

    #[test]
    fn same_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = files(&[("a", "1"), ("b/c", "2")]);
        write(folder.path(), &wanted, None).unwrap();
        let before = fs::read_link(folder.path().join(DATA)).unwrap();
        write(folder.path(), &wanted, None).unwrap();
        assert_eq!(fs::read_link(folder.path().join(DATA)).unwrap(), before);
        write(folder.path(), &files(&[("a", "1")]), None).unwrap();
        assert_ne!(fs::read_link(folder.path().join(DATA)).unwrap(), before, "a file less is a change");
    }

    #[test]
    fn paths_out_of_the_volume_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for bad in ["../x", "/etc/x", "a/../../x", "..data/x", ""] {
            let error = write(&folder.path().join("v"), &files(&[(bad, "")]), None).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad}");
        }
        assert!(!folder.path().join("x").exists());
    }
}
