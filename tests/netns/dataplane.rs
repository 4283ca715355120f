//! The rules of the Service data plane, each shown by packets between Pods and nodes.
//!
//! A scenario sets up Services without a selector and writes their EndpointSlices itself, so that every condition, hint
//! and node name is as the rule has it. After each write it waits for the write barrier and not for packets: the very
//! next packet must follow. `docs/rules.md` says which scenario shows which rule.

pub mod affinity;
pub mod endpoint_choice;
pub mod external_policy;
pub mod families;
pub mod flows;
pub mod hints;
pub mod internal_policy;
pub mod no_endpoints;
pub mod node_ports;
mod packets;
mod stage;
pub mod virtual_ips;
pub mod which_slices;
