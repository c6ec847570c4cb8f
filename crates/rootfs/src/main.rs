//! `rootfs-builder`: container image in, ext4 root filesystem out.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;
use clarateach_rootfs::cli::{Arguments, run};
use clarateach_rootfs::{exit_code, interrupt};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let interrupted = match interrupt::install() {
        Ok(flag) => flag,
        Err(error) => return fail(&format!("catching signals: {error}"), exit_code::OTHER),
    };
    match run(&arguments, &interrupted) {
        Ok(text) => match writeln!(std::io::stdout(), "{text}") {
            // A reader that has gone away wants no result.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                fail(&format!("built, but printing the result: {error}"), exit_code::OTHER)
            }
            _ => ExitCode::SUCCESS,
        },
        Err(error) => fail(&error.one_line(), error.exit_code()),
    }
}

fn fail(reason: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "rootfs-builder: {reason}");
    ExitCode::from(code)
}
