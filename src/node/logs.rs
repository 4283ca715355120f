//! Container logs: files in the CRI format, written from the containers' pipes and read for `kubectl logs`.
//!
//! A line is `2026-01-02T03:04:05.678901234Z stdout F text`; the tag is `P` for a part of a line longer than 16 KiB.
//! One run of a container has one [`Log`]; its file is `N.log`, with N the number of the restart, and the older half of
//! a long log is `N.log.1`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// A file of this size is set aside, and what was set aside before is forgotten.
const ROTATE_AT: u64 = 10 * 1024 * 1024;
/// Room for one read.
const READ: usize = 4096;
/// The longest text of one line of the file.
const MAX_LINE: usize = 16 * 1024;

/// The log of one run of a container.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Mutex<Open>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
}

/// How far a log has come; followers wait for it to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes in the current file.
    pub written: u64,
    /// How often the file was set aside.
    pub rotations: u32,
    /// The container has ended and everything is written.
    pub ended: bool,
}

/// Which of a container's outputs a line came from.
#[derive(Clone, Copy, Debug)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Log {
    /// Begins the log of a run, in place of what is there.
    ///
    /// # Errors
    /// When the folder can't be made or the file not be written.
    pub fn create(path: PathBuf) -> io::Result<Arc<Self>> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = File::create(&path)?;
        let progress = watch::Sender::new(Progress::default());
        Ok(Arc::new(Self { path, file: Mutex::new(Open { file, size: 0 }), progress }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The older half of a long log.
    pub fn rotated_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".1");
        name.into()
    }

    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Writes until both outputs are closed, which is when the last process of the container has ended.
    pub async fn record(self: Arc<Self>, stdout: pipe::Receiver, stderr: pipe::Receiver) {
        tokio::join!(self.copy(stdout, Stream::Stdout), self.copy(stderr, Stream::Stderr));
        self.progress.send_modify(|progress| progress.ended = true);
    }

    async fn copy(&self, mut pipe: pipe::Receiver, stream: Stream) {
        let mut line = Vec::new();
        // The buffer grows with what there is to read, so that a silent container costs nothing.
        while pipe.readable().await.is_ok() {
            line.reserve(READ);
            match pipe.read_buf(&mut line).await {
                Ok(0) | Err(_) => break,
                Ok(_) => self.write_lines(&mut line, stream, false),
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
            let name = match stream {
                Stream::Stdout => "stdout",
                Stream::Stderr => "stderr",
            };
            let _ = write!(out, "{now} {name} {tag} ");
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
        let mut rotated = false;
        if open.size >= ROTATE_AT {
            // The file that stays open under its new name is still whole for those who read it.
            let next = fs::rename(&self.path, self.rotated_path()).and_then(|()| File::create(&self.path));
            if let Ok(file) = next {
                *open = Open { file, size: 0 };
                rotated = true;
            }
        }
        // A full disk loses lines of the log and nothing else; the container must not stop for it.
        if open.file.write_all(bytes).is_ok() {
            open.size += bytes.len() as u64;
        }
        let written = open.size;
        drop(open);
        self.progress.send_modify(|progress| {
            progress.written = written;
            progress.rotations += u32::from(rotated);
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
        Log::create(folder.join("c/0.log")).unwrap()
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
    fn full_file_is_set_aside_once() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path());
        log.append(&vec![b'a'; ROTATE_AT as usize]);
        log.append(b"b");
        assert_eq!(fs::read(log.path()).unwrap(), b"b");
        assert_eq!(fs::metadata(log.rotated_path()).unwrap().len(), ROTATE_AT);
        assert_eq!(*log.progress().borrow(), Progress { written: 1, rotations: 1, ended: false });
    }

    #[test]
    fn timestamps_have_nine_digits() {
        assert_eq!(timestamp(Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00.000000000Z");
    }
}
