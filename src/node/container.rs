//! Starting a container, and further processes inside it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::cgroups::Cgroup;
use super::context::NodeContext;
use super::environment::{Sources, container_env, expand, service_variables, told_services};
use super::init;
use super::leftovers::MountNs;
use super::logs::{Limits, Log};
use super::registry::Inside;
use super::sandbox::Sandbox;
use super::security::Security;
use super::streams::console::Console;
use super::streams::{Ours, Streams, Wanted};
use super::volumes::Volumes;
use crate::images::{self, Image, MappedImage};
use crate::sys::process::{Child, Launch, Place, Spawner};

/// Where programs are looked for when this process itself has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What programs take a terminal for, as under container runtimes.
const TERM: &str = "xterm";

/// Why a container did not start, by what the kubelet makes of it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Waiting with the reason `CreateContainerConfigError`.
    #[error("{0}")]
    Config(String),
    /// Waiting with the reason `CreateContainerError`.
    #[error("{0}")]
    Create(String),
    /// Terminated with the reason `StartError` and exit code 128.
    #[error("failed to create containerd task: failed to create shim task: OCI runtime create failed: {0}")]
    Start(String),
}

/// A container that runs.
#[derive(Debug)]
pub struct Started {
    pub child: Child,
    pub log: Arc<Log>,
    pub inside: Inside,
    /// The file that the container may leave its last words in.
    pub termination_log: PathBuf,
    /// Its limits, where it has some that can be kept.
    pub cgroup: Option<Cgroup>,
    /// Where processes may outlive it.
    pub leftovers: Option<MountNs>,
}

/// A run of a container, with what was decided about it.
pub struct Run<'a> {
    pub container: &'a Container,
    pub image: &'a Image,
    pub security: Security,
    /// How many runs there were before.
    pub number: u32,
}

/// Starts a container of `pod` and returns when its program has taken over.
///
/// # Errors
/// A [`StartError`].
pub async fn start(
    node: &NodeContext,
    pod: &Pod,
    sandbox: &Sandbox,
    volumes: &Volumes,
    run: Run<'_>,
) -> Result<Started, StartError> {
    let Run { container, image, security, number: run } = run;
    let mapped = image.mapped();
    let mut env = environment(node, pod, sandbox, container, image)?;
    let (argv, builtin) = command(container, image, &env)?;
    if container.tty == Some(true) {
        env.entry("TERM".to_owned()).or_insert_with(|| TERM.to_owned());
    }
    let root = mapped.and_then(|image| image.rootfs.as_ref());
    let files = Files::create(sandbox, container, run).map_err(|e| StartError::Create(format!("log files: {e}")))?;
    let cwd = container.working_dir.as_deref().filter(|d| !d.is_empty()).map(PathBuf::from);
    let cwd = cwd.or_else(|| mapped?.working_dir.clone()).unwrap_or_else(|| "/".into());
    // Volumes come first: a file of the Pod may lie inside a folder that one of them makes.
    let mut binds = volumes.binds(container, &env).map_err(|e| StartError::Config(e.to_string()))?;
    // A container that mounts a file of its own at such a place keeps it (rule NM3).
    let own = |place: &Path| binds.iter().any(|bind| bind.target == place);
    let more: Vec<init::Bind> = sandbox.binds().filter(|bind| !own(&bind.target)).collect();
    binds.extend(more);
    let termination = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    let termination =
        init::Bind { source: files.termination_log.clone(), target: termination.into(), ..init::Bind::default() };
    binds.push(termination);
    let root = root.map(|folder| files.overlay(folder)).transpose()?;
    let name = format!("{}-{}-{run}", pod.uid().unwrap_or_default(), container.name);
    let cgroup = node.shared.cgroups.group(&name, container);
    let cgroup = cgroup.map_err(|e| StartError::Create(format!("control group: {e}")))?;
    let spec = init::Spec {
        argv,
        builtin,
        env,
        cwd: cwd.clone(),
        identity: security.identity,
        cgroup: cgroup.as_ref().map(|group| group.path().to_owned()),
        terminal: container.tty == Some(true),
        mounts: Some(init::Mounts {
            root,
            read_only_root: security.read_only_root,
            binds,
            scratch: files.scratch,
            pod_mounts: volumes.namespace.is_some(),
        }),
    };

    let internal = |e: io::Error| StartError::Create(e.to_string());
    let ns = &sandbox.ns;
    let namespaces = [ns.net.as_fd(), ns.uts.as_fd(), ns.ipc.as_fd()].into_iter();
    let namespaces = namespaces.chain(volumes.namespace.as_ref().map(AsFd::as_fd)).map(|fd| fd.try_clone_to_owned());
    let namespaces: Vec<OwnedFd> = namespaces.collect::<io::Result<_>>().map_err(internal)?;
    let wanted = Wanted { stdin: container.stdin == Some(true), stdout: true, stderr: true, tty: spec.terminal };
    let (streams, stdio) = Streams::open(wanted).map_err(internal)?;
    let place = sandbox.process.as_ref().map_or(Place::New, |process| Place::In(process.pidfd()));
    let child = launch(&node.shared.spawner, &spec, stdio, namespaces, place).await?;
    let Ours { stdin, stdout, stderr, terminal } = streams.ours().map_err(internal)?;
    let console = Console::new(stdin, container.stdin_once == Some(true), terminal);
    tokio::spawn(Arc::clone(&files.log).record(Arc::clone(&console), stdout, stderr));
    let inside = Inside {
        pidfd: child.pidfd(),
        env: Arc::new(spec.env),
        cwd,
        identity: spec.identity,
        cgroup: spec.cgroup,
        console,
    };
    let leftovers = sandbox.process.as_ref().and_then(|_| MountNs::of(inside.pidfd.as_fd()));
    Ok(Started { child, log: files.log, inside, termination_log: files.termination_log, cgroup, leftovers })
}

/// Starts one more process in a running container. With a terminal, `stdio` is what [`Streams`] gives for it.
///
/// # Errors
/// [`StartError::Start`] with the runtime's words when the program can't be executed.
pub async fn exec(
    spawner: &Spawner,
    inside: &Inside,
    argv: Vec<String>,
    stdio: [OwnedFd; 3],
    terminal: bool,
) -> Result<Child, StartError> {
    let mut env = (*inside.env).clone();
    if terminal {
        env.insert("TERM".to_owned(), TERM.to_owned());
    }
    let spec = init::Spec {
        argv,
        builtin: false,
        env,
        cwd: inside.cwd.clone(),
        identity: inside.identity.clone(),
        cgroup: inside.cgroup.clone(),
        terminal,
        mounts: None,
    };
    let internal = |e: io::Error| StartError::Create(e.to_string());
    let pidfd = inside.pidfd.try_clone().map_err(internal)?;
    launch(spawner, &spec, stdio, vec![pidfd], Place::With(Arc::clone(&inside.pidfd))).await
}

/// Starts the process whose process ids all containers of a Pod share: what they leave behind, it reaps.
///
/// # Errors
/// The kernel's.
pub async fn hold_process_ids(spawner: &Spawner) -> io::Result<Child> {
    let null = || File::open("/dev/null").map(OwnedFd::from);
    let args = [images::SUBCOMMAND, "pause"].map(|word| CString::new(word).map_err(io::Error::other));
    let args = args.into_iter().collect::<io::Result<_>>()?;
    let stdio = [null()?, null()?, null()?];
    spawner.spawn(Launch { args, stdio, inherit: Vec::new(), place: Place::New }).await
}

/// A pipe for a container's output: our end and the container's.
pub fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((pipe::Receiver::from_owned_fd(read)?, write))
}

/// A pipe for a process's input: the process's end and ours.
pub fn input_pipe() -> io::Result<(OwnedFd, pipe::Sender)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((read, pipe::Sender::from_owned_fd(write)?))
}

/// Starts our own binary as the container's init, and waits until it has become the program.
async fn launch(
    spawner: &Spawner,
    spec: &init::Spec,
    stdio: [OwnedFd; 3],
    namespaces: Vec<OwnedFd>,
    place: Place,
) -> Result<Child, StartError> {
    let internal = |e: io::Error| StartError::Create(e.to_string());
    let (mut report, report_end) = output_pipe().map_err(internal)?;
    let spec = memory_file(spec).map_err(internal)?;
    let numbers: Vec<String> = namespaces.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let args = [
        init::SUBCOMMAND.to_owned(),
        spec.as_raw_fd().to_string(),
        report_end.as_raw_fd().to_string(),
        numbers.join(","),
    ];
    let args = args.into_iter().map(CString::new).collect::<Result<_, _>>().map_err(|e| internal(e.into()))?;
    let mut inherit = namespaces;
    inherit.extend([spec, report_end]);
    let child = spawner.spawn(Launch { args, stdio, inherit, place }).await.map_err(internal)?;
    let mut failure = String::new();
    report.read_to_string(&mut failure).await.map_err(internal)?;
    if failure.is_empty() {
        return Ok(child);
    }
    // It exits by itself after the report; this reaps it.
    let _ = child.wait().await;
    Err(StartError::Start(format!("unable to start container process: {failure}")))
}

fn memory_file(spec: &init::Spec) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("container", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(spec).map_err(io::Error::other)?)?;
    file.rewind()?;
    Ok(file.into())
}

/// The program of a container and its arguments (rule EV4), with whether it is one of ours.
fn command(
    container: &Container,
    image: &Image,
    env: &BTreeMap<String, String>,
) -> Result<(Vec<String>, bool), StartError> {
    let expand_all = |list: &Option<Vec<String>>| list.iter().flatten().map(|s| expand(s, env)).collect::<Vec<_>>();
    let (command, args) = (expand_all(&container.command), expand_all(&container.args));
    if !command.is_empty() {
        // A command replaces what the image would run, its arguments included.
        return Ok(([command, args].concat(), false));
    }
    if let Some(program) = image.program() {
        return Ok(([vec![images::SUBCOMMAND.to_owned(), program.to_owned()], args].concat(), true));
    }
    let none = (Vec::new(), Vec::new());
    let (entrypoint, cmd) = image.mapped().map_or(none, |image| (image.entrypoint.clone(), image.cmd.clone()));
    let argv = [entrypoint, if args.is_empty() { cmd } else { args }].concat();
    if argv.is_empty() {
        return Err(StartError::Create(format!(
            "image {} has no program of its own: give the container a command, or the image an entrypoint in the map \
             of images",
            container.image.as_deref().unwrap_or_default()
        )));
    }
    Ok((argv, false))
}

/// What the environment begins with: the image's, on top of what a container runtime sets.
fn image_env(hostname: &str, image: Option<&MappedImage>) -> BTreeMap<String, String> {
    let inherited = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let mut env = BTreeMap::from([("HOSTNAME".to_owned(), hostname.to_owned())]);
    if image.is_some_and(|image| image.rootfs.is_some()) {
        env.insert("PATH".to_owned(), DEFAULT_PATH.to_owned());
    } else {
        env.insert("PATH".to_owned(), inherited("PATH", DEFAULT_PATH));
    }
    env.extend(image.iter().flat_map(|image| image.env.clone()));
    env
}

/// Rules EV1 to EV5, on top of what a container runtime sets.
fn environment(
    node: &NodeContext,
    pod: &Pod,
    sandbox: &Sandbox,
    container: &Container,
    image: &Image,
) -> Result<BTreeMap<String, String>, StartError> {
    let cluster = &node.shared.cluster;
    let namespace = pod.namespace().unwrap_or_default();
    let mut env = image_env(&sandbox.hostname, image.mapped());
    if image.program().is_some() {
        env.insert("POD_NAME".to_owned(), pod.name_any());
        env.insert("POD_NAMESPACE".to_owned(), namespace.clone());
        env.insert("NODE_NAME".to_owned(), node.name.clone());
    }
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links) != Some(false);
    let own = if links { cluster.services.list_in(&namespace) } else { Vec::new() };
    let services = told_services(own, cluster.services.get("default", "kubernetes"));
    env.extend(service_variables(services.iter().map(Arc::as_ref)));
    let sources = Sources {
        pod,
        pod_ips: &sandbox.pod_ips,
        host_ips: &node.address_texts(),
        storage: node.shared.storage,
        config_map: &|name| cluster.config_maps.get(&namespace, name),
        secret: &|name| cluster.secrets.get(&namespace, name),
    };
    container_env(env, container, &sources).map_err(|e| StartError::Config(e.to_string()))
}

/// What a run of a container has on disk, in the Pod's folder.
struct Files {
    log: Arc<Log>,
    termination_log: PathBuf,
    scratch: PathBuf,
    /// Takes what the container writes over an image's file system.
    layer: PathBuf,
}

impl Files {
    fn create(sandbox: &Sandbox, container: &Container, run: u32) -> io::Result<Self> {
        let dir = sandbox.dir.join(&container.name);
        let scratch = dir.join("scratch");
        fs::create_dir_all(&scratch)?;
        let log = Log::create(dir.join(format!("{run}.log")), Limits::default())?;
        let termination_log = dir.join(format!("{run}.termination"));
        fs::write(&termination_log, "")?;
        fs::set_permissions(&termination_log, fs::Permissions::from_mode(0o666))?;
        // `kubectl logs --previous` reaches back one run.
        if let Some(old) = run.checked_sub(2) {
            Log::remove(&dir.join(format!("{old}.log")));
            let _ = fs::remove_file(dir.join(format!("{old}.termination")));
        }
        let layer = dir.join("layer");
        Ok(Self { log, termination_log, scratch, layer })
    }

    /// An image's folder under a fresh layer: a container that starts again begins with the image as it is.
    fn overlay(&self, image: &Path) -> Result<init::Root, StartError> {
        let folder = image.canonicalize().ok().filter(|folder| folder.is_dir());
        let lower = folder.ok_or_else(|| StartError::Create(format!("rootfs {}: no such folder", image.display())))?;
        let (upper, work) = (self.layer.join("upper"), self.layer.join("work"));
        let made = match fs::remove_dir_all(&self.layer) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => fs::create_dir_all(&upper).and_then(|()| fs::create_dir_all(&work)),
        };
        made.map_err(|e| StartError::Create(format!("layer over {}: {e}", image.display())))?;
        Ok(init::Root { lower, upper, work, user: !super::machine::ids_mapped().is_whole() })
    }
}
