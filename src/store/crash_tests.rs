//! What is left after a process is killed, and while the disk is full: played by children of the test binary.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use super::tests::encode;
use super::*;

/// Where a child finds its directory, and the switch that makes it one.
const DIR: &str = "VIPYARD_STORE_TEST_DIR";
/// Sets how often the child is killed.
const ROUNDS: &str = "VIPYARD_CRASH_ROUNDS";
const FEW_ROUNDS: u64 = 10;
const WRITERS: u64 = 8;

fn config(dir: &Path) -> StoreConfig {
    StoreConfig::at(dir.join("store.db"))
}

/// The test binary once more, running one ignored test.
fn child(test: &str, dir: &Path) -> Command {
    // The shell hands the ignored signal down: a write beyond the limit is then an error, not the end.
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "--test-threads=1", &format!("store::crash_tests::{test}")])
        .env(DIR, dir);
    command
}

/// `None` when the test was not started by its parent, but with `--ignored`: there is nothing to do then.
fn child_dir() -> Option<PathBuf> {
    std::env::var_os(DIR).map(PathBuf::from)
}

/// Tells the parent at once, with one write to the pipe: a line is there as a whole or not at all.
fn tell(line: &str) {
    std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[test]
#[ignore = "the child of kill_under_load_loses_no_acknowledged_write"]
fn child_that_writes_until_it_is_killed() {
    let Some(dir) = child_dir() else { return };
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(async {
        let store = Store::open(&config(&dir)).await.unwrap();
        let writers = (0..WRITERS).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(writer ^ store.revision());
                loop {
                    let key = Key::new("pods", format!("w{writer}"), random.random_range(0..20).to_string());
                    let text = format!("{writer} {}", "x".repeat(random.random_range(0..3000)));
                    let (op, kind) = match store.get(&key) {
                        None => (Op::Create { encode: encode(text) }, "put"),
                        Some(entry) if random.random_bool(0.2) => {
                            (Op::Delete { expect: entry.revision, encode: encode(text) }, "delete")
                        }
                        Some(entry) => (Op::Update { expect: entry.revision, encode: encode(text) }, "put"),
                    };
                    let entry = store.commit(key, op).await.unwrap();
                    tell(&format!("ack {} {kind} {} {}", entry.revision, entry.key, entry.value.len()));
                }
            })
        });
        futures::future::join_all(writers.collect::<Vec<_>>()).await;
    });
}

/// `KIND KEY LENGTH` of each revision.
type Acknowledged = BTreeMap<u64, String>;

/// Kills the child when it has told of `count` writes, and notes all that it told until its end.
fn kill_after(mut child: Child, count: usize, acknowledged: &mut Acknowledged) {
    let before = acknowledged.len();
    let mut alive = true;
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        // The test harness writes lines, too.
        let told = line.split_once("ack ").and_then(|(_, told)| told.split_once(' '));
        if let Some((revision, rest)) = told {
            let first = acknowledged.insert(revision.parse().unwrap(), rest.to_owned());
            assert_eq!(first, None, "revision {revision} was given twice");
        }
        if alive && acknowledged.len() - before >= count {
            child.kill().unwrap();
            alive = false;
        }
    }
    assert!(!alive, "the child runs until it is killed");
    child.wait().unwrap();
}

#[tokio::test]
async fn kill_under_load_loses_no_acknowledged_write() {
    let dir = TempDir::new().unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut acknowledged = Acknowledged::new();
    let mut state: BTreeMap<Key, Arc<Entry>> = BTreeMap::new();
    let mut seen = 0;
    let rounds = std::env::var(ROUNDS).map_or(FEW_ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    for round in 0..rounds {
        let child = child("child_that_writes_until_it_is_killed", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        kill_after(child, random.random_range(1..400), &mut acknowledged);

        let store = Store::open(&config(dir.path())).await.unwrap();
        let newest = store.revision();
        assert!(newest >= *acknowledged.keys().next_back().unwrap(), "round {round}: the revision went back");
        // A watcher that connects again where it stopped: every revision once, acknowledged ones as they were told.
        let mut watch = store.watch(Scope::all("pods"), seen).unwrap();
        for revision in seen + 1..=newest {
            let event = watch.next().await.unwrap();
            assert_eq!(event.entry.revision, revision, "round {round}");
            let (kind, previous) = match event.kind {
                EventKind::Deleted => ("delete", state.remove(&event.entry.key)),
                _ => ("put", state.insert(event.entry.key.clone(), Arc::clone(&event.entry))),
            };
            assert_eq!(event.previous, previous, "round {round}");
            assert!(event.entry.value.starts_with(format!("{revision} ").as_bytes()));
            if let Some(told) = acknowledged.get(&revision) {
                assert_eq!(*told, format!("{kind} {} {}", event.entry.key, event.entry.value.len()), "round {round}");
            }
        }
        assert!(acknowledged.range(seen + 1..).count() > 0);
        seen = newest;
        assert_eq!(state.values().cloned().collect::<Vec<_>>(), store.list(&Scope::all("pods")).items);
        store.close().await;
    }
}

fn limit_file_size(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).unwrap();
}

#[test]
#[ignore = "the child of full_disk_costs_the_writes_made_meanwhile_and_nothing_else"]
fn child_whose_disk_is_full_for_a_while() {
    let Some(dir) = child_dir() else { return };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let store = Store::open(&config(&dir)).await.unwrap();
        let write = |name: &str| {
            let op = Op::Create { encode: encode("x".repeat(2000)) };
            store.commit(Key::new("pods", "a", name), op)
        };
        let mut acknowledged = Vec::new();
        for i in 0..20 {
            acknowledged.push(write(&format!("before-{i}")).await.unwrap());
        }
        let mut watch = store.watch(Scope::all("pods"), 20).unwrap();

        limit_file_size(Some(4096));
        for i in 0..10 {
            let error = write(&format!("meanwhile-{i}")).await.unwrap_err();
            assert!(matches!(error, CommitError::Unavailable(Unavailable::Database(_))), "{error}");
            assert!(error.to_string().contains("check the disk's free space"), "{error}");
        }
        let kept = store.list(&Scope::all("pods"));
        assert_eq!((kept.revision, kept.items.len()), (20, 20), "reads go on, and see nothing that is not durable");
        assert_eq!(watch.try_next().unwrap(), None);

        limit_file_size(None);
        for i in 0..20 {
            acknowledged.push(write(&format!("after-{i}")).await.unwrap());
        }
        assert!(acknowledged.is_sorted_by(|a, b| a.revision < b.revision));
        for entry in &acknowledged[20..] {
            // A failed write that the disk took nevertheless would come first, as a write of its own.
            while watch.next().await.unwrap().entry.revision < entry.revision {}
        }
        let items = store.list(&Scope::all("pods")).items;
        assert!(acknowledged.iter().all(|entry| items.contains(entry)));
        let revision = store.revision();
        store.close().await;

        let store = Store::open(&config(&dir)).await.unwrap();
        assert_eq!((store.revision(), store.list(&Scope::all("pods")).items), (revision, items));
        store.close().await;
        fs::write(dir.join("done"), "").unwrap();
    });
}

#[test]
fn full_disk_costs_the_writes_made_meanwhile_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let output = child("child_whose_disk_is_full_for_a_while", dir.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && dir.path().join("done").exists(), "{told}");
}
