//! `vipyard/pause`: holds a Pod's place.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::sys::process::leave_children_to_the_kernel;

pub fn main() -> ExitCode {
    // It may be process 1 of a Pod, and then gets the orphans of all containers.
    leave_children_to_the_kernel();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("pause: {e}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            eprintln!("pause: signals can't be received");
            return ExitCode::FAILURE;
        };
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        ExitCode::SUCCESS
    })
}
