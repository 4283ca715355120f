//! What a container leaves as its last words.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use k8s_openapi::api::core::v1::Container;

use super::logs::{Log, MAX_LINE};

/// The longest message about a container's end, in bytes.
const MAX_MESSAGE: usize = 4096;
/// Of a log, the last lines and bytes that are taken for a message.
const LOG_LINES: usize = 80;
const LOG_BYTES: usize = 2048;

/// The end of the termination file, or with the policy FallbackToLogsOnError that of the log. However much a container
/// wrote, no more is read than is told.
pub fn termination_message(container: &Container, file: &Path, log: &Log, exit_code: i32) -> Option<String> {
    let (text, _) = read_end(file, MAX_MESSAGE).unwrap_or_default();
    let fallback = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    let text = if text.is_empty() && fallback && exit_code != 0 {
        end_of_log(log.path())
    } else {
        String::from_utf8_lossy(&text).into_owned()
    };
    (!text.is_empty()).then_some(text)
}

fn end_of_log(path: &Path) -> String {
    // More than a line is needed, as the first may be cut.
    let (log, cut) = read_end(path, 4 * MAX_LINE).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines = log.lines().skip(usize::from(cut)).filter_map(|line| line.splitn(4, ' ').nth(3));
    let lines: Vec<&str> = lines.collect();
    let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    let from = tail.ceil_char_boundary(tail.len().saturating_sub(LOG_BYTES));
    tail[from..].to_owned()
}

/// The last `most` bytes of a file, and whether there are more before them.
fn read_end(path: &Path, most: usize) -> io::Result<(Vec<u8>, bool)> {
    let mut file = File::open(path)?;
    let most = most as u64;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut text = Vec::new();
    file.take(most).read_to_end(&mut text)?;
    Ok((text, length > most))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::node::logs::Limits;

    #[test]
    fn the_end_of_the_file_is_told_however_large_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("0.log"), Limits::default()).unwrap();
        let file = folder.path().join("0.termination");
        let container: Container = serde_json::from_value(json!({"name": "c"})).unwrap();
        let words = || termination_message(&container, &file, &log, 1);
        assert_eq!(words(), None);
        // A terabyte of nothing, which no memory holds, and a word.
        let text = File::create(&file).unwrap();
        text.set_len(1 << 40).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&text, b"last", (1 << 40) - 4).unwrap();
        let told = words().unwrap();
        assert!(told.len() == MAX_MESSAGE && told.ends_with("\0last"), "{} bytes", told.len());
    }

    #[test]
    fn the_end_of_the_log_is_whole_lines_up_to_a_number_of_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("0.log"), Limits::default()).unwrap();
        let policy = json!({"name": "c", "terminationMessagePolicy": "FallbackToLogsOnError"});
        let container: Container = serde_json::from_value(policy).unwrap();
        let words = |code| termination_message(&container, &folder.path().join("none"), &log, code);
        let line = |text: &str| format!("2026-01-02T03:04:05.000000001Z stdout F {text}\n");
        let many: String = (0..10_000).map(|number| line(&number.to_string())).collect();
        std::fs::write(log.path(), &many).unwrap();
        let told = words(1).unwrap();
        assert_eq!((told.lines().count(), told.lines().next(), told.lines().last()), (80, Some("9920"), Some("9999")));
        assert_eq!(words(0), None);
        std::fs::write(log.path(), many + &line(&"x".repeat(16_000))).unwrap();
        assert_eq!(words(1).unwrap(), "x".repeat(LOG_BYTES));
    }
}
