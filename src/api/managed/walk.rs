//! Walks over objects along their schema: which fields an object has, how two differ, one merged into another, and one
//! without some fields. The rules are those of structured-merge-diff, which KEP-555 describes.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};

use super::set::{self, Node, Set};
use crate::api::schema::{Relation, Shape, Type};

/// What changed from one object to another.
#[derive(Debug, Default)]
pub struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Comparison {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Without what is in `ignored` or below it.
    pub fn outside(self, ignored: &Set) -> Self {
        Self {
            added: self.added.outside(ignored),
            modified: self.modified.outside(ignored),
            removed: self.removed.outside(ignored),
        }
    }
}

/// The fields that an object has.
pub fn fields_of(of: Type<'_>, value: &Value) -> Set {
    let mut node = Node::default();
    collect(of, value, &mut node);
    node.below
}

fn collect(of: Type<'_>, value: &Value, node: &mut Node) {
    match of.shape(value) {
        Shape::Scalar(_) | Shape::Whole => node.member = true,
        Shape::Fields => {
            for (name, value) in value.as_object().into_iter().flatten() {
                let mut child = Node::default();
                if let Some(of) = of.field(name) {
                    collect(of, value, &mut child);
                }
                child.member |= is_empty(value) || !of.names(name);
                node.below.put(set::field(name), child);
            }
        }
        Shape::Elements(relation) => {
            let Some(of) = of.item() else { return };
            for (element, items) in by_element(relation, Some(value)) {
                let mut child = Node::member();
                if let [item] = items[..] {
                    collect(of, item, &mut child);
                }
                node.below.put(element, child);
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

/// Elements by their path element; more than one value is a duplicate.
fn by_element<'a>(relation: &Relation, list: Option<&'a Value>) -> BTreeMap<Box<str>, Vec<&'a Value>> {
    let mut found: BTreeMap<Box<str>, Vec<&Value>> = BTreeMap::new();
    for item in list.and_then(Value::as_array).into_iter().flatten() {
        if let Some(element) = set::element(relation, item) {
            found.entry(element).or_default().push(item);
        }
    }
    found
}

/// How `new` differs from `old`.
pub fn compare(of: Type<'_>, old: &Value, new: &Value) -> Comparison {
    let mut changes = Changes::default();
    changes.compare(of, Some(old), Some(new));
    Comparison { added: changes.added.below, modified: changes.modified.below, removed: changes.removed.below }
}

#[derive(Default)]
struct Changes {
    added: Node,
    modified: Node,
    removed: Node,
}

impl Changes {
    fn compare(&mut self, of: Type<'_>, old: Option<&Value>, new: Option<&Value>) {
        let Some(value) = new.or(old) else { return };
        let mut shape = of.shape(value);
        if let (Some(old), Some(new)) = (old, new)
            && std::mem::discriminant(old) != std::mem::discriminant(new)
        {
            shape = Shape::Whole;
        }
        match shape {
            Shape::Scalar(_) | Shape::Whole => self.leaf(old, new),
            Shape::Fields => {
                let (before, after) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
                if before.is_none_or(Map::is_empty) && after.is_none_or(Map::is_empty) {
                    return self.leaf(old, new);
                }
                let mut field = |name: &str, before: Option<&Value>, after: Option<&Value>| {
                    let Some(inner) = of.field(name) else { return };
                    // A named field that is an object is owned through what is in it.
                    let part = inner.is_struct() && after.is_some_and(|value| !is_empty(value));
                    self.descend(set::field(name), inner, before, after, part);
                };
                for (name, value) in after.into_iter().flatten() {
                    field(name, before.and_then(|before| before.get(name)), Some(value));
                }
                for (name, value) in before.into_iter().flatten() {
                    if after.is_none_or(|after| !after.contains_key(name)) {
                        field(name, Some(value), None);
                    }
                }
                self.ends(old, new);
            }
            Shape::Elements(relation) => {
                let (before, after) = (by_element(relation, old), by_element(relation, new));
                if before.is_empty() && after.is_empty() {
                    return self.leaf(old, new);
                }
                let Some(inner) = of.item() else { return };
                let elements: HashSet<&Box<str>> = before.keys().chain(after.keys()).collect();
                for element in elements {
                    let before = before.get(element).map_or(&[][..], Vec::as_slice);
                    let after = after.get(element).map_or(&[][..], Vec::as_slice);
                    match (before, after) {
                        ([] | [_], [] | [_]) => {
                            let (before, after) = (before.first().copied(), after.first().copied());
                            self.descend(element.clone(), inner, before, after, false);
                        }
                        // Duplicates are owned together, as a whole.
                        ([_, _, ..], [_, _, ..]) if before == after => {}
                        ([_, _, ..], [_, _, ..]) => self.modified.below.put(element.clone(), Node::member()),
                        ([_, _, ..], _) => {
                            self.removed.below.put(element.clone(), Node::member());
                            self.descend(element.clone(), inner, None, after.first().copied(), false);
                        }
                        (_, _) => {
                            self.added.below.put(element.clone(), Node::member());
                            self.descend(element.clone(), inner, before.first().copied(), None, false);
                        }
                    }
                }
                self.ends(old, new);
            }
        }
    }

    fn descend(&mut self, element: Box<str>, of: Type<'_>, old: Option<&Value>, new: Option<&Value>, part: bool) {
        if old == new {
            return;
        }
        let mut inner = Self::default();
        inner.compare(of, old, new);
        if part {
            inner.added.member = false;
        }
        self.added.below.put(element.clone(), inner.added);
        self.modified.below.put(element.clone(), inner.modified);
        self.removed.below.put(element, inner.removed);
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, Some(_)) => self.added.member = true,
            (Some(_), None) => self.removed.member = true,
            (Some(old), Some(new)) if old != new => self.modified.member = true,
            _ => {}
        }
    }

    /// An object or list that came or went did so itself, too, not only what is in it.
    fn ends(&mut self, old: Option<&Value>, new: Option<&Value>) {
        self.added.member |= old.is_none();
        self.removed.member |= new.is_none();
    }
}

/// `live` with `config` merged into it.
pub fn merge(of: Type<'_>, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let (Some(old), Some(new)) = (live, config) else { return config.or(live).cloned() };
    if std::mem::discriminant(old) != std::mem::discriminant(new) {
        return Some(new.clone());
    }
    match of.shape(new) {
        Shape::Scalar(_) | Shape::Whole => Some(new.clone()),
        Shape::Fields => {
            let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return Some(new.clone()) };
            let mut merged = old.clone();
            for (name, value) in new {
                let value = match of.field(name) {
                    Some(of) => merge(of, old.get(name), Some(value)),
                    None => Some(value.clone()),
                };
                if let Some(value) = value {
                    merged.insert(name.clone(), value);
                }
            }
            Some(Value::Object(merged))
        }
        Shape::Elements(relation) => {
            let (Some(old), Some(new), Some(of)) = (old.as_array(), new.as_array(), of.item()) else {
                return Some(new.clone());
            };
            Some(Value::Array(merge_lists(of, relation, old, new)))
        }
    }
}

/// Elements of both lists; those that both have come in the order of the new list, and those of the old list alone keep
/// their place among them.
fn merge_lists(of: Type<'_>, relation: &Relation, old: &[Value], new: &[Value]) -> Vec<Value> {
    let id = |item: &Value| set::element(relation, item);
    let new_ids: Vec<_> = new.iter().map(id).collect();
    let in_new: HashSet<&Box<str>> = new_ids.iter().flatten().collect();
    let old_ids: Vec<_> = old.iter().map(id).collect();
    let mut old_by_id: HashMap<&Box<str>, Option<&Value>> = HashMap::new();
    for (id, item) in old_ids.iter().zip(old) {
        // A duplicate takes no part in the merge of its element: the new one stands for all.
        if let Some(id) = id {
            old_by_id.entry(id).and_modify(|value| *value = None).or_insert(Some(item));
        }
    }
    let merged = |i: usize| {
        let live = new_ids[i].as_ref().and_then(|id| old_by_id.get(id).copied().flatten());
        merge(of, live, Some(&new[i])).unwrap_or(Value::Null)
    };
    let is_shared = |id: &Option<Box<str>>| id.as_ref().is_some_and(|id| old_by_id.contains_key(id));
    let mut result = Vec::with_capacity(old.len().max(new.len()));
    let mut next = 0;
    for (id, item) in old_ids.iter().zip(old) {
        if !id.as_ref().is_some_and(|id| in_new.contains(id)) {
            result.push(item.clone());
            continue;
        }
        // The place of the first element that both have and that is still to come; others come where the new list says.
        if let Some(at) = (next..new.len()).find(|&i| is_shared(&new_ids[i]))
            && new_ids[at] == *id
        {
            result.extend((next..=at).map(&merged));
            next = at + 1;
        }
    }
    result.extend((next..new.len()).map(merged));
    result
}

/// `value` without the members of `gone`; `None` if nothing is left.
pub fn remove(of: Type<'_>, value: &Value, gone: &Set) -> Option<Value> {
    match of.shape(value) {
        Shape::Scalar(_) => Some(value.clone()),
        Shape::Whole => None,
        Shape::Fields => {
            let mut left = Map::new();
            for (name, value) in value.as_object()? {
                let Some(node) = gone.get(&set::field(name)) else {
                    left.insert(name.clone(), value.clone());
                    continue;
                };
                if node.member {
                    continue;
                }
                let rest = of.field(name).and_then(|of| remove(of, value, &node.below));
                left.insert(name.clone(), rest.unwrap_or(Value::Null));
            }
            (!left.is_empty()).then_some(Value::Object(left))
        }
        Shape::Elements(relation) => {
            let of = of.item()?;
            let mut left = Vec::new();
            for item in value.as_array()? {
                match set::element(relation, item).and_then(|element| gone.get(&element)) {
                    None => left.push(item.clone()),
                    Some(node) if node.member => {}
                    Some(node) => left.extend(remove(of, item, &node.below)),
                }
            }
            (!left.is_empty()).then_some(Value::Array(left))
        }
    }
}
