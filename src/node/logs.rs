//! Container logs: files in the CRI format, written from the containers' outputs and read for `kubectl logs`.
//!
//! A line is `2026-01-02T03:04:05.678901234Z stdout F text`; the tag is `P` for a part of a line longer than 16 KiB.
//! One run of a container has one [`Log`]; its file is `N.log`, with N the number of the restart. A full file is set
//! aside as `N.log.S`, with S its number, counted from 0, and only the last few are kept: a kubelet's 5 of 10 MiB. The
//! names of files that are set aside do not change, so a reader goes from one to the next and misses nothing.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::streams::console::{Console, Output, Stream};

/// Room for one read.
const READ: usize = 4096;
/// The longest text of one line of the file.
pub const MAX_LINE: usize = 16 * 1024;

/// How much of a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A file of this size is set aside.
    pub size: u64,
    /// Files of one run, the present one included.
    pub files: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { size: 10 * 1024 * 1024, files: 5 }
    }
}

/// The log of one run of a container.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    limits: Limits,
    file: Mutex<Open>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
    /// The number of the present file.
    segment: u32,
}

/// How far a log has come; followers wait for it to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes in the present file.
    pub written: u64,
    /// The number of the present file.
    pub segment: u32,
    /// The container has ended and everything is written.
    pub ended: bool,
}

impl Log {
    /// Begins the log of a run, in place of what is there.
    ///
    /// # Errors
    /// When the folder can't be made or the file not be written.
    pub fn create(path: PathBuf, limits: Limits) -> io::Result<Arc<Self>> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = Mutex::new(Open { file: File::create(&path)?, size: 0, segment: 0 });
        Ok(Arc::new(Self { path, limits, file, progress: watch::Sender::new(Progress::default()) }))
    }

    /// Removes the files of a log that nobody writes any more.
    pub fn remove(path: &Path) {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
        let ours = |file: &fs::DirEntry| file.path().file_stem() == Some(name) || file.file_name() == name;
        for file in fs::read_dir(folder).into_iter().flatten().flatten().filter(ours) {
            // What cannot be removed now goes with the Pod's folder.
            let _ = fs::remove_file(file.path());
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn aside(&self, segment: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{segment}"));
        name.into()
    }

    /// Opens a file of the log by its number, or the oldest that there still is after it; with its number.
    pub fn open(&self, segment: u32) -> io::Result<(u32, File)> {
        // Nothing is set aside meanwhile.
        let open = self.file.lock();
        let oldest = (open.segment + 1).saturating_sub(self.limits.files);
        let segment = segment.max(oldest).min(open.segment);
        let path = if segment == open.segment { self.path.clone() } else { self.aside(segment) };
        Ok((segment, File::open(path)?))
    }

    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Waits until all that the container has said is written, `most` at the longest: a process that outlives it may
    /// keep its outputs open.
    pub async fn whole(&self, most: Duration) {
        let mut progress = self.progress.subscribe();
        let _ = tokio::time::timeout(most, progress.wait_for(|progress| progress.ended)).await;
    }

    /// Writes until all outputs are closed, which is when the last process of the container has ended.
    pub async fn record(self: Arc<Self>, console: Arc<Console>, stdout: Option<Output>, stderr: Option<Output>) {
        tokio::join!(self.copy(&console, stdout, Stream::Stdout), self.copy(&console, stderr, Stream::Stderr));
        self.progress.send_modify(|progress| progress.ended = true);
        console.end();
    }

    async fn copy(&self, console: &Console, output: Option<Output>, stream: Stream) {
        let Some(mut output) = output else { return };
        let mut line = Vec::new();
        loop {
            let before = line.len();
            match output.read(&mut line, READ).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    console.tell(stream, &line[before..]).await;
                    self.write_lines(&mut line, stream, false);
                }
            }
            if line.is_empty() {
                line = Vec::new();
            }
        }
        self.write_lines(&mut line, stream, true);
    }

    /// Writes the complete lines of `text` and keeps the rest in it; at the end, the rest too.
    fn write_lines(&self, text: &mut Vec<u8>, stream: Stream, end: bool) {
        let now = timestamp(Timestamp::now());
        let mut out = Vec::with_capacity(text.len() + 64);
        let mut done = 0;
        while done < text.len() {
            let rest = &text[done..];
            let (length, skip, tag) = match rest.iter().take(MAX_LINE + 1).position(|b| *b == b'\n') {
                Some(at) => (at, 1, 'F'),
                None if rest.len() > MAX_LINE => (MAX_LINE, 0, 'P'),
                None if end => (rest.len(), 0, 'F'),
                None => break,
            };
            let _ = write!(out, "{now} {} {tag} ", stream.name());
            out.extend_from_slice(&rest[..length]);
            out.push(b'\n');
            done += length + skip;
        }
        text.drain(..done);
        self.append(&out);
    }

    fn append(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut open = self.file.lock();
        if open.size >= self.limits.size {
            // The file that stays open under its new name is still whole for those who read it.
            let next = fs::rename(&self.path, self.aside(open.segment)).and_then(|()| File::create(&self.path));
            if let Ok(file) = next {
                let segment = open.segment + 1;
                *open = Open { file, size: 0, segment };
                if let Some(oldest) = segment.checked_sub(self.limits.files) {
                    let _ = fs::remove_file(self.aside(oldest));
                }
            }
        }
        // A full disk loses lines of the log and nothing else; the container must not stop for it.
        if open.file.write_all(bytes).is_ok() {
            open.size += bytes.len() as u64;
        }
        let (written, segment) = (open.size, open.segment);
        drop(open);
        self.progress.send_modify(|progress| {
            progress.written = written;
            progress.segment = segment;
        });
    }
}

/// RFC 3339 in UTC with nine digits, as container runtimes write it.
pub fn timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.9fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(folder: &Path) -> Arc<Log> {
        Log::create(folder.join("c/0.log"), Limits { size: 100, files: 3 }).unwrap()
    }

    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_are_written_whole_and_the_last_without_newline_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path());
        let mut text = b"one\ntwo\nthr".to_vec();
        log.write_lines(&mut text, Stream::Stdout, false);
        assert_eq!(text, b"thr");
        log.write_lines(&mut text, Stream::Stdout, true);
        assert_eq!(lines(log.path()), ["stdout F one", "stdout F two", "stdout F thr"]);
    }

    #[test]
    fn long_line_is_split_with_the_partial_tag() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path());
        let mut text = vec![b'x'; MAX_LINE + 3];
        text.push(b'\n');
        log.write_lines(&mut text, Stream::Stderr, false);
        assert_eq!(lines(log.path()), [format!("stderr P {}", "x".repeat(MAX_LINE)), "stderr F xxx".to_owned()]);
    }

    #[test]
    fn full_files_are_set_aside_and_the_last_few_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path());
        for segment in 0..6 {
            log.append(&[b'a' + segment; 100]);
        }
        let mut names: Vec<_> =
            fs::read_dir(folder.path().join("c")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.3", "0.log.4"]);
        assert_eq!(*log.progress().borrow(), Progress { written: 100, segment: 5, ended: false });
        for (asked, found, text) in [(0, 3, b'd'), (4, 4, b'e'), (5, 5, b'f')] {
            let (segment, file) = log.open(asked).unwrap();
            assert_eq!((segment, io::read_to_string(file).unwrap().as_bytes()[0]), (found, text));
        }
        fs::write(folder.path().join("c/10.log"), "").unwrap();
        Log::remove(log.path());
        let left: Vec<_> = fs::read_dir(folder.path().join("c")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["10.log"]);
    }

    #[test]
    fn timestamps_have_nine_digits() {
        assert_eq!(timestamp(Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00.000000000Z");
    }
}
