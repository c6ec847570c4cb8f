//! `rootfs-builder`: container image in, ext4 root filesystem out.

use std::io::Write;
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
        // A reader that has gone away is no failure of the build.
        Ok(text) => {
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error.one_line(), error.exit_code()),
    }
}

fn fail(reason: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "rootfs-builder: {reason}");
    ExitCode::from(code)
}
