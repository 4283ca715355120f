//! The node agent: Pods as processes in network namespaces.

pub mod netif;
