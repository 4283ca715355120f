//! Processes and what they hold of the kernel, so that a test can show that nothing stays behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A process, told apart from a later one of the same number by its start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: u32,
    start: u64,
    command: String,
}

fn stat(pid: u32) -> Option<(Process, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows it is regular.
    let (head, tail) = text.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let command = head.split_once('(')?.1.to_owned();
    Some((Process { pid, start: fields.get(19)?.parse().ok()?, command }, fields.get(1)?.parse().ok()?))
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The process and all its descendants.
pub fn below(root: u32) -> Vec<Process> {
    let all: Vec<(Process, u32)> = pids().into_iter().filter_map(stat).collect();
    let mut children: BTreeMap<u32, Vec<&Process>> = BTreeMap::new();
    for (process, parent) in &all {
        children.entry(*parent).or_default().push(process);
    }
    let mut found: Vec<Process> = all.iter().map(|(p, _)| p).filter(|p| p.pid == root).cloned().collect();
    let mut at = 0;
    while at < found.len() {
        found.extend(children.get(&found[at].pid).into_iter().flatten().map(|p| (*p).clone()));
        at += 1;
    }
    found
}

/// Those that still live.
pub fn alive(processes: &[Process]) -> Vec<Process> {
    processes.iter().filter(|process| stat(process.pid).is_some_and(|(now, _)| now == **process)).cloned().collect()
}

/// What a namespace is to the kernel: the inode of its handle.
pub type Namespace = (String, u64);

const KINDS: [&str; 6] = ["net", "mnt", "pid", "uts", "ipc", "user"];

/// Namespaces that are held, because the kernel gives the number of one that is gone to the next that is made, by
/// whatever scenario.
pub type Namespaces = BTreeMap<Namespace, File>;

fn name(path: &Path) -> Option<Namespace> {
    let target = fs::read_link(path).ok()?;
    let kind = target.to_str()?.split_once(":[")?.0.to_owned();
    KINDS.contains(&kind.as_str()).then(|| Some((kind, fs::metadata(path).ok()?.ino())))?
}

/// Every namespace that a process is in, by any of its threads, or holds a descriptor of, and where it is found.
fn namespaces_of(pid: u32) -> BTreeMap<Namespace, PathBuf> {
    let list = |path: String| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let threads = list(format!("/proc/{pid}/task")).flat_map(|thread| KINDS.map(|kind| thread.join("ns").join(kind)));
    threads.chain(list(format!("/proc/{pid}/fd"))).filter_map(|path| Some((name(&path)?, path))).collect()
}

/// The namespaces of these processes that this process is in none of.
pub fn namespaces(processes: &[Process]) -> Namespaces {
    let own = namespaces_of(std::process::id());
    let all = processes.iter().flat_map(|process| namespaces_of(process.pid));
    let others = all.filter(|(namespace, _)| !own.contains_key(namespace));
    // One that cannot be held is gone: its process was short-lived.
    others.filter_map(|(namespace, path)| Some((namespace, File::open(path).ok()?))).collect()
}

/// Which of these namespaces any other process still uses.
pub fn still_used(namespaces: &Namespaces) -> Vec<&Namespace> {
    let others = pids().into_iter().filter(|pid| *pid != std::process::id());
    let all: BTreeSet<Namespace> = others.flat_map(|pid| namespaces_of(pid).into_keys()).collect();
    namespaces.keys().filter(|namespace| all.contains(namespace)).collect()
}

/// The mount points that this process sees.
pub fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    text.lines().filter_map(|line| line.split_whitespace().nth(4).map(str::to_owned)).collect()
}

/// The network devices in the calling thread's namespace.
pub fn devices() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").expect("/proc is mounted");
    text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}
