//! Folders, files and devices of the host as volumes.

use std::fs::{self, File, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

/// Makes what the type asks to be made, and checks that the path is what it says (`pkg/volume/hostpath`). Returns the
/// path without symlinks.
///
/// # Errors
/// In the kubelet's words.
pub(super) fn check(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = &source.path;
    let type_ = source.type_.as_deref().unwrap_or_default();
    let io = |e: io::Error| format!("hostPath {path}: {e}");
    let found = match fs::metadata(path) {
        Ok(found) => Some(found.file_type()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(io(e)),
    };
    let wanted: (fn(&FileType) -> bool, &str) = match type_ {
        "" => (|_| true, ""),
        "DirectoryOrCreate" | "Directory" => (FileType::is_dir, "a directory"),
        "FileOrCreate" | "File" => (FileType::is_file, "a file"),
        "Socket" => (FileTypeExt::is_socket, "a socket file"),
        "CharDevice" => (FileTypeExt::is_char_device, "a character device"),
        "BlockDevice" => (FileTypeExt::is_block_device, "a block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    match (&found, type_) {
        (None, "" | "DirectoryOrCreate") => fs::create_dir_all(path).map_err(io)?,
        // The folder around it must be there, as with a kubelet.
        (None, "FileOrCreate") => drop(File::create(path).map_err(io)?),
        (Some(found), _) if wanted.0(found) => {}
        _ => return Err(format!("hostPath type check failed: {path} is not {}", wanted.1)),
    }
    fs::canonicalize(path).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &std::path::Path, type_: &str) -> HostPathVolumeSource {
        HostPathVolumeSource { path: path.display().to_string(), type_: Some(type_.to_owned()) }
    }

    #[test]
    fn types_are_checked_and_made() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, file) = (folder.path().join("d/e"), folder.path().join("f"));
        assert!(check(&source(&dir, "Directory")).unwrap_err().ends_with("d/e is not a directory"));
        check(&source(&dir, "DirectoryOrCreate")).unwrap();
        check(&source(&dir, "Directory")).unwrap();
        assert!(check(&source(&file, "File")).unwrap_err().ends_with("f is not a file"));
        check(&source(&file, "FileOrCreate")).unwrap();
        check(&source(&file, "File")).unwrap();
        check(&source(std::path::Path::new("/dev/null"), "CharDevice")).unwrap();
        for (type_, words) in
            [("Socket", "a socket file"), ("BlockDevice", "a block device"), ("Directory", "a directory")]
        {
            let error = check(&source(&file, type_)).unwrap_err();
            assert_eq!(error, format!("hostPath type check failed: {} is not {words}", file.display()));
        }
    }
}
