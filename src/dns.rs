//! Cluster DNS.

pub mod answer;
#[cfg(test)]
mod fixtures;
pub mod records;
pub mod zone;
