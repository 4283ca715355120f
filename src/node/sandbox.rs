//! A Pod's sandbox: its namespaces, its network device and the files that all its containers see.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;

use super::context::NodeContext;
use super::hosts::{Names, host_network_hosts, names, pod_hosts};
use super::init::Bind;
use super::netif;
use super::resolv::{ClusterDns, pod_resolv_conf};
use crate::config::DualAddr;
use crate::netlink::set_sysctl;
use crate::router::{PortId, PortKind, PortSpec};
use crate::sys::netns::SandboxNs;
use crate::sys::process::Child;

/// Why a sandbox could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("all 253 Pod addresses of node {0} are in use; start vipyard with more --nodes")]
    NoAddress(String),
    #[error("namespaces: {0}")]
    Namespace(#[source] io::Error),
    #[error("sysctl {name}={value}: {source}")]
    Sysctl { name: String, value: String, source: io::Error },
    #[error("network device: {0}")]
    Device(#[source] io::Error),
    #[error("connect to the router: {0}")]
    Attach(#[source] io::Error),
    #[error("files of the Pod: {0}")]
    Files(#[source] io::Error),
}

/// A sandbox that is up. [`Sandbox::destroy`] gives everything back.
#[derive(Debug)]
pub struct Sandbox {
    pub ns: SandboxNs,
    pub hostname: String,
    /// The process whose process ids the containers share, where they do. It is killed with the sandbox.
    pub process: Option<Child>,
    /// None with hostNetwork.
    network: Option<(PortId, DualAddr)>,
    pub pod_ips: Vec<String>,
    /// The Pod's folder, which outlives the sandbox for its logs.
    pub dir: PathBuf,
    /// Notes for the event DNSConfigForming.
    pub dns_notes: Vec<String>,
}

impl Sandbox {
    /// Makes the sandbox, with the address `claimed` or else a new one. Blocks for a few milliseconds.
    ///
    /// # Errors
    /// A [`SandboxError`]; whatever was made before it is given back.
    pub fn create(node: &NodeContext, pod: &Pod, uid: &str, claimed: Option<DualAddr>) -> Result<Self, SandboxError> {
        let spec = pod.spec.clone().unwrap_or_default();
        let namespace = pod.namespace().unwrap_or_default();
        let shared = &node.shared;
        let names = names(&pod.name_any(), &namespace, &spec, &node.name, &shared.network.domain);
        let dir = shared.pods_dir.join(uid);
        if spec.host_network == Some(true) {
            let net = node.ns.try_clone().map_err(SandboxError::Namespace)?;
            let ns = SandboxNs::create_in(net, &names.kernel).map_err(SandboxError::Namespace)?;
            let dns_notes = write_files(node, &spec, &namespace, &names, None, &dir).map_err(SandboxError::Files)?;
            let pod_ips = node.address_texts();
            return Ok(Self { ns, hostname: names.kernel, process: None, network: None, pod_ips, dir, dns_notes });
        }

        let address = claimed
            .or_else(|| node.ipam.lock().allocate())
            .ok_or_else(|| SandboxError::NoAddress(node.name.clone()))?;
        let made = (|| {
            let ns = SandboxNs::create(&names.kernel).map_err(SandboxError::Namespace)?;
            netif::relax(&ns.net);
            set_sysctls(&ns, &spec)?;
            let addresses = address.both();
            let dns_notes = write_files(node, &spec, &namespace, &names, Some(&addresses), &dir);
            let dns_notes = dns_notes.map_err(SandboxError::Files)?;
            let device =
                netif::create(&ns.net, "eth0", &addresses, shared.network.mtu).map_err(SandboxError::Device)?;
            let port = shared.ports.attach(PortSpec {
                name: format!("{namespace}/{}", pod.name_any()),
                uid: pod.uid().unwrap_or_default(),
                kind: PortKind::Pod,
                node: node.name.clone(),
                addresses: addresses.to_vec(),
                device,
            });
            let port = port.map_err(SandboxError::Attach)?;
            let pod_ips = addresses.map(|a| a.to_string()).to_vec();
            let hostname = names.kernel.clone();
            Ok(Self { ns, hostname, process: None, network: Some((port, address)), pod_ips, dir, dns_notes })
        })();
        if made.is_err() {
            node.ipam.lock().release(address);
        }
        made
    }

    /// Disconnects the device and frees the address. Every process of the Pod has ended by now.
    pub fn destroy(self, node: &NodeContext) {
        if let Some((port, address)) = self.network {
            node.shared.ports.detach(port);
            node.ipam.lock().release(address);
        }
    }

    /// The files that a container sees in place of the host's.
    pub fn binds(&self) -> impl Iterator<Item = Bind> {
        ["hosts", "resolv.conf", "hostname"].iter().map(|name| Bind {
            source: self.dir.join("etc").join(name),
            target: Path::new("/etc").join(name),
            ..Bind::default()
        })
    }
}

/// Whether a sysctl is the Pod's own: of its network namespace, or of its System V IPC.
pub fn is_own_sysctl(name: &str) -> bool {
    let name = name.replace('/', ".");
    name.starts_with("net.") || name.starts_with("kernel.shm") || name.starts_with("kernel.msg") || name == "kernel.sem"
}

fn set_sysctls(ns: &SandboxNs, spec: &PodSpec) -> Result<(), SandboxError> {
    let asked = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    for sysctl in asked {
        let key = sysctl.name.replace('.', "/");
        let set = if key.starts_with("net/") {
            ns.net.run(|| set_sysctl(&key, &sysctl.value)).flatten()
        } else {
            ns.run_with_ipc(|| set_sysctl(&key, &sysctl.value)).flatten()
        };
        let (name, value) = (sysctl.name.clone(), sysctl.value.clone());
        set.map_err(|source| SandboxError::Sysctl { name, value, source })?;
    }
    Ok(())
}

fn write_files(
    node: &NodeContext,
    spec: &PodSpec,
    namespace: &str,
    names: &Names,
    addresses: Option<&[IpAddr]>,
    dir: &Path,
) -> io::Result<Vec<String>> {
    let shared = &node.shared;
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    let hosts = match addresses {
        Some(addresses) => pod_hosts(addresses, names, aliases),
        None => host_network_hosts(&fs::read_to_string("/etc/hosts").unwrap_or_default(), aliases),
    };
    let mut resolv = pod_resolv_conf(spec, namespace, &shared.resolv_conf, &ClusterDns::of(&shared.network));
    let notes = resolv.fit();
    let etc = dir.join("etc");
    fs::create_dir_all(&etc)?;
    fs::write(etc.join("hosts"), hosts)?;
    fs::write(etc.join("resolv.conf"), resolv.render())?;
    fs::write(etc.join("hostname"), format!("{}\n", names.kernel))?;
    Ok(notes)
}
