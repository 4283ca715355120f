//! The node agent: Pods as processes in network namespaces.

mod backoff;
mod environment;
mod hosts;
pub mod init;
mod ipam;
mod logs;
mod machine;
pub mod netif;
mod resolv;
mod status;
