//! `hone`: arguments, run, exit code.
use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(hone_agent::cli::run(std::env::args_os()) as u8)
}
