//! `hone`: arguments, run, exit code.
use std::process::ExitCode;

/// Counted, so that a trainer can hold its memory budget; two atomic additions per allocation.
#[global_allocator]
static HEAP: hone_agent::shell::trainer::system::CountedHeap = hone_agent::shell::trainer::system::CountedHeap;

#[expect(clippy::disallowed_methods, reason = "the door: arguments come in here and nowhere else")]
fn main() -> ExitCode {
    hone_agent::cli::exit::quiet_on_closed_pipe();
    ExitCode::from(hone_agent::cli::run(std::env::args_os()) as u8)
}
