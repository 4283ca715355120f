//! Who owns which field of an object: `metadata.managedFields`, and server-side apply (KEP-555).
//!
//! Every write leaves an entry for its field manager. A write by POST, PUT or PATCH takes what it changes; an apply
//! owns exactly what it says, must not change what others own unless it is forced, and lets go of what it no longer
//! says: fields that nobody else owns are removed then.

mod last_applied;
mod set;
mod validate;
mod walk;

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::object::{meta, meta_mut};
use super::schema::{Schema, Type};
use super::status::{ApiError, Cause};
use set::Set;
use walk::{compare, fields_of, merge, remove};

/// The most entries of managers that update; more are joined into one.
const UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";
/// Owns what was there before the first apply, if nobody is known to.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Who applies with this name may take over what client-side apply has set.
const KUBECTL: &str = "kubectl";

/// Fields that identify an object or are the server's: nobody owns them.
static UNOWNED: LazyLock<Set> = LazyLock::new(|| {
    Set::of_fields(&[
        "apiVersion",
        "kind",
        "metadata",
        "metadata.name",
        "metadata.namespace",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "metadata.uid",
        "metadata.clusterName",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ])
});

static STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&["status"]));
static SPEC: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&["spec"]));
static NOTHING: LazyLock<Set> = LazyLock::new(Set::default);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Apply,
    Update,
}

/// Who writes, and through which part of the API.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    pub manager: &'a str,
    pub api_version: &'a str,
    /// `""` for the object itself.
    pub subresource: &'a str,
    /// RFC 3339.
    pub now: &'a str,
    /// Whether the kind has a status subresource: then a write to the object is not about the status.
    pub has_status: bool,
}

impl Writer<'_> {
    /// What a write through this part of the API cannot change.
    fn ignored(&self) -> &'static Set {
        match self.subresource {
            "status" => &SPEC,
            "" if self.has_status => &STATUS,
            _ => &NOTHING,
        }
    }
}

/// One manager's fields.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    time: Option<String>,
    set: Set,
}

impl Entry {
    fn new(writer: &Writer<'_>, operation: Operation, set: Set) -> Self {
        Self {
            manager: writer.manager.to_owned(),
            operation,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: Some(writer.now.to_owned()),
            set,
        }
    }

    /// Whether this is the entry that a write by `writer` belongs to. Appliers stay the same in every version.
    fn is_of(&self, writer: &Writer<'_>, operation: Operation) -> bool {
        self.operation == operation
            && self.manager == writer.manager
            && self.subresource == writer.subresource
            && (operation == Operation::Apply || self.api_version == writer.api_version)
    }

    fn of_value(value: &Value) -> Option<Self> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let operation = match value.get("operation")?.as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        let set = match value.get("fieldsV1") {
            Some(fields) => Set::of_value(fields)?,
            None => Set::default(),
        };
        Some(Self {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: value.get("time").and_then(Value::as_str).map(str::to_owned),
            set,
        })
    }

    fn to_value(&self) -> Value {
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let mut value = json!({
            "manager": self.manager, "operation": operation, "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.set.to_value(),
        });
        if let Some(time) = &self.time {
            value["time"] = time.as_str().into();
        }
        if !self.subresource.is_empty() {
            value["subresource"] = self.subresource.as_str().into();
        }
        value
    }

    /// As conflicts name the manager.
    fn title(&self) -> String {
        let mut title = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            title.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            title.push_str(&format!(" using {}", self.api_version));
        }
        title
    }
}

/// The owners of an object's fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managers(Vec<Entry>);

impl Managers {
    /// The owners that an object names; `None` if it names none, or not in a readable way.
    fn of(object: &Value) -> Option<Self> {
        Self::of_entries(meta(object, "managedFields")?)
    }

    fn of_entries(entries: &Value) -> Option<Self> {
        let list = entries.as_array()?;
        let entries: Option<Vec<Entry>> = list.iter().map(Entry::of_value).collect();
        entries.map(Self).filter(|managers| !managers.0.is_empty())
    }

    /// The owners after a write that changes `live` to `new`; with `live` null for a new object.
    ///
    /// A client may edit the entries: those that it has `sent` count. Entries that it empties stay empty, and who writes
    /// is then tracked again from the next apply on.
    pub fn after_update(schema: &Schema, live: &Value, new: &Value, sent: Option<&Value>, writer: &Writer<'_>) -> Self {
        if sent.is_some_and(is_reset) {
            return Self::default();
        }
        let Some(mut managers) = sent.and_then(Self::of_entries).or_else(|| Self::of(live)) else {
            return if live.is_null() { Self::created(schema, new, writer) } else { Self::default() };
        };
        let changes = compare(schema.root(), live, new).outside(writer.ignored());
        if changes.is_empty() {
            return managers;
        }
        let taken = changes.modified.clone().union(changes.added.clone());
        for entry in &mut managers.0 {
            let set = std::mem::take(&mut entry.set);
            entry.set = set.difference(&taken).difference(&changes.removed);
        }
        managers.give(writer, Operation::Update, taken.difference(&UNOWNED));
        managers.finish()
    }

    fn created(schema: &Schema, new: &Value, writer: &Writer<'_>) -> Self {
        let empty = json!({"metadata": {}});
        let changes = compare(schema.root(), &empty, new).outside(writer.ignored());
        let mut managers = Self::default();
        managers.give(writer, Operation::Update, changes.added.union(changes.modified).difference(&UNOWNED));
        managers.finish()
    }

    /// Adds to what the writer owns.
    fn give(&mut self, writer: &Writer<'_>, operation: Operation, set: Set) {
        if set.is_empty() {
            return;
        }
        match self.0.iter_mut().find(|entry| entry.is_of(writer, operation)) {
            Some(entry) => {
                entry.set = std::mem::take(&mut entry.set).union(set);
                entry.time = Some(writer.now.to_owned());
            }
            None => self.0.push(Entry::new(writer, operation, set)),
        }
    }

    fn finish(mut self) -> Self {
        self.0.retain(|entry| !entry.set.is_empty());
        let updates = |entries: &[Entry]| entries.iter().filter(|entry| entry.operation == Operation::Update).count();
        if updates(&self.0) > UPDATE_MANAGERS {
            self.sort();
            while updates(&self.0) > UPDATE_MANAGERS {
                self.join_oldest();
            }
        }
        self.sort();
        self
    }

    /// Appliers first, then by time.
    fn sort(&mut self) {
        self.0.sort_by(|a, b| {
            let key = |entry: &Entry| (entry.operation == Operation::Update, entry.time.clone(), entry.manager.clone());
            key(a).cmp(&key(b))
        });
    }

    /// Joins the oldest entry of an update with those joined before.
    fn join_oldest(&mut self) {
        let is_update = |entry: &Entry| entry.operation == Operation::Update && entry.manager != ANCIENT;
        let Some(at) = self.0.iter().position(is_update) else { return };
        let oldest = self.0.remove(at);
        let same = |entry: &&mut Entry| entry.manager == ANCIENT && entry.api_version == oldest.api_version;
        match self.0.iter_mut().find(same) {
            Some(ancient) => ancient.set = std::mem::take(&mut ancient.set).union(oldest.set),
            None => self.0.insert(at, Entry { manager: ANCIENT.into(), subresource: String::new(), ..oldest }),
        }
    }

    /// Writes the entries into an object.
    pub fn write_to(&self, object: &mut Value) {
        let metadata = meta_mut(object);
        if self.0.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".into(), self.0.iter().map(Entry::to_value).collect());
        }
    }
}

/// A client that sends `managedFields: []` or one empty entry wants nobody to own anything.
fn is_reset(entries: &Value) -> bool {
    match entries.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => only.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    }
}

/// What an apply makes of an object.
#[derive(Debug)]
pub struct Applied {
    pub object: Value,
    pub managers: Managers,
}

/// Applies `config` to `live`, which is null for a new object.
///
/// # Errors
/// 409 with a cause per field if others own what `config` changes and `force` is not set; 400 if it is not of its type.
pub fn apply(
    schema: &Schema,
    live: &Value,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Applied, ApiError> {
    let root = schema.root();
    let errors = validate::errors(root, config);
    if !errors.is_empty() {
        return Err(untyped(config, writer, &errors));
    }
    let mut managers = Managers::of(live).unwrap_or_default();
    if managers.0.is_empty() && !live.is_null() {
        let before = Writer { manager: BEFORE_FIRST_APPLY, ..*writer };
        let set = fields_of(root, live).outside(writer.ignored()).difference(&UNOWNED);
        managers.give(&before, Operation::Update, set);
    }
    let former = managers.clone();
    let wanted = fields_of(root, config).outside(writer.ignored());
    let at = managers.0.iter().position(|entry| entry.is_of(writer, Operation::Apply));
    let last = at.map(|i| std::mem::take(&mut managers.0[i].set)).unwrap_or_default();
    let own = match at {
        Some(i) => {
            managers.0[i].set = wanted;
            managers.0[i].api_version = writer.api_version.to_owned();
            i
        }
        None => {
            managers.0.push(Entry::new(writer, Operation::Apply, wanted));
            managers.0.len() - 1
        }
    };
    let empty = json!({"metadata": {}});
    let base = if live.is_null() { &empty } else { live };
    let merged = merge(root, Some(base), Some(config)).unwrap_or(Value::Null);
    let mut object = prune(root, merged, &managers, &last);
    let changes = compare(root, base, &object).outside(writer.ignored());
    let taken = changes.modified.union(changes.added);
    let mut conflicts: Vec<(String, Set)> = Vec::new();
    for (i, entry) in managers.0.iter_mut().enumerate().filter(|(i, _)| *i != own) {
        let both = entry.set.intersection(&taken);
        if !both.is_empty() {
            conflicts.push((former.0[i].title(), both.clone()));
        }
        entry.set = std::mem::take(&mut entry.set).difference(&both).difference(&changes.removed);
    }
    if writer.manager == KUBECTL {
        last_applied::allow(root, live, &mut conflicts);
    }
    if !force && !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    managers.0[own].set = std::mem::take(&mut managers.0[own].set).difference(&UNOWNED);
    if writer.manager == KUBECTL {
        last_applied::refresh(live, config, &mut object);
    }
    let changed = object != *live || managers.0.len() != former.0.len() || {
        let sets = |managers: &Managers| managers.0.iter().map(|entry| entry.set.clone()).collect::<Vec<_>>();
        sets(&managers) != sets(&former)
    };
    if changed {
        managers.0[own].time = Some(writer.now.to_owned());
    }
    Ok(Applied { object, managers: managers.finish() })
}

/// Removes what the applier owned by its last apply and no longer says, unless somebody else owns it.
fn prune(root: Type<'_>, merged: Value, managers: &Managers, last: &Set) -> Value {
    if last.is_empty() {
        return merged;
    }
    let named = |set: &Set| set.with_named_fields(root);
    let fields = |value: &Value| named(&fields_of(root, value));
    let without = |gone: &Set| remove(root, &merged, gone).unwrap_or_else(|| json!({}));
    let last = named(last);
    let all = fields(&merged);
    let owned = managers.0.iter().fold(Set::default(), |all, entry| all.union(entry.set.clone()));
    // First everything of the last apply goes; then what anybody owns comes back.
    let kept = fields(&without(&last)).union(named(&owned));
    let pruned = without(&all.clone().difference(&kept));
    // What went along without having been the applier's comes back, too.
    let gone = all.difference(&fields(&pruned)).intersection(&last);
    without(&gone)
}

/// The reference answers 500 here; the fault is the client's, so that it is a 400 with the same message.
fn untyped(config: &Value, writer: &Writer<'_>, errors: &[String]) -> ApiError {
    let text = |field: &str| meta(config, field).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let kind = config.get("kind").and_then(Value::as_str).unwrap_or_default();
    let what = match errors {
        [one] => one.clone(),
        many => format!("errors:{}", many.iter().map(|error| format!("\n  {error}")).collect::<String>()),
    };
    ApiError::bad_request(format!(
        "failed to create typed patch object ({namespace}/{name}; {}, Kind={kind}): {what}",
        writer.api_version
    ))
}

fn conflict(conflicts: &[(String, Set)]) -> ApiError {
    let each: Vec<(&String, String)> =
        conflicts.iter().flat_map(|(title, set)| set.paths().into_iter().map(move |path| (title, path))).collect();
    let message = match each.as_slice() {
        [(title, path)] => format!("Apply failed with 1 conflict: conflict with {title}: {path}"),
        _ => {
            let mut groups: Vec<&(String, Set)> = conflicts.iter().collect();
            groups.sort_by_key(|(title, _)| title.clone());
            let lines: Vec<String> = groups
                .iter()
                .map(|(title, set)| {
                    let paths = set.paths().into_iter().map(|path| format!("\n- {path}")).collect::<String>();
                    format!("conflicts with {title}:{paths}")
                })
                .collect();
            format!("Apply failed with {} conflicts: {}", each.len(), lines.join("\n"))
        }
    };
    let causes: Vec<Cause> = each
        .into_iter()
        .map(|(title, path)| Cause {
            field: path,
            reason: "FieldManagerConflict",
            message: format!("conflict with {title}"),
        })
        .collect();
    ApiError::apply_conflict(message, &causes)
}

#[cfg(test)]
mod tests;
