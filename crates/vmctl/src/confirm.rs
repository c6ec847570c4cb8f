//! Asking before something is destroyed.

use std::io::{IsTerminal, Write};

use crate::context::Context;
use crate::failure::Failure;

/// Asks for `name` to be typed; `--yes` answers, and without a terminal there is nobody to ask.
pub(crate) async fn confirm(context: &Context, what: &str, name: &str) -> Result<(), Failure> {
    if context.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::NotConfirmed(format!(
            "nothing was done, because there is no terminal to ask on; {what}. Give --yes if that is meant"
        )));
    }
    let _ = write!(std::io::stderr(), "{what}.\nType {name} to go on: ");
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    })
    .await;
    match answer {
        Ok(Ok(line)) if line.trim() == name => Ok(()),
        _ => Err(Failure::NotConfirmed("not confirmed; nothing was done".to_owned())),
    }
}
