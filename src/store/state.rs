//! The current state: an immutable snapshot of everything at one revision.
//!
//! The writer clones the newest snapshot, changes the clone and puts it in place. Clones share all but the nodes on
//! the way to what changed, so a reader may hold a snapshot of any size for any time and nobody waits for it.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::{Entry, Key, Scope};

/// Everything that exists at `revision`.
#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) revision: u64,
    tables: OrdMap<Arc<str>, Table>,
}

/// The objects of one resource, ordered by namespace and name.
pub(super) type Table = OrdSet<Slot>;

impl State {
    pub(super) fn table(&self, resource: &str) -> Option<&Table> {
        self.tables.get(resource)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.table(&key.resource)?.get(&(&*key.namespace, &*key.name) as &dyn Place).map(|slot| &slot.0)
    }

    pub(super) fn put(&mut self, entry: Arc<Entry>) {
        match self.tables.get_mut(&*entry.key.resource) {
            Some(table) => put(table, entry),
            None => {
                let resource = entry.key.resource.clone();
                self.tables.insert(resource, OrdSet::unit(Slot(entry)));
            }
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(table) = self.tables.get_mut(&*key.resource) {
            remove(table, key);
        }
    }

    /// The objects of a scope, in order.
    pub(super) fn list(&self, scope: &Scope) -> Vec<Arc<Entry>> {
        self.table(&scope.resource).map(|table| list(table, scope)).unwrap_or_default()
    }
}

pub(super) fn put(table: &mut Table, entry: Arc<Entry>) {
    table.insert(Slot(entry));
}

pub(super) fn remove(table: &mut Table, key: &Key) {
    table.remove(&(&*key.namespace, &*key.name) as &dyn Place);
}

/// The objects of a scope, in order.
pub(super) fn list(table: &Table, scope: &Scope) -> Vec<Arc<Entry>> {
    match (&scope.namespace, &scope.name) {
        (None, None) => table.iter().map(|slot| slot.0.clone()).collect(),
        (None, Some(name)) => table.iter().filter(|slot| slot.0.key.name == *name).map(|slot| slot.0.clone()).collect(),
        (Some(namespace), Some(name)) => {
            let place: &dyn Place = &(&**namespace, &**name);
            table.get(place).map(|slot| slot.0.clone()).into_iter().collect()
        }
        (Some(namespace), None) => {
            let first: &dyn Place = &(&**namespace, "");
            let from = (Bound::Included(first), Bound::Unbounded);
            table
                .range::<_, dyn Place>(from)
                .take_while(|slot| slot.0.key.namespace == *namespace)
                .map(|slot| slot.0.clone())
                .collect()
        }
    }
}

/// An entry that stands in its table at its own namespace and name: a copied node costs one reference per entry.
#[derive(Clone)]
pub(super) struct Slot(Arc<Entry>);

/// Where a slot stands; lets a table be asked with borrowed text.
trait Place {
    fn place(&self) -> (&str, &str);
}

impl Place for Slot {
    fn place(&self) -> (&str, &str) {
        (&self.0.key.namespace, &self.0.key.name)
    }
}

impl Place for (&str, &str) {
    fn place(&self) -> (&str, &str) {
        *self
    }
}

impl<'a> Borrow<dyn Place + 'a> for Slot {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}

impl Ord for dyn Place + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for dyn Place + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Place + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for dyn Place + '_ {}

impl Ord for Slot {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Slot {}
