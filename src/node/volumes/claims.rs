//! Folders behind PersistentVolumeClaims: one for each claim, which stays until the claim is deleted.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use tracing::warn;

use super::projected::Error;
use crate::cluster::Informer;
use crate::config::claim_volume;

/// The folders of all claims, below one that is for vipyard's user alone.
#[derive(Debug)]
pub struct Claims {
    folder: PathBuf,
}

impl Claims {
    /// # Errors
    /// Of the file system.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder })
    }

    /// The folder of a bound claim.
    pub(super) fn of(
        &self,
        claims: &Informer<PersistentVolumeClaim>,
        namespace: &str,
        name: &str,
    ) -> Result<PathBuf, Error> {
        let missing = || Error::NoObject { kind: "persistentvolumeclaim", name: name.to_owned() };
        let claim = claims.get(namespace, name).ok_or_else(missing)?;
        let bound = claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"));
        if !bound || claim.metadata.deletion_timestamp.is_some() {
            return Err(Error::Unbound(name.to_owned()));
        }
        let folder = self.folder.join(claim_volume(&claim.uid().unwrap_or_default()));
        match fs::create_dir(&folder) {
            Ok(()) => {
                fs::set_permissions(&folder, fs::Permissions::from_mode(super::EMPTY_DIR_MODE)).map_err(Error::Write)?
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::Write(e)),
        }
        Ok(folder)
    }

    /// Removes what a deleted claim kept.
    pub fn remove(&self, claim: &PersistentVolumeClaim) {
        remove(&self.folder.join(claim_volume(&claim.uid().unwrap_or_default())));
    }

    /// Removes what claims kept that went while nobody looked.
    pub fn remove_orphans(&self, claims: &Informer<PersistentVolumeClaim>) {
        let known: Vec<String> =
            claims.list().iter().map(|claim| claim_volume(&claim.uid().unwrap_or_default())).collect();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if !known.iter().any(|known| entry.file_name() == known.as_str()) {
                remove(&entry.path());
            }
        }
    }
}

fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            warn!(folder = %folder.display(), error = %e, "folder of a deleted claim not removed");
        }
        _ => {}
    }
}
