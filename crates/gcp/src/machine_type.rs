//! Machine types that microVMs can run on.

use std::fmt;
use std::str::FromStr;

/// The families with nested virtualisation that workers are made of.
const FIT: &[&str] = &["n1", "n2", "c2"];

/// A machine type of a family that can do nested virtualisation: N1, N2 or C2.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineType(String);

/// Why microVMs can't run on a machine type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnfitMachineType {
    /// No machine type at all.
    #[error("{0:?} is no machine type; they look like n2-standard-8")]
    Malformed(String),
    /// Of a family without nested virtualisation.
    #[error(
        "{machine_type}: {family} machines have no nested virtualisation, so there is no /dev/kvm and no microVM; take an N1, N2 or \
         C2 machine, like n2-standard-8"
    )]
    NoNestedVirtualization {
        /// As given.
        machine_type: String,
        /// In capitals.
        family: String,
    },
    /// Of a family that was never tried.
    #[error(
        "{machine_type}: workers run on N1, N2 and C2 machines; {family} is none of them. Take one like n2-standard-8"
    )]
    OtherFamily {
        /// As given.
        machine_type: String,
        /// In capitals.
        family: String,
    },
    /// Has one, but shares its processor.
    #[error("{0}: shared-core machines have no nested virtualisation; take one like n2-standard-8")]
    SharedCore(String),
}

impl MachineType {
    /// As the API spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for MachineType {
    fn default() -> Self {
        Self("n2-standard-8".to_owned())
    }
}

impl fmt::Display for MachineType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for MachineType {
    type Err = UnfitMachineType;

    fn from_str(text: &str) -> Result<Self, UnfitMachineType> {
        let (family, rest) = text.split_once('-').unwrap_or((text, ""));
        let in_alphabet =
            text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let family_first = family.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if !in_alphabet || !family_first || rest.is_empty() || text.ends_with('-') || text.len() > 63 {
            return Err(UnfitMachineType::Malformed(text.to_owned()));
        }
        if matches!(text, "f1-micro" | "g1-small") {
            return Err(UnfitMachineType::SharedCore(text.to_owned()));
        }
        if FIT.contains(&family) {
            return Ok(Self(text.to_owned()));
        }
        let (machine_type, shown) = (text.to_owned(), family.to_uppercase());
        // Source: Compute Engine, "Nested virtualization overview", restrictions.
        if matches!(family, "e2" | "n2d" | "t2d" | "t2a" | "c2d" | "c3d" | "n4a" | "c4a" | "m1" | "m2" | "m3")
        {
            return Err(UnfitMachineType::NoNestedVirtualization { machine_type, family: shown });
        }
        Err(UnfitMachineType::OtherFamily { machine_type, family: shown })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_families_with_nested_virtualization_are_taken() {
        for fit in ["n1-standard-4", "n2-standard-8", "c2-standard-60", "n2-custom-8-16384", "n1-highmem-2"] {
            assert_eq!(fit.parse::<MachineType>().unwrap().as_str(), fit);
        }
        for unfit in ["e2-standard-8", "n2d-standard-8", "t2a-standard-4"] {
            let error = unfit.parse::<MachineType>().unwrap_err();
            assert!(matches!(error, UnfitMachineType::NoNestedVirtualization { .. }), "{error}");
            assert!(error.to_string().contains("nested virtualisation"), "{error}");
        }
        assert!(matches!("c3-standard-8".parse::<MachineType>(), Err(UnfitMachineType::OtherFamily { .. })));
        assert!(matches!("f1-micro".parse::<MachineType>(), Err(UnfitMachineType::SharedCore(_))));
        for malformed in
            ["", "n2", "n2-", "N2-standard-8", "n2 standard", "-standard-8", "n2-standard-8/../x"]
        {
            assert!(
                matches!(malformed.parse::<MachineType>(), Err(UnfitMachineType::Malformed(_))),
                "{malformed}"
            );
        }
    }
}
