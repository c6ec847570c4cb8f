//! What a test wants to go wrong.

use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    pub(crate) exit: bool,
    pub(crate) hang: bool,
    pub(crate) deaf: bool,
    pub(crate) die: Option<Duration>,
    pub(crate) print: bool,
    pub(crate) mute: bool,
    pub(crate) version: Option<String>,
}

impl Faults {
    pub(crate) fn parse<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut faults = Self::default();
        for fault in texts.flat_map(|text| text.split(',')).filter(|fault| !fault.is_empty()) {
            faults.add(fault)?;
        }
        Ok(faults)
    }

    /// Adds those that the boot arguments name.
    pub(crate) fn with_boot_arguments(mut self, arguments: &str) -> Result<Self, String> {
        for word in arguments.split_whitespace() {
            if let Some(faults) = word.strip_prefix("double.fault=") {
                faults.split(',').try_for_each(|fault| self.add(fault))?;
            }
        }
        Ok(self)
    }

    fn add(&mut self, fault: &str) -> Result<(), String> {
        let (name, value) = fault.split_once('=').unwrap_or((fault, ""));
        match name {
            "exit" => self.exit = true,
            "hang" => self.hang = true,
            "deaf" => self.deaf = true,
            "print" => self.print = true,
            "mute" => self.mute = true,
            "version" => self.version = Some(value.to_owned()),
            "die" => {
                let milliseconds =
                    value.parse().map_err(|_| format!("die={value}: no number of milliseconds"))?;
                self.die = Some(Duration::from_millis(milliseconds));
            }
            _ => return Err(format!("unknown fault {fault}")),
        }
        Ok(())
    }
}
