//! The volumes of a Pod: folders on the host that containers see at their mount paths.
//!
//! ```text
//! volumes        which volumes a Pod has, their renewal, and where containers see them
//! projected      what is in a projected volume: token, ConfigMap, Secret and downward API
//! atomic_writer  files that change all at once
//! ```
//!
//! So far these are projected volumes, above all the one with the ServiceAccount's token that the API gives every Pod
//! (rule PD4). A volume of another type is left out, and so are mounts of it.

mod atomic_writer;
mod projected;

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, ProjectedVolumeSource, Volume};
use tokio::task::JoinSet;
use tracing::warn;

use super::context::NodeContext;
use super::init::Bind;
use projected::{Error, Payload, Projection};

/// How long after a failure the renewal of a token is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// A volume could not be made. The message is the kubelet's, of the event `FailedMount`.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {name:?} : {source}")]
pub struct VolumeError {
    name: String,
    source: Error,
}

/// A mount asks for a part of a volume that is outside of it, or not there.
#[derive(Debug, thiserror::Error)]
#[error("failed to prepare subPath for volumeMount {mount:?} of container {container:?}: {source}")]
pub struct SubPathError {
    mount: String,
    container: String,
    source: io::Error,
}

/// A Pod's volumes. They stay current until this is dropped; their files go with the Pod's folder.
pub struct Volumes {
    folders: BTreeMap<String, PathBuf>,
    /// One task for each volume with something that expires.
    renewals: JoinSet<()>,
}

impl Volumes {
    /// Makes the volumes in the Pod's folder `dir`.
    ///
    /// # Errors
    /// The first volume that cannot be made. Trying again may help: what is missing may come.
    pub async fn set_up(
        node: &Arc<NodeContext>,
        pod: &Arc<Pod>,
        dir: &Path,
        pod_ips: &[String],
    ) -> Result<Self, VolumeError> {
        let mut volumes = Self { folders: BTreeMap::new(), renewals: JoinSet::new() };
        for (volume, source) in projected_volumes(pod) {
            let failed = |source| VolumeError { name: volume.name.clone(), source };
            let folder = dir.join("volumes/kubernetes.io~projected").join(&volume.name);
            let projection = Projection::new(Arc::clone(node), Arc::clone(pod), pod_ips.to_vec(), source.clone());
            let payload = projection.collect().await.map_err(failed)?;
            let renewal = payload.renew_after;
            write(&folder, payload).await.map_err(failed)?;
            if let Some(after) = renewal {
                volumes.renewals.spawn(keep_current(projection, folder.clone(), after));
            }
            volumes.folders.insert(volume.name.clone(), folder);
        }
        Ok(volumes)
    }

    /// Where a container sees the volumes, outer folders before those inside them.
    ///
    /// # Errors
    /// [`SubPathError`].
    pub fn binds(&self, container: &Container) -> Result<Vec<Bind>, SubPathError> {
        let mut binds = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let Some(folder) = self.folders.get(&mount.name) else { continue };
            let source = sub_path(folder, mount.sub_path.as_deref().unwrap_or_default()).map_err(|source| {
                SubPathError { mount: mount.name.clone(), container: container.name.clone(), source }
            })?;
            // Kubernetes keeps projected volumes read-only, whatever a mount says.
            binds.push(Bind { source, target: mount.mount_path.clone().into(), read_only: true });
        }
        binds.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(binds)
    }
}

fn projected_volumes(pod: &Pod) -> impl Iterator<Item = (&Volume, &ProjectedVolumeSource)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some((volume, volume.projected.as_ref()?)))
}

/// A part of a volume. Links are followed now, as the container is to see a file and not a link to a folder of ours.
fn sub_path(folder: &Path, part: &str) -> io::Result<PathBuf> {
    if part.is_empty() {
        return Ok(folder.to_owned());
    }
    let inside = Path::new(part).components().all(|component| matches!(component, Component::Normal(_)));
    if !inside {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{part:?} is not below the volume")));
    }
    folder.join(part).canonicalize()
}

async fn write(folder: &Path, payload: Payload) -> Result<(), Error> {
    let folder = folder.to_owned();
    let written = tokio::task::spawn_blocking(move || atomic_writer::write(&folder, &payload.files)).await;
    written.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(Error::Write)
}

/// Writes a volume anew each time before something in it expires.
async fn keep_current(projection: Projection, folder: PathBuf, first: Duration) {
    let mut wait = first;
    loop {
        tokio::time::sleep(wait).await;
        let renewed = async {
            let payload = projection.collect().await?;
            let next = payload.renew_after.unwrap_or(RETRY);
            write(&folder, payload).await.map(|()| next)
        };
        wait = renewed.await.unwrap_or_else(|error| {
            warn!(folder = %folder.display(), %error, "volume not renewed");
            RETRY
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_path_stays_inside_the_volume() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        assert_eq!(sub_path(&root, "").unwrap(), root);
        assert_eq!(sub_path(&root, "file").unwrap(), root.join("file"));
        for outside in ["../x", "/etc/passwd", "a/../../b"] {
            assert_eq!(sub_path(&root, outside).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{outside}");
        }
        assert_eq!(sub_path(&root, "none").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
