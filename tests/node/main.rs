//! Pods as real processes in real namespaces.
//!
//! The program is its own harness: it is what the agent re-executes as a container's init, and it must enter a user
//! and a network namespace before any thread starts, so that no packet can leave the machine.

mod pods;
mod sandbox;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use vipyard::node::init::container_init;
use vipyard::sys::netns::NetNs;

/// The scenarios with their names.
macro_rules! scenarios {
    ($($module:ident :: $name:ident),+ $(,)?) => {
        const SCENARIOS: &[(&str, fn())] = &[$((stringify!($name), || block_on($module::$name()))),+];
    };
}

scenarios! {
    sandbox::device_has_addresses_and_routes,
    pods::nodes_are_registered_ready,
    pods::pod_runs_and_answers_over_its_address,
    pods::container_has_names_files_and_environment,
    pods::missing_program_is_a_start_error_and_crash_loops,
    pods::failing_container_restarts_with_back_off,
    pods::unknown_image_says_what_to_do,
    pods::graceful_delete_terminates_then_removes_the_object,
    pods::containers_are_asked_to_end_when_new_connections_go_elsewhere,
    pods::deaf_container_is_killed_after_the_grace_period,
    pods::vanished_object_kills_at_once_and_frees_the_address,
    pods::readiness_probe_decides_and_third_party_conditions_stay,
    pods::exec_and_liveness_probes_run_in_the_container,
    pods::init_containers_run_in_order_before_the_others,
    pods::host_network_pod_has_the_nodes_addresses,
    pods::pod_of_an_earlier_run_starts_anew_and_finished_ones_stay,
    pods::killed_vipyard_leaves_no_process,
}

/// Each scenario has a runtime of its own, as a vipyard has.
fn block_on(scenario: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime for the scenario")
        .block_on(scenario);
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == vipyard::node::init::SUBCOMMAND => return container_init(rest),
        Some((first, [name, rest @ ..])) if first == vipyard::images::SUBCOMMAND => {
            return vipyard::images::main(name, rest);
        }
        _ => {}
    }
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
    if arguments.first().is_some_and(|a| a == "hold") {
        block_on(pods::hold());
    }
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
