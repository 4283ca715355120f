//! Pods as real processes in real namespaces.
//!
//! The program is its own harness: it is what the agent re-executes as a container's init, and it must enter a user
//! and a network namespace before any thread starts, so that no packet can leave the machine.

mod sandbox;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use vipyard::sys::netns::NetNs;

const SCENARIOS: &[(&str, fn())] = &[("device_has_addresses_and_routes", sandbox::device_has_addresses_and_routes)];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--list") {
        SCENARIOS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root()
        && let Err(e) = vipyard::sys::userns::enter()
    {
        println!("ignored: {e}");
        return ExitCode::SUCCESS;
    }
    let outside = NetNs::create().expect("a network namespace for the tests");
    outside.run(|| run(&arguments)).expect("the tests' namespace is entered")
}

fn run(arguments: &[String]) -> ExitCode {
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let mut failed = 0;
    for (name, scenario) in SCENARIOS {
        if !filters.is_empty() && !filters.iter().any(|f| name.contains(f.as_str())) {
            continue;
        }
        let begin = Instant::now();
        let ok = catch_unwind(AssertUnwindSafe(scenario)).is_ok();
        println!("test {name} ... {} ({:?})", if ok { "ok" } else { "FAILED" }, begin.elapsed());
        failed += usize::from(!ok);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
