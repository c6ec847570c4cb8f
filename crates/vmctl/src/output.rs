//! What is printed: results on standard output, everything else on standard error.

use std::io::Write;

use clarateach_gcp::Instance;
use comfy_table::{Table, presets};
use serde::Serialize;

/// A line of result. A reader that has gone away is no failure.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
}

/// A piece of result without an end of line.
pub fn print_raw(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Something that people should know.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// What went wrong.
pub fn complain(text: &str) {
    note(&format!("vmctl: {text}"));
}

/// A result for programs.
pub fn print_json(value: &impl Serialize) {
    print(&serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}")));
}

/// The agent's token is nobody's business here.
#[must_use]
pub fn without_secrets(mut instance: Instance) -> Instance {
    let items = instance.metadata.iter_mut().flat_map(|metadata| metadata.items.iter_mut().flatten());
    for item in items {
        if item.key.as_deref() == Some(clarateach_gcp::AGENT_TOKEN_ATTRIBUTE) {
            item.value = Some("(hidden)".to_owned());
        }
    }
    instance
}

/// Rows under headings.
#[must_use]
pub fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headings);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Headings of [`instance_row`].
pub const INSTANCE_HEADINGS: &[&str] =
    &["NAME", "ZONE", "MACHINE_TYPE", "MODEL", "STATUS", "NESTED", "INTERNAL_IP", "EXTERNAL_IP"];

/// An instance on one line.
#[must_use]
pub fn instance_row(instance: &Instance) -> Vec<String> {
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    vec![
        instance.name().to_owned(),
        instance.zone_name().to_owned(),
        instance.machine_type_name().to_owned(),
        if instance.is_spot() { "SPOT" } else { "STANDARD" }.to_owned(),
        instance.status().to_string(),
        if instance.nested_virtualization() { "yes" } else { "no" }.to_owned(),
        or_dash(instance.internal_ip()),
        or_dash(instance.external_ip()),
    ]
}
