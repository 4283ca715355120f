//! Reading container logs for `kubectl logs`: selection, format, and following without polling.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::logs::{Log, Progress};

/// The query parameters of the log subresource.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    pub follow: bool,
    /// The run before the present one.
    pub previous: bool,
    pub tail_lines: Option<u64>,
    pub since_seconds: Option<i64>,
    pub since_time: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
}

/// Pieces of this size are sent at once.
const CHUNK: usize = 32 * 1024;

/// Sends the log as the options ask, to the end that it has now or, following, to the container's end.
/// Stops when the receiver is dropped.
pub async fn read(log: Arc<Log>, options: LogOptions, out: mpsc::Sender<Bytes>) {
    let mut progress = log.progress();
    let mut output = Output::new(options.clone(), Timestamp::now());
    // Marked as seen before reading: what is written meanwhile wakes the follower once more, and nothing is missed.
    let mut seen = *progress.borrow_and_update();
    if let Ok(older) = File::open(log.rotated_path()) {
        let mut older = Lines::new(older);
        while let Some(line) = older.next() {
            if output.take(&line).is_some_and(|full| full) && !output.flush(&out).await {
                return;
            }
        }
    }
    let Ok(mut lines) = open(log.path()) else { return };
    loop {
        while let Some(line) = lines.next() {
            if output.take(&line).is_some_and(|full| full) && !output.flush(&out).await {
                return;
            }
        }
        output.end_of_past();
        if !output.flush(&out).await || !options.follow || output.is_complete() {
            return;
        }
        let before = seen;
        if seen.ended {
            return;
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            () = out.closed() => return,
        }
        seen = *progress.borrow_and_update();
        if rotated(before, seen) {
            // The open file is the one that was set aside: its rest comes first, then the new one's beginning.
            while let Some(line) = lines.next() {
                output.take(&line);
            }
            match open(log.path()) {
                Ok(next) => lines = next,
                Err(_) => return,
            }
        }
    }
}

fn rotated(before: Progress, now: Progress) -> bool {
    before.rotations != now.rotations
}

fn open(path: &Path) -> io::Result<Lines> {
    Ok(Lines::new(File::open(path)?))
}

/// The complete lines of a file that may still grow.
struct Lines {
    file: BufReader<File>,
    partial: Vec<u8>,
}

impl Lines {
    fn new(file: File) -> Self {
        Self { file: BufReader::new(file), partial: Vec::new() }
    }

    /// The next line with its newline; `None` at the present end.
    fn next(&mut self) -> Option<Vec<u8>> {
        self.file.read_until(b'\n', &mut self.partial).ok()?;
        self.partial.ends_with(b"\n").then(|| std::mem::take(&mut self.partial))
    }
}

/// Selects and formats lines.
struct Output {
    since: Option<Timestamp>,
    timestamps: bool,
    left: Option<u64>,
    /// The last lines of the past, while they are being counted.
    tail: Option<(usize, VecDeque<Vec<u8>>)>,
    line_begins: bool,
    ready: Vec<u8>,
}

impl Output {
    fn new(options: LogOptions, now: Timestamp) -> Self {
        let ago = options.since_seconds.map(|seconds| now.saturating_sub(SignedDuration::from_secs(seconds)));
        let since = options.since_time.or(ago.and_then(Result::ok));
        let tail = options.tail_lines.map(|n| (usize::try_from(n).unwrap_or(usize::MAX), VecDeque::new()));
        Self {
            since,
            timestamps: options.timestamps,
            left: options.limit_bytes,
            tail,
            line_begins: true,
            ready: Vec::new(),
        }
    }

    /// Takes a line of the file. `Some(true)` when there is enough to send.
    fn take(&mut self, line: &[u8]) -> Option<bool> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (stamp, _, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let stamp = std::str::from_utf8(stamp).ok()?;
        if let Some(since) = self.since
            && stamp.parse::<Timestamp>().is_ok_and(|at| at < since)
        {
            return None;
        }
        let mut formatted = Vec::with_capacity(text.len() + 36);
        if self.timestamps && self.line_begins {
            formatted.extend_from_slice(stamp.as_bytes());
            formatted.push(b' ');
        }
        self.line_begins = tag == b"F";
        formatted.extend_from_slice(if self.line_begins { text } else { text.strip_suffix(b"\n").unwrap_or(text) });
        match &mut self.tail {
            Some((count, lines)) => {
                // Parts of one long line count as one.
                match lines.back_mut().filter(|last| !last.ends_with(b"\n")) {
                    Some(last) => last.extend_from_slice(&formatted),
                    None => lines.push_back(formatted),
                }
                if lines.len() > *count {
                    lines.pop_front();
                }
            }
            None => self.ready.extend_from_slice(&formatted),
        }
        Some(self.ready.len() >= CHUNK)
    }

    /// What was written before is read: from now on every line counts.
    fn end_of_past(&mut self) {
        if let Some((_, lines)) = self.tail.take() {
            self.ready.extend(lines.into_iter().flatten());
        }
    }

    fn is_complete(&self) -> bool {
        self.left == Some(0)
    }

    /// Sends what is ready; false when nobody wants more.
    async fn flush(&mut self, out: &mpsc::Sender<Bytes>) -> bool {
        let mut bytes = std::mem::take(&mut self.ready);
        if let Some(left) = &mut self.left {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
        }
        bytes.is_empty() || out.send(bytes.into()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "2026-01-02T03:04:05.000000001Z stdout F one\n\
                        2026-01-02T03:04:06.000000001Z stderr P tw\n\
                        2026-01-02T03:04:06.000000002Z stderr F o\n\
                        2026-01-02T03:04:07.000000001Z stdout F three\n";

    async fn text(options: LogOptions) -> String {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("0.log")).unwrap();
        std::fs::write(log.path(), FILE).unwrap();
        collect(log, options).await
    }

    async fn collect(log: Arc<Log>, options: LogOptions) -> String {
        let (out, mut pieces) = mpsc::channel(4);
        let reader = tokio::spawn(read(log, options, out));
        let mut text = Vec::new();
        while let Some(piece) = pieces.recv().await {
            text.extend_from_slice(&piece);
        }
        reader.await.unwrap();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn parts_of_a_long_line_are_joined() {
        assert_eq!(text(LogOptions::default()).await, "one\ntwo\nthree\n");
    }

    #[tokio::test]
    async fn tail_since_limit_and_timestamps_select_and_format() {
        assert_eq!(text(LogOptions { tail_lines: Some(2), ..LogOptions::default() }).await, "two\nthree\n");
        assert_eq!(text(LogOptions { tail_lines: Some(0), ..LogOptions::default() }).await, "");
        assert_eq!(text(LogOptions { limit_bytes: Some(5), ..LogOptions::default() }).await, "one\nt");
        let since = Some("2026-01-02T03:04:07Z".parse().unwrap());
        let options = LogOptions { since_time: since, timestamps: true, ..LogOptions::default() };
        assert_eq!(text(options).await, "2026-01-02T03:04:07.000000001Z three\n");
    }

    #[tokio::test]
    async fn follower_gets_new_lines_and_ends_with_the_container() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("0.log")).unwrap();
        let (stdout, mut stdout_end) = pipe();
        let (stderr, stderr_end) = pipe();
        let recorder = tokio::spawn(Arc::clone(&log).record(stdout, stderr));
        let (out, mut pieces) = mpsc::channel(4);
        let reader = tokio::spawn(read(log, LogOptions { follow: true, ..LogOptions::default() }, out));
        stdout_end.write_all(b"first\n").unwrap();
        assert_eq!(pieces.recv().await.unwrap(), "first\n");
        stdout_end.write_all(b"second").unwrap();
        drop((stdout_end, stderr_end));
        assert_eq!(pieces.recv().await.unwrap(), "second\n");
        assert_eq!(pieces.recv().await, None);
        recorder.await.unwrap();
        reader.await.unwrap();
    }

    fn pipe() -> (tokio::net::unix::pipe::Receiver, File) {
        let (receiver, end) = crate::node::container::output_pipe().unwrap();
        (receiver, end.into())
    }
}
