//! Reading container logs for `kubectl logs`: selection, format, and following without polling.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;

use super::logs::Log;
use super::streams::console::Stream;

/// The query parameters of the log subresource.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    pub follow: bool,
    /// The run before the present one.
    pub previous: bool,
    pub tail_lines: Option<u64>,
    pub since_time: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
    /// One output alone.
    pub stream: Option<Stream>,
}

/// Pieces of this size are sent at once.
const CHUNK: usize = 32 * 1024;
/// A look for the last lines goes back through a file by so much at a time.
const BLOCK: usize = 64 * 1024;

/// Sends the log as the options ask, to the end that it has now or, following, to the container's end.
/// Stops when the receiver is dropped.
pub async fn read(log: Arc<Log>, options: LogOptions, out: mpsc::Sender<Bytes>) {
    let mut progress = log.progress();
    let follow = options.follow;
    let Some(Ok(mut reader)) = apart(move || Reader::open(log, options)).await else { return };
    loop {
        // Marked as seen before reading: what is written meanwhile wakes the follower once more, and nothing is missed.
        let seen = *progress.borrow_and_update();
        loop {
            let batch = apart(move || {
                let more = reader.advance(seen.segment);
                (reader, more)
            });
            let Some((back, more)) = batch.await else { return };
            reader = back;
            let Ok(more) = more else { return };
            if !reader.output.flush(&out).await {
                return;
            }
            if !more {
                break;
            }
        }
        if !follow || seen.ended {
            return;
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            () = out.closed() => return,
        }
    }
}

/// Files are read where waiting for a disk, and going through megabytes, holds nobody up. `None` when that failed.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// A place in a log, and what was read up to there.
struct Reader {
    log: Arc<Log>,
    segment: u32,
    lines: Lines,
    output: Output,
}

impl Reader {
    /// At the beginning, or where the last lines begin that are asked for.
    fn open(log: Arc<Log>, options: LogOptions) -> io::Result<Self> {
        let output = Output::new(options);
        let (segment, file) = match &output.tail {
            None => log.open(0)?,
            Some((lines, _)) => tail(&log, *lines, output.stream)?,
        };
        Ok(Self { log, segment, lines: Lines::new(file), output })
    }

    /// Reads until there is enough to send, or to the present end. True if there is more. `last` is the number of the
    /// present file.
    fn advance(&mut self, last: u32) -> io::Result<bool> {
        loop {
            while let Some(line) = self.lines.next() {
                if self.output.take(&line).is_some_and(|full| full) {
                    return Ok(true);
                }
            }
            if last <= self.segment {
                self.output.end_of_past();
                return Ok(false);
            }
            // The file had been set aside before it was read to its end, so it is whole.
            let (next, file) = self.log.open(self.segment + 1)?;
            (self.segment, self.lines) = (next, Lines::new(file));
        }
    }
}

/// The file and the place in it from where on there are at least `lines` whole lines, or all that there are.
fn tail(log: &Log, lines: usize, stream: Option<&[u8]>) -> io::Result<(u32, File)> {
    let (mut segment, mut file) = log.open(u32::MAX)?;
    // Two more, as the first may be in parts that begin before it, and the last may not be written to its end.
    let mut left = lines.saturating_add(2);
    loop {
        let (start, found) = last_lines(&file, left, stream)?;
        left -= found;
        if left > 0 && segment > 0 {
            let (before, earlier) = log.open(segment - 1)?;
            if before < segment {
                (segment, file) = (before, earlier);
                continue;
            }
        }
        file.seek(SeekFrom::Start(start))?;
        return Ok((segment, file));
    }
}

/// Where the last `most` lines of a file begin, and how many there are if there are fewer.
fn last_lines(file: &File, most: usize, stream: Option<&[u8]>) -> io::Result<(u64, usize)> {
    let counts = |line: &[u8]| {
        let mut parts = line.splitn(4, |b| *b == b' ').skip(1);
        parts.next().is_some_and(|name| stream.is_none_or(|wanted| wanted == name)) && parts.next() == Some(b"F")
    };
    let (mut start, mut found) = (file.metadata()?.len(), 0);
    // What is known of the line that the last block cut, from its second part on.
    let mut rest = Vec::new();
    while start > 0 {
        let length = usize::try_from(start).unwrap_or(usize::MAX).min(BLOCK);
        start -= length as u64;
        let mut block = vec![0; length];
        file.read_exact_at(&mut block, start)?;
        block.append(&mut rest);
        let mut end = block.len();
        // The byte before a line is the newline of the one before it.
        while let Some(newline) = block[..end.saturating_sub(1)].iter().rposition(|byte| *byte == b'\n') {
            found += usize::from(counts(&block[newline + 1..end]));
            if found == most {
                return Ok((start + newline as u64 + 1, found));
            }
            end = newline + 1;
        }
        block.truncate(end);
        rest = block;
    }
    Ok((0, found + usize::from(counts(&rest))))
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
    stream: Option<&'static [u8]>,
    /// The last lines of the past, while they are being counted.
    tail: Option<(usize, VecDeque<Vec<u8>>)>,
    line_begins: bool,
    ready: Vec<u8>,
}

impl Output {
    fn new(options: LogOptions) -> Self {
        let tail = options.tail_lines.map(|n| (usize::try_from(n).unwrap_or(usize::MAX), VecDeque::new()));
        Self {
            since: options.since_time,
            timestamps: options.timestamps,
            left: options.limit_bytes,
            stream: options.stream.map(|stream| stream.name().as_bytes()),
            tail,
            line_begins: true,
            ready: Vec::new(),
        }
    }

    /// Takes a line of the file. `Some(true)` when there is enough to send.
    fn take(&mut self, line: &[u8]) -> Option<bool> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (stamp, stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if self.stream.is_some_and(|wanted| wanted != stream) {
            return None;
        }
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

    /// Sends what is ready; false when nobody wants more.
    async fn flush(&mut self, out: &mpsc::Sender<Bytes>) -> bool {
        let mut bytes = std::mem::take(&mut self.ready);
        if let Some(left) = &mut self.left {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
        }
        let sent = bytes.is_empty() || out.send(bytes.into()).await.is_ok();
        sent && self.left != Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::logs::Limits;
    use crate::node::streams::console::Output as Source;

    const FILE: &str = "2026-01-02T03:04:05.000000001Z stdout F one\n\
                        2026-01-02T03:04:06.000000001Z stderr P tw\n\
                        2026-01-02T03:04:06.000000002Z stderr F o\n\
                        2026-01-02T03:04:07.000000001Z stdout F three\n";

    async fn text(options: LogOptions) -> String {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("0.log"), Limits::default()).unwrap();
        std::fs::write(log.path(), FILE).unwrap();
        collect(log, options).await
    }

    async fn collect(log: Arc<Log>, options: LogOptions) -> String {
        String::from_utf8(bytes(log, options).await).unwrap()
    }

    async fn bytes(log: Arc<Log>, options: LogOptions) -> Vec<u8> {
        let (out, mut pieces) = mpsc::channel(4);
        let reader = tokio::spawn(read(log, options, out));
        let mut text = Vec::new();
        while let Some(piece) = pieces.recv().await {
            text.extend_from_slice(&piece);
        }
        reader.await.unwrap();
        text
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
        let stream = |stream| LogOptions { stream: Some(stream), ..LogOptions::default() };
        assert_eq!(text(stream(Stream::Stdout)).await, "one\nthree\n");
        assert_eq!(text(stream(Stream::Stderr)).await, "two\n");
    }

    /// More than a block, in several files, with the other stream in between.
    #[tokio::test]
    async fn last_lines_are_found_from_the_end_across_files() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("0.log"), Limits { size: 200_000, files: 1000 }).unwrap();
        let (stdout, mut end) = pipe();
        let recorder = tokio::spawn(Arc::clone(&log).record(Arc::default(), Some(Source::Pipe(stdout)), None));
        let lines: Vec<String> = (0..20_000).map(|n| format!("line {n} {}\n", "x".repeat(n % 50))).collect();
        let long = format!("{}\n", "y".repeat(100_000));
        let text = lines.concat() + &long + "last\n";
        tokio::task::spawn_blocking(move || end.write_all(text.as_bytes()).unwrap()).await.unwrap();
        recorder.await.unwrap();
        assert!(log.progress().borrow().segment > 4);
        let tail = async |count| {
            collect(Arc::clone(&log), LogOptions { tail_lines: Some(count), ..LogOptions::default() }).await
        };
        assert_eq!(tail(1).await, "last\n");
        assert!(tail(2).await == long.clone() + "last\n", "a long line is one line");
        for count in [3, 100, 9_000] {
            let expected = lines[lines.len() - (count - 2)..].concat() + &long + "last\n";
            assert!(tail(count as u64).await == expected, "another end of {count} lines");
        }
        assert!(tail(1_000_000).await.len() == lines.concat().len() + long.len() + 5, "all of it");
        // No more is gone through than is asked for.
        let (_, file) = log.open(0).unwrap();
        let (start, found) = last_lines(&file, 10, None).unwrap();
        assert!(found == 10 && start + 2000 > file.metadata().unwrap().len(), "{found} from {start}");
        let none = LogOptions { tail_lines: Some(5), stream: Some(Stream::Stderr), ..LogOptions::default() };
        assert_eq!(collect(log, none).await, "");
    }

    #[tokio::test]
    async fn follower_gets_new_lines_and_ends_with_the_container() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("0.log"), Limits::default()).unwrap();
        let (stdout, mut stdout_end) = pipe();
        let (stderr, stderr_end) = pipe();
        let outputs = (Some(Source::Pipe(stdout)), Some(Source::Pipe(stderr)));
        let recorder = tokio::spawn(Arc::clone(&log).record(Arc::default(), outputs.0, outputs.1));
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

    /// The follower is slower than the writer, so that files are set aside between its looks.
    #[tokio::test]
    async fn follower_neither_loses_nor_repeats_across_rotations() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { size: 20_000, files: 1000 };
        let log = Log::create(folder.path().join("0.log"), limits).unwrap();
        let (stdout, mut end) = pipe();
        let recorder = tokio::spawn(Arc::clone(&log).record(Arc::default(), Some(Source::Pipe(stdout)), None));
        let options = || LogOptions { follow: true, ..LogOptions::default() };
        let follower = tokio::spawn(collect(Arc::clone(&log), options()));
        let text: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
        let written = text.clone();
        tokio::task::spawn_blocking(move || end.write_all(written.as_bytes()).unwrap()).await.unwrap();
        recorder.await.unwrap();
        assert!(log.progress().borrow().segment > 10);
        assert!(follower.await.unwrap() == text, "the follower's text differs");
        assert!(collect(log, options()).await == text, "who comes late reads another text");
    }

    #[tokio::test]
    async fn bytes_are_kept_as_they_are_and_long_lines_are_whole_again() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("0.log"), Limits::default()).unwrap();
        let (stdout, mut end) = pipe();
        let recorder = tokio::spawn(Arc::clone(&log).record(Arc::default(), Some(Source::Pipe(stdout)), None));
        let line: Vec<u8> = (0..100_000_u32).map(|n| (n % 256) as u8).map(|b| if b == b'\n' { 0 } else { b }).collect();
        let written = [line.clone(), b"\n\r\n \n".to_vec()].concat();
        let expected = written.clone();
        tokio::task::spawn_blocking(move || end.write_all(&written).unwrap()).await.unwrap();
        recorder.await.unwrap();
        assert!(bytes(log, LogOptions::default()).await == expected, "other bytes");
    }

    fn pipe() -> (tokio::net::unix::pipe::Receiver, File) {
        let (receiver, end) = crate::node::container::output_pipe().unwrap();
        (receiver, end.into())
    }
}
