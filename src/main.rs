//! The `vipyard` command. Decides nothing: see `vipyard::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vipyard::cli::main()
}
