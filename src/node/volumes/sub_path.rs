//! A part of a volume: `subPath` of a mount.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Where a part of a volume is. Links are followed now, as the container is to see a file and not a link to a folder of
/// ours; what they lead to must be in the volume. A missing part becomes a folder where the volume `grows`.
///
/// # Errors
/// `InvalidInput` for a part that is not in the volume, and those of the file system.
pub(super) fn resolve(folder: &Path, part: &str, grows: bool) -> io::Result<PathBuf> {
    let folder = folder.canonicalize()?;
    if part.is_empty() {
        return Ok(folder);
    }
    let outside = || io::Error::new(io::ErrorKind::InvalidInput, format!("{part:?} is not below the volume"));
    if !Path::new(part).components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir)) {
        return Err(outside());
    }
    let place = folder.join(part);
    let found = match place.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound && grows => {
            let existing = place.ancestors().skip(1).find(|path| path.exists()).unwrap_or(&folder).canonicalize()?;
            if !existing.starts_with(&folder) {
                return Err(outside());
            }
            fs::create_dir_all(&place)?;
            fs::set_permissions(&place, fs::metadata(&folder)?.permissions())?;
            place.canonicalize()?
        }
        found => found?,
    };
    if found.starts_with(&folder) { Ok(found) } else { Err(outside()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn sub_path_stays_inside_the_volume() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::write(root.join("file"), "").unwrap();
        symlink("/etc", root.join("out")).unwrap();
        symlink("file", root.join("in")).unwrap();
        assert_eq!(resolve(&root, "", false).unwrap(), root);
        for name in ["file", "in", "./file"] {
            assert_eq!(resolve(&root, name, false).unwrap(), root.join("file"), "{name}");
        }
        for outside in ["../x", "/etc/passwd", "a/../../b", "out", "out/passwd"] {
            assert_eq!(resolve(&root, outside, true).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{outside}");
        }
        assert_eq!(resolve(&root, "none", false).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(resolve(&root, "out/new", true).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(resolve(&root, "a/b", true).unwrap(), root.join("a/b"));
    }
}
