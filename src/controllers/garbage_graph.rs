//! Who owns whom: the garbage collector's index of every object, as small as it can be, and the rules over it. Pure.
//!
//! An object is 16 bytes of uid, its kind, names and owners; nothing else of it is kept. An owner is *solid* while it
//! exists, *waiting* while it exists only until its blocking dependents are gone (it is being deleted in the
//! foreground), and *absent* otherwise. An object with a solid owner stays; one whose owners are all absent or waiting
//! is deleted.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::Arc;

use kube::core::ObjectMeta;
use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

use super::{Kind, Kinds};

pub(super) const FOREGROUND_FINALIZER: &str = "foregroundDeletion";
pub(super) const ORPHAN_FINALIZER: &str = "orphan";
/// Uids that are known to be gone, so that nobody needs to ask for them.
const REMEMBERED_GONE: usize = 4096;

/// An object's uid in 16 bytes. A uid that is no UUID (other API servers may have such) is hashed to that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Uid(u128);

impl Uid {
    pub(super) fn of(text: &str) -> Self {
        let hashed = || {
            let hasher = BuildHasherDefault::<FxHasher>::default();
            (u128::from(hasher.hash_one(text)) << 64) | u128::from(hasher.hash_one((text, text.len())))
        };
        Self(uuid::Uuid::parse_str(text).map_or_else(|_| hashed(), |uuid| uuid.as_u128()))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_u128(self.0).fmt(f)
    }
}

/// Where an object is found: the place of its kind in the list of kinds, and its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub kind: usize,
    pub namespace: Arc<str>,
    pub name: Box<str>,
}

#[derive(Clone, Debug, PartialEq)]
struct Owner {
    uid: Uid,
    /// `None` for a kind that is not served: whether such an owner exists cannot be known, so it counts as solid.
    kind: Option<usize>,
    name: Box<str>,
    blocks: bool,
}

#[derive(Debug)]
struct Object {
    location: Location,
    owners: Box<[Owner]>,
    deleting: bool,
    foreground: bool,
    orphan: bool,
}

impl Object {
    /// True if it exists only until its blocking dependents are gone.
    fn waits(&self) -> bool {
        self.deleting && self.foreground
    }
}

/// See the module documentation.
pub(super) struct Graph {
    kinds: Arc<Kinds>,
    objects: FxHashMap<Uid, Object>,
    dependents: FxHashMap<Uid, FxHashSet<Uid>>,
    namespaces: FxHashMap<Arc<str>, usize>,
    gone: FxHashSet<Uid>,
    gone_oldest_first: VecDeque<Uid>,
}

/// What is due for an object.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// These owners are not in the index: ask the API for them and tell [`Graph::absent`] which do not exist.
    Ask(Vec<(Uid, Location)>),
    Delete {
        at: Location,
        foreground: bool,
    },
    /// Take the references to these owners, which are gone or going, off an object that has another.
    DropOwners {
        at: Location,
        owners: Vec<Uid>,
    },
    /// Foreground deletion: these dependents must go first.
    DeleteFirst(Vec<Uid>),
    /// Nothing blocks the deletion any more: take the finalizer off.
    RemoveForegroundFinalizer {
        at: Location,
    },
    /// Take the references to this owner off its dependents, then the finalizer off the owner.
    Orphan {
        at: Location,
        dependents: Vec<Location>,
    },
}

/// What the disappearance of an object leads to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Removal {
    /// Objects whose next step may be another one now.
    pub check: Vec<Uid>,
    /// The object's namespace, if it was the last one in it.
    pub emptied: Option<Arc<str>>,
}

impl Graph {
    pub(super) fn new(kinds: Arc<Kinds>) -> Self {
        Self {
            kinds,
            objects: FxHashMap::default(),
            dependents: FxHashMap::default(),
            namespaces: FxHashMap::default(),
            gone: FxHashSet::default(),
            gone_oldest_first: VecDeque::new(),
        }
    }

    /// Takes a new or changed object in, and returns the objects whose next step may be another one now.
    pub(super) fn apply(&mut self, kind: usize, metadata: &ObjectMeta) -> Vec<Uid> {
        let Some(uid) = metadata.uid.as_deref().map(Uid::of) else { return Vec::new() };
        let owners: Box<[Owner]> = metadata.owner_references.iter().flatten().map(|owner| self.owner(owner)).collect();
        let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
        let has = |wanted: &str| finalizers.iter().any(|finalizer| finalizer == wanted);
        let location = Location {
            kind,
            namespace: self.namespace(metadata.namespace.as_deref().unwrap_or_default()),
            name: metadata.name.as_deref().unwrap_or_default().into(),
        };
        let object = Object {
            deleting: metadata.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND_FINALIZER),
            orphan: has(ORPHAN_FINALIZER),
            owners,
            location,
        };

        let mut check = Vec::new();
        if !object.owners.is_empty() || (object.deleting && (object.foreground || object.orphan)) {
            check.push(uid);
        }
        for owner in &object.owners {
            self.dependents.entry(owner.uid).or_default().insert(uid);
        }
        let namespace = Arc::clone(&object.location.namespace);
        match self.objects.insert(uid, object) {
            None => *self.namespaces.entry(namespace).or_default() += 1,
            Some(old) => {
                let kept = &self.objects[&uid].owners;
                let lost: Vec<Uid> = old.owners.iter().filter(|o| !kept.contains(o)).map(|owner| owner.uid).collect();
                let still: FxHashSet<Uid> = kept.iter().map(|owner| owner.uid).collect();
                for owner in lost {
                    if !still.contains(&owner) {
                        self.release(owner, uid);
                    }
                    check.extend(self.waiting(owner));
                }
            }
        }
        check
    }

    /// Takes an object out that is gone.
    pub(super) fn remove(&mut self, uid: Uid) -> Removal {
        self.absent(uid);
        self.take_out(uid)
    }

    /// Takes the objects of a kind out that is not served any more. They may well be there.
    pub(super) fn forget(&mut self, kind: usize) {
        for uid in self.of_kind(kind) {
            self.take_out(uid);
        }
    }

    fn take_out(&mut self, uid: Uid) -> Removal {
        let Some(object) = self.objects.remove(&uid) else { return Removal::default() };
        let mut check: Vec<Uid> = self.dependents.get(&uid).into_iter().flatten().copied().collect();
        for owner in &object.owners {
            self.release(owner.uid, uid);
            check.extend(self.waiting(owner.uid));
        }
        let namespace = object.location.namespace;
        let mut emptied = None;
        if let Some(count) = self.namespaces.get_mut(&namespace) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(&namespace);
                emptied = Some(namespace).filter(|namespace| !namespace.is_empty());
            }
        }
        Removal { check, emptied }
    }

    /// The objects of a kind, to find those that vanished while nobody watched.
    pub(super) fn of_kind(&self, kind: usize) -> Vec<Uid> {
        self.objects.iter().filter(|(_, object)| object.location.kind == kind).map(|(uid, _)| *uid).collect()
    }

    pub(super) fn contains(&self, uid: Uid) -> bool {
        self.objects.contains_key(&uid)
    }

    /// Remembers that an object does not exist (any more).
    pub(super) fn absent(&mut self, uid: Uid) {
        if self.gone.insert(uid) {
            self.gone_oldest_first.push_back(uid);
            if self.gone_oldest_first.len() > REMEMBERED_GONE
                && let Some(oldest) = self.gone_oldest_first.pop_front()
            {
                self.gone.remove(&oldest);
            }
        }
    }

    /// What is due for the object. `exists` are owners that the API has just confirmed.
    pub(super) fn next_step(&self, uid: Uid, exists: &FxHashSet<Uid>) -> Step {
        let Some(object) = self.objects.get(&uid) else { return Step::Nothing };
        let at = || object.location.clone();
        if object.deleting {
            if object.orphan {
                let dependents = self.dependents_of(uid).map(|(_, dependent)| dependent.location.clone()).collect();
                return Step::Orphan { at: at(), dependents };
            }
            if !object.foreground {
                return Step::Nothing;
            }
            let blocking: Vec<(Uid, &Object)> = self
                .dependents_of(uid)
                .filter(|(_, dependent)| dependent.owners.iter().any(|owner| owner.uid == uid && owner.blocks))
                .collect();
            if blocking.is_empty() {
                return Step::RemoveForegroundFinalizer { at: at() };
            }
            let first = blocking.iter().filter(|(_, dependent)| !dependent.deleting).map(|(uid, _)| *uid).collect();
            return Step::DeleteFirst(first);
        }
        if object.owners.is_empty() {
            return Step::Nothing;
        }

        let (mut solid, mut waiting, mut ask, mut drop) = (0, false, Vec::new(), Vec::new());
        for owner in &object.owners {
            match self.state_of(owner, object, exists) {
                OwnerState::Solid => solid += 1,
                OwnerState::Waiting => {
                    waiting = true;
                    drop.push(owner.uid);
                }
                OwnerState::Absent => drop.push(owner.uid),
                OwnerState::Unknown(location) => ask.push((owner.uid, location)),
            }
        }
        if !ask.is_empty() {
            Step::Ask(ask)
        } else if solid == 0 {
            Step::Delete { at: at(), foreground: waiting && self.dependents_of(uid).next().is_some() }
        } else if drop.is_empty() {
            Step::Nothing
        } else {
            Step::DropOwners { at: at(), owners: drop }
        }
    }

    fn state_of(&self, owner: &Owner, object: &Object, exists: &FxHashSet<Uid>) -> OwnerState {
        let Some(kind) = owner.kind else { return OwnerState::Solid };
        let Kind { namespaced, served, .. } = self.kinds.at(kind);
        if !served {
            return OwnerState::Solid;
        }
        let here = &object.location.namespace;
        if namespaced && here.is_empty() {
            // An object outside of namespaces cannot be owned by one inside: nothing can be told of such an owner.
            return OwnerState::Solid;
        }
        match self.objects.get(&owner.uid) {
            // An owner in another namespace is no owner.
            Some(found) if namespaced && found.location.namespace != *here => OwnerState::Absent,
            Some(found) if found.waits() => OwnerState::Waiting,
            Some(_) => OwnerState::Solid,
            None if exists.contains(&owner.uid) => OwnerState::Solid,
            None if self.gone.contains(&owner.uid) => OwnerState::Absent,
            None => OwnerState::Unknown(Location {
                kind,
                namespace: if namespaced { Arc::clone(here) } else { "".into() },
                name: owner.name.clone(),
            }),
        }
    }

    fn dependents_of(&self, uid: Uid) -> impl Iterator<Item = (Uid, &Object)> {
        let uids = self.dependents.get(&uid).into_iter().flatten();
        uids.filter_map(|uid| Some((*uid, self.objects.get(uid)?)))
    }

    fn waiting(&self, owner: Uid) -> Option<Uid> {
        self.objects
            .get(&owner)
            .is_some_and(|object| object.deleting && (object.foreground || object.orphan))
            .then_some(owner)
    }

    fn release(&mut self, owner: Uid, dependent: Uid) {
        if let Some(dependents) = self.dependents.get_mut(&owner) {
            dependents.remove(&dependent);
            if dependents.is_empty() {
                self.dependents.remove(&owner);
            }
        }
    }

    fn owner(&self, owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference) -> Owner {
        // The version may be another one than that which is served here: group and kind say what it is.
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        Owner {
            uid: Uid::of(&owner.uid),
            kind: self.kinds.place_of(group, &owner.kind),
            name: owner.name.as_str().into(),
            blocks: owner.block_owner_deletion == Some(true),
        }
    }

    /// One allocation per namespace, shared by its objects.
    fn namespace(&self, name: &str) -> Arc<str> {
        self.namespaces.get_key_value(name).map_or_else(|| name.into(), |(known, _)| Arc::clone(known))
    }
}

enum OwnerState {
    Solid,
    Waiting,
    Absent,
    Unknown(Location),
}

#[cfg(test)]
mod tests;
