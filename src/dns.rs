//! Cluster DNS.

pub mod answer;
pub mod cache;
#[cfg(test)]
mod fixtures;
pub mod follow;
pub mod forward;
pub mod health;
pub mod metrics;
pub mod records;
pub mod server;
pub mod wire;
pub mod zone;
