//! Which ports of the loopback could not be had, for who asks what is true now: Events tell of what was.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Where a data directory tells it, as JSON.
pub const SHUT_DOORS_FILE: &str = "loopback-shut.json";

/// A port of 127.0.0.1 that should lead to a Service, and does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutDoor {
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// Why, and what to do about it.
    pub message: String,
}

/// By `NAMESPACE/NAME` of the Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutDoors(pub BTreeMap<String, Vec<ShutDoor>>);

impl ShutDoors {
    /// What the file says; nothing when there is none, as where the host needs no doors.
    pub fn read(path: &Path) -> Self {
        std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }
}

/// Takes down what is shut, at the start and whenever it changes.
pub type TellShut = Box<dyn Fn(&ShutDoors) + Send>;
