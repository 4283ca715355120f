//! What a controller of EndpointSlices remembers of its slices: which belong to which owner, and which of its own
//! writes the cache does not show yet.
//!
//! The cache follows the API by a moment. A reconcile that reads it too early would not see the slice that the one
//! before created, and create it a second time. So each write is remembered with its version, and an owner is only
//! reconciled when the cache shows all of them. The watch event that completes them queues the owner again.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::endpoint_model::{MANAGED_BY_LABEL, SERVICE_NAME_LABEL};
use crate::cluster::{Change, Informer, ObjectKey};

/// How long to wait for the cache to show own writes before the API itself is asked.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// See the module documentation. Owners are keyed by the namespace and the name in the slices' service-name label.
pub(super) struct SliceBook {
    managed_by: &'static str,
    cache: Informer<EndpointSlice>,
    owners: Mutex<FxHashMap<ObjectKey, Owner>>,
}

#[derive(Default)]
struct Owner {
    slices: BTreeSet<String>,
    /// Slice name and what the cache must show of it.
    awaited: FxHashMap<String, Awaited>,
    /// When the oldest of these writes was made.
    since: Option<Instant>,
    /// A reconcile gave up because of them, and wants to be called again.
    wanted: bool,
}

#[derive(Clone, PartialEq)]
enum Awaited {
    Version(u64),
    Gone { uid: Option<String> },
}

/// The slices of an owner as far as the cache can be trusted.
pub(super) enum Slices {
    /// The cache shows all own writes.
    Known(Vec<Arc<EndpointSlice>>),
    /// It does not yet; come back when a slice changes, or after this time at the latest.
    Behind(Duration),
    /// It has not for too long: an event was lost on the way. Ask the API.
    Lost,
}

/// What a change of a slice means to its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// An own write: nothing to do.
    Own,
    /// The last own write that the owner's next turn was waiting for.
    CaughtUp(ObjectKey),
    /// Somebody else wrote (ES17).
    Foreign(ObjectKey),
}

impl SliceBook {
    pub(super) fn new(managed_by: &'static str, cache: Informer<EndpointSlice>) -> Self {
        Self { managed_by, cache, owners: Mutex::default() }
    }

    /// The owner of a slice of this controller, `None` for others' slices (ES17).
    fn owner_of(&self, slice: &EndpointSlice) -> Option<ObjectKey> {
        if slice.labels().get(MANAGED_BY_LABEL).is_none_or(|value| value != self.managed_by) {
            return None;
        }
        let name = slice.labels().get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?;
        Some(ObjectKey::new(slice.namespace().unwrap_or_default(), name))
    }

    /// Takes a change of the cache to the books. A slice that changed hands concerns two owners.
    pub(super) fn note(&self, change: &Change<EndpointSlice>) -> Vec<Noted> {
        match change {
            Change::Applied { old, new } => {
                let owner = self.owner_of(new);
                let mut noted = Vec::new();
                if let Some(former) =
                    old.as_ref().and_then(|old| self.owner_of(old)).filter(|f| Some(f) != owner.as_ref())
                {
                    noted.push(self.removed(former, new));
                }
                if let Some(owner) = owner {
                    noted.push(self.appeared(owner, new));
                }
                noted
            }
            Change::Deleted(old) => self.owner_of(old).map(|owner| self.removed(owner, old)).into_iter().collect(),
            Change::Synced | Change::Marked(_) => Vec::new(),
        }
    }

    fn appeared(&self, owner: ObjectKey, slice: &EndpointSlice) -> Noted {
        let name = slice.name_any();
        let mut owners = self.owners.lock();
        let entry = owners.entry(owner.clone()).or_default();
        entry.slices.insert(name.clone());
        let Some(Awaited::Version(written)) = entry.awaited.get(&name) else { return Noted::Foreign(owner) };
        match version_of(slice).cmp(&Some(*written)) {
            // An event from before the write, which that write has overtaken.
            Ordering::Less => Noted::Own,
            Ordering::Equal => {
                entry.awaited.remove(&name);
                entry.after_own_write(owner)
            }
            Ordering::Greater => {
                entry.awaited.remove(&name);
                Noted::Foreign(owner)
            }
        }
    }

    fn removed(&self, owner: ObjectKey, slice: &EndpointSlice) -> Noted {
        let name = slice.name_any();
        let mut owners = self.owners.lock();
        let Some(entry) = owners.get_mut(&owner) else { return Noted::Foreign(owner) };
        entry.slices.remove(&name);
        let noted = match entry.awaited.remove(&name) {
            Some(Awaited::Gone { .. }) => entry.after_own_write(owner.clone()),
            _ => Noted::Foreign(owner.clone()),
        };
        if entry.slices.is_empty() && entry.awaited.is_empty() {
            owners.remove(&owner);
        }
        noted
    }

    /// Remembers a slice that was just created or updated, as the API returned it.
    pub(super) fn wrote(&self, owner: &ObjectKey, slice: &EndpointSlice) {
        let Some(version) = version_of(slice) else { return };
        let name = slice.name_any();
        let mut owners = self.owners.lock();
        let entry = owners.entry(owner.clone()).or_default();
        entry.slices.insert(name.clone());
        if !self.shows(&owner.namespace, &name, &Awaited::Version(version)) {
            entry.expect(name, Awaited::Version(version));
        }
    }

    /// Remembers a slice that was just deleted.
    pub(super) fn deleted(&self, owner: &ObjectKey, slice: &EndpointSlice) {
        let name = slice.name_any();
        let gone = Awaited::Gone { uid: slice.uid() };
        let mut owners = self.owners.lock();
        let entry = owners.entry(owner.clone()).or_default();
        if !self.shows(&owner.namespace, &name, &gone) {
            entry.expect(name, gone);
        }
    }

    /// The slices of `owner`, if the cache shows all own writes.
    pub(super) fn slices_of(&self, owner: &ObjectKey, now: Instant) -> Slices {
        let mut owners = self.owners.lock();
        let Some(entry) = owners.get_mut(owner) else { return Slices::Known(Vec::new()) };
        entry.awaited.retain(|name, awaited| !self.shows(&owner.namespace, name, awaited));
        if !entry.awaited.is_empty() {
            let waited = now.saturating_duration_since(*entry.since.get_or_insert(now));
            if waited >= PATIENCE {
                entry.awaited.clear();
                entry.since = None;
                return Slices::Lost;
            }
            entry.wanted = true;
            return Slices::Behind(PATIENCE - waited);
        }
        entry.since = None;
        entry.wanted = false;
        let slices: Vec<_> = entry.slices.iter().filter_map(|name| self.cache.get(&owner.namespace, name)).collect();
        if slices.len() < entry.slices.len() {
            entry.slices = slices.iter().map(|slice| slice.name_any()).collect();
        }
        Slices::Known(slices.into_iter().filter(|slice| self.owner_of(slice).as_ref() == Some(owner)).collect())
    }

    /// Drops what was awaited for an owner that is gone. Its slices stay filed until they are gone too.
    pub(super) fn forget(&self, owner: &ObjectKey) {
        let mut owners = self.owners.lock();
        if let Some(entry) = owners.get_mut(owner) {
            entry.awaited.clear();
            entry.since = None;
            if entry.slices.is_empty() {
                owners.remove(owner);
            }
        }
    }

    /// True if the cache shows that write or a later one. Versions of one API server can be compared as numbers.
    fn shows(&self, namespace: &str, name: &str, awaited: &Awaited) -> bool {
        let cached = self.cache.get(namespace, name);
        match awaited {
            Awaited::Version(version) => cached.is_some_and(|slice| version_of(&slice) >= Some(*version)),
            Awaited::Gone { uid } => cached.is_none_or(|slice| slice.uid() != *uid),
        }
    }
}

impl Owner {
    fn expect(&mut self, name: String, awaited: Awaited) {
        self.since.get_or_insert_with(Instant::now);
        self.awaited.insert(name, awaited);
    }

    fn after_own_write(&mut self, owner: ObjectKey) -> Noted {
        if !self.awaited.is_empty() {
            return Noted::Own;
        }
        self.since = None;
        if std::mem::take(&mut self.wanted) { Noted::CaughtUp(owner) } else { Noted::Own }
    }
}

fn version_of(slice: &EndpointSlice) -> Option<u64> {
    slice.metadata.resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests;
