//! The volumes of a Pod: folders on the host that containers see at their mount paths.
//!
//! ```text
//! volumes        which volumes a Pod has, how they stay current, and where containers see them
//! projected      what is in a volume of ConfigMaps, Secrets, downward API and tokens
//! atomic_writer  files that change all at once
//! host_path      the checks of a folder or file of the host
//! claims         folders behind PersistentVolumeClaims
//! sub_path       a part of a volume
//! references     which Pods to tell when a ConfigMap or Secret changes
//! ```
//!
//! ConfigMap, Secret and downward API volumes are projected volumes with one source. A volume in memory is mounted in a
//! mount namespace of the Pod, which the containers copy theirs from: so it is the same for all, it is nobody else's,
//! and it ends with them.

mod atomic_writer;
mod claims;
mod host_path;
mod projected;
mod references;
mod sub_path;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, ProjectedVolumeSource, Volume};
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::context::NodeContext;
use super::environment::{expand_known, parse_quantity};
use super::init::Bind;
use crate::sys::mount::{MountNs, Tmpfs};
pub use claims::Claims;
use projected::{Error, Payload, Projection};
pub use references::{Kind, References, Registration};
use sub_path::resolve;

/// How long after a failure the renewal of a volume is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// Everybody may write, as in the kubelet's.
const EMPTY_DIR_MODE: u32 = 0o777;

/// A volume could not be made. The message is the kubelet's, of the event `FailedMount`.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {name:?} : {source}")]
pub struct VolumeError {
    name: String,
    source: Error,
}

/// A mount can't be made as it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("failed to prepare subPath for volumeMount {mount:?} of container {container:?}: {source}")]
    SubPath { mount: String, container: String, source: io::Error },
    #[error(
        "cannot expand subPathExpr of volumeMount {mount:?} of container {container:?}: missing value for {name:?}"
    )]
    Expression { mount: String, container: String, name: String },
}

/// A Pod's volumes. They stay current until this is dropped; their files go with the Pod's folder.
pub struct Volumes {
    mounted: BTreeMap<String, Mounted>,
    /// Where the volumes in memory are.
    pub namespace: Option<MountNs>,
    /// One task for each volume with something that changes.
    renewals: JoinSet<()>,
    changed: Vec<Arc<Notify>>,
    /// The object as it is now, whose labels and annotations volumes may show.
    pod: Arc<Mutex<Arc<Pod>>>,
}

/// Where a volume is.
struct Mounted {
    folder: PathBuf,
    /// Whatever a mount says.
    read_only: bool,
    /// A missing part of it is made.
    grows: bool,
    in_memory: bool,
    recursive: bool,
}

impl Mounted {
    fn writable(folder: PathBuf) -> Self {
        Self { folder, read_only: false, grows: true, in_memory: false, recursive: false }
    }
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
        let mut volumes = Self {
            mounted: BTreeMap::new(),
            namespace: None,
            renewals: JoinSet::new(),
            changed: Vec::new(),
            pod: Arc::new(Mutex::new(Arc::clone(pod))),
        };
        let group = fs_group(pod);
        let mut in_memory = Vec::new();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let failed = |source| VolumeError { name: volume.name.clone(), source };
            let mounted = if let Some(source) = projected::source(volume) {
                let folder = dir.join("volumes/kubernetes.io~projected").join(&volume.name);
                volumes.project(node, &folder, pod_ips, source, group).await.map_err(failed)?;
                Mounted { read_only: true, grows: false, ..Mounted::writable(folder) }
            } else if let Some(source) = &volume.empty_dir {
                let folder = dir.join("volumes/kubernetes.io~empty-dir").join(&volume.name);
                make_empty_dir(&folder, group).map_err(Error::Write).map_err(failed)?;
                let memory = source.medium.as_deref() == Some("Memory");
                if memory {
                    let size = source.size_limit.as_ref().and_then(|limit| parse_quantity(&limit.0));
                    let size = size.filter(|size| *size >= 1.0).map(|size| size as u64);
                    in_memory.push(Tmpfs { folder: folder.clone(), size, mode: 0o1777 });
                }
                Mounted { in_memory: memory, ..Mounted::writable(folder) }
            } else if let Some(source) = &volume.host_path {
                let folder = host_path::check(source).map_err(Error::HostPath).map_err(failed)?;
                Mounted { recursive: true, ..Mounted::writable(folder) }
            } else if let Some(source) = &volume.persistent_volume_claim {
                let (shared, namespace) = (&node.shared, pod.namespace().unwrap_or_default());
                shared.cluster.claims.wait_synced().await;
                let folder =
                    shared.claims.of(&shared.cluster.claims, &namespace, &source.claim_name).map_err(failed)?;
                give_to_group(&folder, group).map_err(Error::Write).map_err(failed)?;
                Mounted { read_only: source.read_only == Some(true), ..Mounted::writable(folder) }
            } else {
                return Err(failed(Error::Unsupported(type_of(volume))));
            };
            volumes.mounted.insert(volume.name.clone(), mounted);
        }
        if let Some(first) = in_memory.first() {
            let name = first.folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let made = tokio::task::spawn_blocking(move || MountNs::create(&in_memory)).await;
            let made = made.unwrap_or_else(|e| Err(io::Error::other(e)));
            volumes.namespace = Some(made.map_err(|e| VolumeError { name, source: Error::Write(e) })?);
        }
        Ok(volumes)
    }

    /// Makes a volume of files that follow objects, and keeps it current.
    async fn project(
        &mut self,
        node: &Arc<NodeContext>,
        folder: &Path,
        pod_ips: &[String],
        source: ProjectedVolumeSource,
        group: Option<u32>,
    ) -> Result<(), Error> {
        let projection = Projection::new(Arc::clone(node), Arc::clone(&self.pod), pod_ips.to_vec(), source);
        let payload = projection.collect().await?;
        let renewal = payload.renew_after;
        write(folder, payload, group).await?;
        if renewal.is_some() || projection.follows() {
            let changed = Arc::new(Notify::new());
            self.changed.push(Arc::clone(&changed));
            self.renewals.spawn(keep_current(projection, folder.to_owned(), group, changed, renewal));
        }
        Ok(())
    }

    /// Something changed that volumes may show: the Pod itself, a ConfigMap or a Secret.
    pub fn refresh(&self, pod: &Arc<Pod>) {
        *self.pod.lock() = Arc::clone(pod);
        self.changed.iter().for_each(|changed| changed.notify_one());
    }

    /// Where a container sees the volumes, outer folders before those inside them.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn binds(&self, container: &Container, env: &BTreeMap<String, String>) -> Result<Vec<Bind>, MountError> {
        let mut binds = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let Some(volume) = self.mounted.get(&mount.name) else { continue };
            let (of, name) = (mount.name.clone(), container.name.clone());
            let part = match mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
                Some(text) => expand_known(text, env).map_err(|missing| MountError::Expression {
                    mount: of.clone(),
                    container: name.clone(),
                    name: missing,
                })?,
                None => mount.sub_path.clone().unwrap_or_default(),
            };
            let find = || resolve(&volume.folder, &part, volume.grows);
            let source = match &self.namespace {
                Some(namespace) if volume.in_memory => namespace.run(find).and_then(|found| found),
                _ => find(),
            };
            let source = source.map_err(|source| MountError::SubPath { mount: of, container: name, source })?;
            // Kubernetes keeps projected volumes read-only, whatever a mount says.
            let read_only = volume.read_only || mount.read_only == Some(true);
            binds.push(Bind {
                source,
                target: Path::new("/").join(&mount.mount_path),
                read_only,
                recursive: volume.recursive,
            });
        }
        binds.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(binds)
    }
}

/// The group that volumes belong to.
fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok().filter(|group| super::machine::ids_mapped().gid(*group))
}

fn make_empty_dir(folder: &Path, group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(EMPTY_DIR_MODE))?;
    give_to_group(folder, group)
}

/// What is made in the folder belongs to the group, too.
fn give_to_group(folder: &Path, group: Option<u32>) -> io::Result<()> {
    const SETGID: u32 = 0o2000;
    let Some(group) = group else { return Ok(()) };
    chown(folder, None, Some(group))?;
    let mode = fs::metadata(folder)?.permissions().mode() | SETGID | 0o070;
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
}

/// The name of the field that says what a volume is.
fn type_of(volume: &Volume) -> String {
    let fields = serde_json::to_value(volume).unwrap_or_default();
    let name = fields.as_object().and_then(|fields| fields.keys().find(|key| *key != "name").cloned());
    name.unwrap_or_else(|| "none".to_owned())
}

async fn write(folder: &Path, mut payload: Payload, group: Option<u32>) -> Result<(), Error> {
    let folder = folder.to_owned();
    if group.is_some() {
        payload.files.values_mut().for_each(|file| file.mode |= 0o040);
    }
    let written = tokio::task::spawn_blocking(move || atomic_writer::write(&folder, &payload.files, group)).await;
    written.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(Error::Write)
}

/// Writes a volume anew whenever what it shows changed, and each time before something in it expires.
async fn keep_current(
    projection: Projection,
    folder: PathBuf,
    group: Option<u32>,
    changed: Arc<Notify>,
    first: Option<Duration>,
) {
    let mut wait = first;
    loop {
        match wait {
            Some(wait) => drop(tokio::time::timeout(wait, changed.notified()).await),
            None => changed.notified().await,
        }
        let renewed = async {
            let payload = projection.collect().await?;
            let next = payload.renew_after;
            write(&folder, payload, group).await.map(|()| next)
        };
        wait = match renewed.await {
            Ok(next) => next,
            // What is gone stays as it was last seen, as with a kubelet; when it comes back, that is news.
            Err(Error::NoObject { kind, name }) => {
                debug!(folder = %folder.display(), kind, name, "volume keeps what it has");
                wait
            }
            Err(error) => {
                warn!(folder = %folder.display(), %error, "volume not renewed");
                Some(RETRY)
            }
        };
    }
}
