//! What a body asks for → what a runtime is told. Everything is checked here, so that it is refused before it costs.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clarateach_api::agent::{DesiredVm, EgressView, NewVm, ReadinessView};
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{DesiredSeat, Egress, ImageRef};
use secrecy::SecretString;

use super::reply::Failure;
use crate::config::Readiness;
use crate::error::AgentError;

/// What a VM has unless told otherwise.
const VCPUS: u32 = 2;
const MEMORY_MB: u32 = 512;
const DISK_MB: u32 = 10_240;

const MAX_IMAGE: usize = 512;
const MAX_VARIABLES: usize = 256;

fn in_range(field: &str, value: u32, range: &RangeInclusive<u32>) -> Result<u32, Failure> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Failure::invalid(format!("{field}: takes a whole number from {} to {}", range.start(), range.end())))
}

/// An image's name, as far as it can be judged without looking for it.
pub(super) fn image(name: String) -> Result<ImageRef, Failure> {
    if (1..=MAX_IMAGE).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(ImageRef(name))
    } else {
        Err(Failure::invalid(format!("image: takes 1 to {MAX_IMAGE} printable ASCII characters, no spaces")))
    }
}

fn env(env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Failure> {
    if env.len() > MAX_VARIABLES {
        return Err(Failure::invalid(format!("env: takes at most {MAX_VARIABLES} variables")));
    }
    for (name, value) in &env {
        if name.is_empty() || name.contains(['=', '\0']) || name.starts_with("CLARATEACH_") {
            return Err(Failure::invalid(format!("env: {name:?} can't be the name of a variable")));
        }
        if value.contains('\0') {
            return Err(Failure::invalid(format!("env: the value of {name} holds a NUL")));
        }
    }
    Ok(env)
}

fn secret(text: String) -> Result<SecretString, Failure> {
    let is_printable = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    // It travels as a header's value, which ends with its last character that is no blank.
    if (16..=256).contains(&text.len()) && is_printable && text.trim() == text {
        Ok(text.into())
    } else {
        Err(Failure::invalid("secret: takes 16 to 256 printable ASCII characters, no blank first or last"))
    }
}

fn random_secret() -> Result<SecretString, Failure> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| AgentError::internal(std::io::Error::other(error.to_string())))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes).into())
}

fn egress(view: EgressView) -> Egress {
    match view {
        EgressView::Internet => Egress::Internet,
        EgressView::None => Egress::None,
    }
}

fn readiness(view: ReadinessView) -> Readiness {
    match view {
        ReadinessView::Health => Readiness::Health,
        ReadinessView::Ping => Readiness::Ping,
    }
}

/// The last generation: JSON numbers are exact only up to here.
const LAST_GENERATION: u64 = 1 << 53;

fn generation(given: Generation) -> Result<Generation, Failure> {
    generation_from(1, given)
}

/// Up to which generation nothing is wanted any more: of none is fine, too.
pub(super) fn unwanted(given: Generation) -> Result<Generation, Failure> {
    generation_from(0, given)
}

fn generation_from(first: u64, given: Generation) -> Result<Generation, Failure> {
    if (first..=LAST_GENERATION).contains(&given.0) {
        Ok(given)
    } else {
        Err(Failure::invalid(format!("generation: takes a whole number from {first} to {LAST_GENERATION}")))
    }
}

const CPUS_RANGE: RangeInclusive<u32> = 1..=32;
const MEMORY_RANGE: RangeInclusive<u32> = 64..=1_048_576;
const DISK_RANGE: RangeInclusive<u32> = 16..=16_777_216;

/// What `POST /vms` asks for.
pub(super) struct Asked {
    pub(super) seat: DesiredSeat,
    /// Which make, if it says.
    pub(super) generation: Option<Generation>,
    /// How it is found ready, if it says.
    pub(super) readiness: Option<Readiness>,
}

/// What `POST /vms` asks for; `default` is the image of those who name none.
pub(super) fn new_vm(wish: NewVm, default: ImageRef) -> Result<Asked, Failure> {
    let asked = wish.generation.map(generation).transpose()?;
    let seat = DesiredSeat {
        key: SeatKey { workshop: wish.workshop_id, seat: wish.seat_id },
        generation: asked.unwrap_or_default(),
        image: wish.image.map_or(Ok(default), image)?,
        vcpus: in_range("vcpus", wish.vcpus.unwrap_or(VCPUS), &CPUS_RANGE)?,
        memory_mb: in_range("memory_mb", wish.memory_mb.unwrap_or(MEMORY_MB), &MEMORY_RANGE)?,
        disk_mb: in_range("disk_mb", wish.disk_mb.unwrap_or(DISK_MB), &DISK_RANGE)?,
        env: env(wish.env)?,
        secret: wish.secret.map_or_else(random_secret, secret)?,
        egress: egress(wish.egress.unwrap_or_default()),
        not_after: wish.not_after,
    };
    Ok(Asked { seat, generation: asked, readiness: wish.readiness.map(readiness) })
}

/// What `PUT /vms/{workshop}/{seat}` asks for.
pub(super) fn desired(key: SeatKey, wish: DesiredVm) -> Result<DesiredSeat, Failure> {
    Ok(DesiredSeat {
        key,
        generation: generation(wish.generation)?,
        image: image(wish.image)?,
        vcpus: in_range("vcpus", wish.vcpus, &CPUS_RANGE)?,
        memory_mb: in_range("memory_mb", wish.memory_mb, &MEMORY_RANGE)?,
        disk_mb: in_range("disk_mb", wish.disk_mb, &DISK_RANGE)?,
        env: env(wish.env)?,
        secret: secret(wish.secret)?,
        egress: egress(wish.egress),
        not_after: wish.not_after,
    })
}
