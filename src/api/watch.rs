//! watch: a stream of changes that reads from the store's shared log at the watcher's own pace.
//!
//! Nothing is queued per watcher: one that reads slowly falls behind, and one that falls out of what the log keeps gets
//! an ERROR event with 410 and lists again.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Api;
use super::causes::Causes;
use super::kinds::Strategy;
use super::list::{MATCH, Selection, parse_revision, read_failed, refuse_options};
use super::negotiate::Form;
use super::object;
use super::request::{Call, Params};
use super::status::{ApiError, Cause, bytes_response};
use super::table::{self, IncludeObject};
use crate::store::{Entry, Event, EventKind, Listing, ReadError, Watch};

/// Without `timeoutSeconds` a watch ends after this long or up to twice that, as in the reference.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// More is as good as for ever.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Events are sent together up to this many bytes.
const CHUNK: usize = 64 * 1024;
/// Bookmarks come this long after the first change that they tell of, as often as in the reference.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// What is sent at once: lines, of which one that goes alone is not copied.
#[derive(Default)]
struct Chunk {
    /// The only line so far.
    shared: Bytes,
    lines: Vec<u8>,
}

impl Chunk {
    fn share(&mut self, line: &Bytes) {
        if self.is_empty() {
            self.shared = line.clone();
        } else {
            self.own().extend_from_slice(line);
        }
    }

    /// To write more lines to.
    fn own(&mut self) -> &mut Vec<u8> {
        self.lines.extend_from_slice(&std::mem::take(&mut self.shared));
        &mut self.lines
    }

    fn len(&self) -> usize {
        self.shared.len() + self.lines.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Chunk> for Bytes {
    fn from(chunk: Chunk) -> Self {
        if chunk.lines.is_empty() { chunk.shared } else { chunk.lines.into() }
    }
}

struct Stream {
    kind: Arc<dyn Strategy>,
    selection: Selection,
    form: Form,
    include: IncludeObject,
    columns_sent: bool,
    /// Whether objects are sent without the owners of their fields.
    lean: bool,
    bookmarks: bool,
    initial: VecDeque<Arc<Entry>>,
    /// The revision that the initial events show; sent as a bookmark when the client asked for initial events.
    initial_end: Option<u64>,
    watch: Watch,
    deadline: Instant,
    /// Set to the next bookmark or the deadline. Kept, like `stopping`, as others wait for the locks of both.
    timer: Pin<Box<Sleep>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Says that there is something new, of whatever resource.
    commits: tokio::sync::watch::Receiver<()>,
    /// When the next bookmark is due; `None` while the client knows the newest revision or wants no bookmarks.
    bookmark_at: Option<Instant>,
    /// The revision that the last bookmark told.
    told: u64,
    api: Api,
    ended: bool,
}

impl Api {
    fn too_old(&self, revision: u64) -> String {
        too_old(revision, self.store().compacted())
    }

    pub(super) fn watch(&self, call: &Call) -> Result<Response, ApiError> {
        let selection = Selection::of(call)?;
        check_options(&call.params)?;
        let revision = parse_revision(call.params.get("resourceVersion")).map_err(|why| {
            let cause = Cause { field: "resourceVersion".into(), reason: "FieldValueInvalid", message: why };
            ApiError::invalid(call.target.about(""), &[cause])
        })?;
        let bookmarks = call.params.flag("allowWatchBookmarks");
        let initial_events = match call.params.get("sendInitialEvents") {
            "" => None,
            _ => Some(call.params.flag("sendInitialEvents")),
        };
        // Without a revision the watch begins with what is there, as if it had just been added.
        let from_state = initial_events.unwrap_or(revision == 0);
        let Listing { revision: newest, items } = match from_state {
            true => self.store().list(&selection.scope),
            false => Listing { revision: self.store().revision(), items: Vec::new() },
        };
        if revision > newest && from_state {
            return Err(ApiError::future_revision());
        }
        let start = if from_state || revision == 0 { newest } else { revision };
        let watch = match self.store().watch(selection.scope.clone(), start) {
            // Parts of this process have much to do with what they hear, which clients should not wait for.
            Ok(watch) if call.lean => watch.yielding(),
            Ok(watch) => watch,
            Err(ReadError::Compacted) => return Ok(bytes_response(StatusCode::OK, self.too_old(start))),
            Err(e) => return Err(read_failed(e)),
        };
        let timeout = match call.params.number::<i64>("timeoutSeconds")?.filter(|seconds| *seconds != 0) {
            // A time that is over already.
            Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(LONGEST),
            None => DEFAULT_TIMEOUT.mul_f64(1.0 + rand::rng().random::<f64>()),
        };
        let deadline = Instant::now() + timeout;
        let mut initial: VecDeque<Arc<Entry>> = items.into();
        initial.retain(|entry| selection.matches(entry));
        let stream = Stream {
            kind: Arc::clone(&call.target.kind),
            selection,
            form: call.form,
            include: IncludeObject::of(&call.params)?,
            columns_sent: false,
            lean: call.lean,
            bookmarks,
            initial,
            initial_end: (initial_events == Some(true)).then_some(start),
            watch,
            deadline,
            timer: Box::pin(tokio::time::sleep_until(deadline)),
            stopping: Box::pin(self.inner.stopping.clone().cancelled_owned()),
            commits: self.store().commits(),
            bookmark_at: None,
            told: 0,
            api: self.clone(),
            ended: false,
        };
        let body = futures::stream::unfold(stream, |mut stream| async move {
            let chunk = stream.next().await?;
            Some((Ok::<Bytes, std::convert::Infallible>(chunk), stream))
        });
        Ok(bytes_response(StatusCode::OK, Body::from_stream(body)))
    }
}

/// `ValidateListOptions` of `k8s.io/apimachinery/pkg/apis/internalversion/validation`, for watches.
fn check_options(params: &Params) -> Result<(), ApiError> {
    let (matching, initial) = (params.get(MATCH), !params.get("sendInitialEvents").is_empty());
    let mut causes = Causes::default();
    if initial && matching != "NotOlderThan" {
        causes.forbidden(MATCH, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if !matching.is_empty() {
        if !initial {
            causes.forbidden(MATCH, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if matching != "NotOlderThan" {
            causes.unsupported(MATCH, matching, &["NotOlderThan"]);
        }
        if !params.get("continue").is_empty() {
            causes.forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided");
        }
    }
    refuse_options(causes)
}

/// The last event of a watch that wants to know what compaction has taken. A watch that begins there is answered with
/// 200 and this one event, as in the reference.
fn too_old(revision: u64, floor: u64) -> String {
    let status = ApiError::expired(format!("too old resource version: {revision} ({floor})")).to_value();
    format!("{}\n", json!({"type": "ERROR", "object": status}))
}

impl Stream {
    /// The next events as bytes; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut chunk = Chunk::default();
        while let Some(entry) = self.initial.pop_front() {
            self.write(&mut chunk, EventKind::Added, &entry);
            if chunk.len() >= CHUNK {
                return Some(chunk.into());
            }
        }
        if let Some(revision) = self.initial_end.take()
            && self.bookmarks
        {
            self.told = revision;
            self.write_bookmark(&mut chunk, revision, true);
        }
        while chunk.is_empty() {
            let bookmark = self.bookmark_at;
            let wake = bookmark.map_or(self.deadline, |due| due.min(self.deadline));
            if self.timer.deadline() != wake {
                self.timer.as_mut().reset(wake);
            }
            tokio::select! {
                event = self.watch.next() => match event {
                    Ok(event) => self.write_event(&mut chunk, &event),
                    Err(e) => return self.fail(&e),
                },
                () = &mut self.timer => match bookmark {
                    Some(due) if due < self.deadline => self.bookmark(&mut chunk),
                    _ => return self.end(),
                },
                // The timer runs only while there is something to tell: an idle cluster wakes nobody.
                changed = self.commits.changed(), if self.bookmarks && bookmark.is_none() => {
                    // The store's end is told by the watch.
                    if changed.is_ok() {
                        self.bookmark_at = Some(Instant::now() + BOOKMARKS);
                    } else {
                        self.bookmarks = false;
                    }
                }
                () = &mut self.stopping => return self.end(),
            }
        }
        while chunk.len() < CHUNK {
            match self.watch.try_next() {
                Ok(Some(event)) => self.write_event(&mut chunk, &event),
                Ok(None) | Err(_) => break,
            }
        }
        Some(chunk.into())
    }

    /// Tells how far the client has seen everything, if that is news.
    fn bookmark(&mut self, chunk: &mut Chunk) {
        self.bookmark_at = None;
        // In this order: what is committed from here on sets the timer again.
        self.commits.mark_unchanged();
        let revision = self.watch.revision();
        if revision > self.told {
            self.told = revision;
            self.write_bookmark(chunk, revision, false);
        }
    }

    /// A bookmark lets the client go on from here even if nothing of its kind has changed for long.
    fn end(&mut self) -> Option<Bytes> {
        self.ended = true;
        let mut chunk = Chunk::default();
        if self.bookmarks {
            self.write_bookmark(&mut chunk, self.watch.revision(), false);
        }
        (!chunk.is_empty()).then(|| chunk.into())
    }

    fn fail(&mut self, error: &ReadError) -> Option<Bytes> {
        self.ended = true;
        match error {
            ReadError::Closed => None,
            _ => Some(self.api.too_old(self.watch.revision()).into()),
        }
    }

    /// An object that comes into the selection is added, one that leaves it is deleted.
    fn write_event(&mut self, chunk: &mut Chunk, event: &Event) {
        let before = event.previous.as_ref().is_some_and(|previous| self.selection.matches(previous));
        let after = event.kind != EventKind::Deleted && self.selection.matches(&event.entry);
        match (before, after) {
            (false, true) => self.write_as(chunk, EventKind::Added, event),
            (true, true) => self.write_as(chunk, EventKind::Modified, event),
            (true, false) if event.kind == EventKind::Deleted => self.write_as(chunk, EventKind::Deleted, event),
            (true, false) => {
                // The client knows the object as it was; it leaves with the revision of the change.
                let Some(previous) = &event.previous else { return };
                let object: Value = serde_json::from_slice(&previous.value).unwrap_or_default();
                let value = object::encode_again(self.kind.info(), object)(event.entry.revision);
                let last = Entry {
                    value,
                    revision: event.entry.revision,
                    key: previous.key.clone(),
                    created: previous.created,
                };
                self.write(chunk, EventKind::Deleted, &last);
            }
            (false, false) => {}
        }
    }

    /// An event that this client sees as one of `kind`: as the store has it, if it can.
    fn write_as(&mut self, chunk: &mut Chunk, kind: EventKind, event: &Event) {
        let as_it_is = kind == event.kind
            && !self.lean
            && matches!(self.form, Form::Json)
            && object::is_in_version(self.kind.info(), &event.entry.value);
        match as_it_is {
            true => chunk.share(&event.line),
            false => self.write(chunk, kind, &event.entry),
        }
    }

    fn write(&mut self, chunk: &mut Chunk, kind: EventKind, entry: &Entry) {
        let chunk = chunk.own();
        chunk.extend_from_slice(b"{\"type\":\"");
        chunk.extend_from_slice(kind.name().as_bytes());
        chunk.extend_from_slice(b"\",\"object\":");
        let whole = object::in_version(self.kind.info(), &entry.value);
        let value = if self.lean { object::without_owners(&whole) } else { Cow::Borrowed(&*whole) };
        match self.form {
            Form::Json => chunk.extend_from_slice(&value),
            Form::Partial => chunk.extend_from_slice(table::partial(&value).as_bytes()),
            Form::Table => {
                let row = table::row(&*self.kind, entry, self.include, Timestamp::now());
                let metadata = json!({"resourceVersion": entry.revision.to_string()});
                let table = table::table(self.kind.info(), metadata, vec![row], !self.columns_sent);
                self.columns_sent = true;
                chunk.extend_from_slice(table.to_string().as_bytes());
            }
        }
        chunk.extend_from_slice(b"}\n");
    }

    fn write_bookmark(&mut self, chunk: &mut Chunk, revision: u64, initial_end: bool) {
        let info = self.kind.info();
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Json => json!({"kind": info.kind, "apiVersion": info.api_version(), "metadata": metadata}),
            Form::Partial => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Form::Table => table::table(info, metadata, Vec::new(), !self.columns_sent),
        };
        let chunk = chunk.own();
        chunk.extend_from_slice(json!({"type": "BOOKMARK", "object": object}).to_string().as_bytes());
        chunk.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_goes_alone_is_not_copied_and_several_stay_in_order() {
        let line = Bytes::from(b"1\n".to_vec());
        let mut chunk = Chunk::default();
        chunk.share(&line);
        assert_eq!(Bytes::from(chunk).as_ptr(), line.as_ptr());
        let mut chunk = Chunk::default();
        chunk.share(&line);
        chunk.own().extend_from_slice(b"2\n");
        chunk.share(&Bytes::from_static(b"3\n"));
        assert_eq!(chunk.len(), 6);
        assert_eq!(Bytes::from(chunk), "1\n2\n3\n");
    }
}
