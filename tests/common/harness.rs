//! A harness for tests that must enter namespaces before any thread starts. Each scenario has a network namespace and a
//! runtime of its own, so scenarios run side by side, and no packet can leave the machine.
//!
//! It takes the arguments that cargo and cargo-nextest give a test program: `--list`, `--exact`, `--test-threads N`, and
//! parts of names.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use vipyard::sys::netns::NetNs;

/// Scenarios are long functions: without optimisation their futures are large.
const STACK: usize = 32 << 20;

pub struct Scenario {
    pub name: &'static str,
    pub run: fn(),
    /// What the scenario cannot do without; `Err` says why it is missing.
    pub needs: fn() -> Result<(), String>,
}

/// `SCENARIOS`, of functions by their paths; behind a colon the function of `needs` that says what one cannot do without.
macro_rules! scenarios {
    ($($module:ident $(:: $name:ident)+ $(: $need:ident)?),+ $(,)?) => {
        const SCENARIOS: &[$crate::harness::Scenario] = &[$($crate::harness::Scenario {
            name: concat!(stringify!($module) $(, "::", stringify!($name))+),
            run: || $crate::harness::block_on($module$(::$name)+()),
            needs: scenarios!(@need $($need)?),
        }),+];
    };
    (@need) => { || Ok(()) };
    (@need $need:ident) => { needs::$need };
}
pub(crate) use scenarios;

/// A runtime for one scenario; its threads are in the network namespace of this one.
pub fn block_on(scenario: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime for the scenario")
        .block_on(scenario);
}

/// Runs the scenarios that the arguments choose, after `enter` has made the namespaces around them all; where those are
/// not to be had, `enter` says why and all are ignored.
pub fn main(scenarios: &[Scenario], arguments: &[String], enter: fn() -> Result<(), String>) -> ExitCode {
    if arguments.iter().any(|a| a == "--list") {
        scenarios.iter().for_each(|scenario| println!("{}: test", scenario.name));
        return ExitCode::SUCCESS;
    }
    let exact = arguments.iter().any(|a| a == "--exact");
    let threads = arguments.iter().position(|a| a == "--test-threads").and_then(|at| arguments.get(at + 1));
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-') && Some(*a) != threads).collect();
    let chosen = |name: &str| {
        let fits = |filter: &&&String| if exact { name == **filter } else { name.contains(filter.as_str()) };
        filters.is_empty() || filters.iter().any(|filter| fits(&filter))
    };
    let chosen: Vec<&Scenario> = scenarios.iter().filter(|scenario| chosen(scenario.name)).collect();
    println!("\nrunning {} tests", chosen.len());
    if let Err(reason) = enter() {
        chosen.iter().for_each(|scenario| println!("test {} ... ignored, {reason}", scenario.name));
        println!("\ntest result: ok. 0 passed; 0 failed; {} ignored: {reason}\n", chosen.len());
        return ExitCode::SUCCESS;
    }
    // Twice as many as there are processors: scenarios mostly wait.
    let default = std::thread::available_parallelism().map_or(2, usize::from) * 2;
    let threads = threads.and_then(|text| text.parse().ok()).unwrap_or(default).max(1);
    run(&chosen, threads)
}

/// A network namespace around those of the scenarios, in a user namespace where this is not root. Called before any
/// thread starts.
pub fn enter_namespaces() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        vipyard::sys::userns::enter().map_err(|e| e.to_string())?;
    }
    NetNs::create().map(drop).map_err(|e| format!("network namespaces are forbidden here: {e}"))
}

#[derive(Default)]
struct Tally {
    passed: usize,
    ignored: usize,
    failed: Vec<&'static str>,
}

fn run(scenarios: &[&Scenario], threads: usize) -> ExitCode {
    let begin = Instant::now();
    let queue: Mutex<VecDeque<&Scenario>> = Mutex::new(scenarios.iter().copied().collect());
    let next = || queue.lock().expect("no scenario holds the queue").pop_front();
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(scenario) = next() {
                    let begin = Instant::now();
                    let outcome = (scenario.needs)().map(|()| run_apart(scenario));
                    let mut tally = tally.lock().expect("no scenario holds the tally");
                    match outcome {
                        Ok(true) => {
                            tally.passed += 1;
                            println!("test {} ... ok ({:.1?})", scenario.name, begin.elapsed());
                        }
                        Ok(false) => {
                            tally.failed.push(scenario.name);
                            println!("test {} ... FAILED ({:.1?})", scenario.name, begin.elapsed());
                        }
                        Err(reason) => {
                            tally.ignored += 1;
                            println!("test {} ... ignored, {reason}", scenario.name);
                        }
                    }
                }
            });
        }
    });
    let Tally { passed, ignored, failed } = tally.into_inner().expect("all threads have ended");
    failed.iter().for_each(|name| println!("failed: {name}"));
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    let took = begin.elapsed();
    println!("\ntest result: {result}. {passed} passed; {} failed; {ignored} ignored; {took:.1?}\n", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a scenario in a network namespace of its own; `false` when it panicked.
fn run_apart(scenario: &Scenario) -> bool {
    let apart = NetNs::create().expect("a network namespace for the scenario");
    let run = || catch_unwind(AssertUnwindSafe(scenario.run)).is_ok();
    let in_thread = || {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, run);
            thread.expect("a thread for the scenario").join().expect("panics are caught")
        })
    };
    apart.run(in_thread).expect("the scenario's namespace is entered")
}
