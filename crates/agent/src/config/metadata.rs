//! Whether this host is an instance of Compute Engine.

use std::path::Path;

use super::Token;
use super::parse::{ConfigError, Settings};

/// Source: Compute Engine, "View and query VM metadata".
pub(super) const METADATA_HOST: &str = "metadata.google.internal";
/// Source: Compute Engine, "Detect if a VM is running in Compute Engine".
const PRODUCT: &str = "/sys/class/dmi/id/product_name";

#[derive(Debug, Clone, Copy)]
enum Ask {
    Auto,
    On,
    Off,
}

/// `METADATA` and `GCE_METADATA_HOST`: whom to ask whether this instance is being preempted; nobody elsewhere.
pub(super) fn from_settings(settings: &Settings<'_>, token: &Token) -> Result<Option<String>, ConfigError> {
    let host = settings.get("GCE_METADATA_HOST").unwrap_or_else(|| METADATA_HOST.to_owned());
    let ask = settings.choice("METADATA", &[("auto", Ask::Auto), ("on", Ask::On), ("off", Ask::Off)])?;
    let is_instance = match ask {
        Ask::On => true,
        Ask::Off => false,
        Ask::Auto => matches!(token, Token::Metadata(_)) || is_compute_engine(Path::new(PRODUCT)),
    };
    Ok(is_instance.then_some(host))
}

fn is_compute_engine(product: &Path) -> bool {
    std::fs::read_to_string(product).is_ok_and(|name| name.trim() == "Google Compute Engine")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_says_so_in_its_firmware() {
        let dir = tempfile::tempdir().unwrap();
        let product = dir.path().join("product_name");
        assert!(!is_compute_engine(&product));
        std::fs::write(&product, "Standard PC (Q35 + ICH9, 2009)\n").unwrap();
        assert!(!is_compute_engine(&product));
        std::fs::write(&product, "Google Compute Engine\n").unwrap();
        assert!(is_compute_engine(&product));
    }
}
