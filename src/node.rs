//! The node agent: Pods as real processes in network namespaces.
//!
//! The cluster's nodes are virtual: each has a name, an address, a Pod range and a network namespace, and all are
//! served by this one part. It does what a kubelet and a container runtime do together, as an ordinary client of the
//! API: it registers the nodes, follows the Pods that are bound to them, and gives each a task of its own
//! (`sync`), which makes the sandbox, starts and probes the containers, writes the status and ends it all.
//!
//! A container is a process in the Pod's network, UTS and IPC namespaces with its own mount and process-id namespaces,
//! started by re-executing this binary (`init`). Every process dies with vipyard, however that ends, and namespaces and
//! devices live by descriptors alone; so what a killed vipyard leaves behind is a folder, which the next start removes.

mod agents;
mod backoff;
mod cgroups;
mod container;
mod context;
mod environment;
mod hosts;
pub mod init;
mod ipam;
mod last_words;
mod leftovers;
mod log_reader;
mod logs;
mod machine;
pub mod netif;
mod power;
mod probe;
mod register;
mod registry;
mod resolv;
mod sandbox;
mod security;
mod slot;
mod status;
mod streams;
mod sync;
mod volumes;

pub use agents::{Agents, AgentsConfig, LogError, NodeError};
pub use context::{DataPlane, EventSink, Timings};
pub use log_reader::LogOptions;
pub use power::PowerError;
pub use resolv::{ClusterDns, ResolvConf, pod_resolv_conf};
pub use streams::console::Stream as LogStream;
pub use streams::{Session, SessionError, Wanted};

/// Why limits of containers can't be kept by this process, if they can't.
pub fn limits_refusal() -> Option<String> {
    cgroups::Cgroups::open().refusal().map(str::to_owned)
}
