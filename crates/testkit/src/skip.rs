//! Saying which tests could not be run, and why.

use std::fs::OpenOptions;
use std::io::Write;

/// Notes that test `name` is not run because of `reason`: appended as `name: reason` to the file that
/// `CLARATEACH_SKIP_FILE` names, from which the test script makes its summary (and, in CI, a failure).
///
/// # Panics
/// When the file can't be written: a skipped test must not pass unnoticed.
pub fn skip(name: &str, reason: &str) {
    let line = format!("{name}: {}\n", reason.replace('\n', " "));
    eprint_line(&line);
    if let Some(path) = std::env::var_os("CLARATEACH_SKIP_FILE").filter(|path| !path.is_empty()) {
        let mut file =
            OpenOptions::new().create(true).append(true).open(path).expect("the file of skipped tests opens");
        // One write: several tests may skip at the same time.
        file.write_all(line.as_bytes()).expect("the file of skipped tests can be written");
    }
}

#[allow(clippy::print_stderr)]
fn eprint_line(line: &str) {
    eprint!("skipped {line}");
}
