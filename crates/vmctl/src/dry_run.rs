//! What would be done, without doing it.

use clarateach_gcp::Call;
use serde_json::json;

use crate::cli::Format;
use crate::context::Context;
use crate::output;

/// REST calls and the equivalent `gcloud` commands, in order.
#[derive(Debug, Default)]
pub(crate) struct DryRun {
    calls: Vec<Call>,
    commands: Vec<(Option<&'static str>, String)>,
}

impl DryRun {
    pub(crate) fn call(mut self, call: Call) -> Self {
        self.calls.push(call);
        self
    }

    pub(crate) fn command(mut self, command: impl ToString) -> Self {
        self.commands.push((None, command.to_string()));
        self
    }

    /// A command under a comment that says what it is for.
    pub(crate) fn step(mut self, comment: &'static str, command: impl ToString) -> Self {
        self.commands.push((Some(comment), command.to_string()));
        self
    }

    pub(crate) fn print(&self, context: &Context) {
        let endpoint = context.endpoint.as_str();
        if context.format == Format::Json {
            let calls: Vec<_> = self.calls.iter().map(|call| call.show(endpoint)).collect();
            let commands: Vec<_> = self.commands.iter().map(|(_, command)| command).collect();
            output::print_json(&json!({"rest": calls, "gcloud": commands}));
            return;
        }
        if !self.calls.is_empty() {
            output::print("# REST");
            for call in &self.calls {
                output::print(&call.show(endpoint));
            }
            output::print("");
        }
        output::print("# gcloud");
        for (index, (comment, command)) in self.commands.iter().enumerate() {
            if let Some(comment) = comment {
                if index > 0 {
                    output::print("");
                }
                output::print(&format!("# {comment}"));
            }
            output::print(command);
        }
    }
}
