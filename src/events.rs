//! Kubernetes Events: the notes that `kubectl describe` shows under an object.
//!
//! [`Recorder::event`] never waits: it puts the note into a bounded queue that one task empties. Events are a courtesy,
//! so a full queue drops the newest and says so in the log, and a write that fails is not tried again. A note that
//! repeats (same object, type, reason and message) raises the count of the Event that is there.
//!
//! One object gets 25 notes of a component in a burst and one more every five minutes, as with client-go: a set of a
//! thousand Pods does not write a thousand Events.

use std::collections::VecDeque;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rustc_hash::FxHashMap;
use serde_json::json;
use tokio::sync::mpsc;
use tracing::debug;

/// Notes that wait for their write.
const QUEUE: usize = 1024;
/// Notes that are written side by side, so that the store commits them together.
const BATCH: usize = 32;
/// Events that a repeat can still be added to.
const REMEMBERED: usize = 4096;

/// Notes of one object in a burst, and the time after which there may be one more.
const BURST: u32 = 25;
const REFILL_SECONDS: i64 = 300;

/// Why a Service of type LoadBalancer has no address yet: the reason of the service controller's Event.
pub const SYNC_LOAD_BALANCER_FAILED: &str = "SyncLoadBalancerFailed";

/// The two kinds of Event that Kubernetes knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Writes Events in the name of one component. Clones share the queue and the counts.
#[derive(Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct NoteKey {
    namespace: Option<String>,
    kind: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    field_path: Option<String>,
    type_: EventType,
    reason: String,
    message: String,
}

struct Note {
    regarding: ObjectReference,
    type_: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Recorder {
    /// A recorder for `component` ("default-scheduler"), on `host` if it belongs to a node. Must be called within a
    /// tokio runtime; its task ends when the last clone is dropped.
    pub fn new(client: Client, component: &str, host: Option<String>) -> Self {
        let (notes, queue) = mpsc::channel(QUEUE);
        let worker = Worker {
            client,
            component: component.to_owned(),
            host,
            written: Written::default(),
            allowance: Allowance::default(),
        };
        tokio::spawn(worker.run(queue));
        Self { notes }
    }

    /// Notes that something happened to `regarding` (kind, namespace, name and uid must be set for `kubectl describe`
    /// to find it): `reason` is one CamelCase word, `message` a sentence for people.
    pub fn event(
        &self,
        regarding: ObjectReference,
        type_: EventType,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) {
        let note = Note { regarding, type_, reason: reason.into(), message: message.into(), at: Timestamp::now() };
        if let Err(mpsc::error::TrySendError::Full(note)) = self.notes.try_send(note) {
            debug!(reason = note.reason, message = note.message, "event dropped, too many are waiting");
        }
    }
}

/// The newest Event of a reason about an object, told by its uid.
pub fn newest<'a>(events: impl IntoIterator<Item = &'a Event>, object: &ObjectMeta, reason: &str) -> Option<&'a Event> {
    let about = |event: &&Event| event.involved_object.uid == object.uid && event.reason.as_deref() == Some(reason);
    events.into_iter().filter(about).max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0))
}

impl Note {
    fn key(&self) -> NoteKey {
        NoteKey {
            namespace: self.regarding.namespace.clone(),
            kind: self.regarding.kind.clone(),
            name: self.regarding.name.clone(),
            uid: self.regarding.uid.clone(),
            field_path: self.regarding.field_path.clone(),
            type_: self.type_,
            reason: self.reason.clone(),
            message: self.message.clone(),
        }
    }

    /// The Event's own namespace: that of the object, or `default` for objects without one.
    fn namespace(&self) -> &str {
        self.regarding.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
    }
}

/// How many notes each object may still have.
#[derive(Default)]
struct Allowance(FxHashMap<(Option<String>, Option<String>), (u32, Timestamp)>);

impl Allowance {
    /// Takes one note of an object from its allowance, if there is one.
    fn take(&mut self, regarding: &ObjectReference, now: Timestamp) -> bool {
        let refilled =
            |since: Timestamp| u32::try_from(now.duration_since(since).as_secs() / REFILL_SECONDS).unwrap_or(0);
        if self.0.len() >= REMEMBERED {
            // Whoever has all of it back is as one that was never seen.
            self.0.retain(|_, (used, since)| *used > refilled(*since));
        }
        let key = (regarding.kind.clone(), regarding.uid.clone().or_else(|| regarding.name.clone()));
        let (used, since) = self.0.entry(key).or_insert((0, now));
        let back = refilled(*since);
        if back > 0 {
            *used = used.saturating_sub(back);
            *since = now;
        }
        let allowed = *used < BURST;
        *used += u32::from(allowed);
        allowed
    }
}

/// The Events that were written last, so that repeats can be counted.
#[derive(Default)]
struct Written {
    by_key: FxHashMap<NoteKey, (String, i32)>,
    oldest_first: VecDeque<NoteKey>,
}

impl Written {
    fn insert(&mut self, key: NoteKey, name: String) {
        if self.by_key.insert(key.clone(), (name, 1)).is_none() {
            self.oldest_first.push_back(key);
        }
        if self.oldest_first.len() > REMEMBERED
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.by_key.remove(&oldest);
        }
    }
}

struct Worker {
    client: Client,
    component: String,
    host: Option<String>,
    written: Written,
    allowance: Allowance,
}

impl Worker {
    async fn run(mut self, mut queue: mpsc::Receiver<Note>) {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            let (mut new, mut repeats): (Vec<Note>, Vec<Note>) = (Vec::new(), Vec::new());
            for note in batch.drain(..) {
                if !self.allowance.take(&note.regarding, note.at) {
                    debug!(reason = note.reason, message = note.message, "event dropped, its object has had too many");
                    continue;
                }
                let key = note.key();
                let known = self.written.by_key.contains_key(&key) || new.iter().any(|other| other.key() == key);
                if known { repeats.push(note) } else { new.push(note) }
            }
            let made = futures::future::join_all(new.iter().map(|note| self.create(note))).await;
            for (note, result) in new.iter().zip(made) {
                match result {
                    Ok(name) => self.written.insert(note.key(), name),
                    Err(error) => not_written(note, &error),
                }
            }
            for note in &repeats {
                if let Err(error) = self.write(note).await {
                    not_written(note, &error);
                }
            }
        }
    }

    async fn write(&mut self, note: &Note) -> Result<(), kube::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), note.namespace());
        let key = note.key();
        if let Some((name, count)) = self.written.by_key.get_mut(&key) {
            let patch = json!({"count": *count + 1, "lastTimestamp": Time(note.at)});
            match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    *count += 1;
                    return Ok(());
                }
                // It has expired or was deleted: begin a new one.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let name = self.create(note).await?;
        self.written.insert(key, name);
        Ok(())
    }

    /// Writes the first Event of its kind, and returns its name.
    async fn create(&self, note: &Note) -> Result<String, kube::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), note.namespace());
        let event = self.first_event(note);
        api.create(&PostParams::default(), &event).await?;
        Ok(event.metadata.name.unwrap_or_default())
    }

    fn first_event(&self, note: &Note) -> Event {
        let object = note.regarding.name.as_deref().unwrap_or("cluster");
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{object}.{:x}", note.at.as_nanosecond())),
                namespace: Some(note.namespace().to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: note.regarding.clone(),
            reason: Some(note.reason.clone()),
            message: Some(note.message.clone()),
            type_: Some(note.type_.as_str().to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(note.at)),
            last_timestamp: Some(Time(note.at)),
            source: Some(EventSource { component: Some(self.component.clone()), host: self.host.clone() }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone().unwrap_or_default()),
            ..Event::default()
        }
    }
}

fn not_written(note: &Note, error: &kube::Error) {
    debug!(reason = note.reason, message = note.message, %error, "event not written");
}

#[cfg(test)]
mod tests;
