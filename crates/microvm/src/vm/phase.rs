//! How far a VM is: pure.

use clarateach_runtime::EnvironmentState;
use clarateach_runtime::probe::Health;
use serde::{Deserialize, Serialize};

/// How far a VM is, as written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Being made for the first time. Nothing of a learner's is in it: cut off here, it is undone.
    Making,
    /// The guest runs, and may not know yet who it is. From here on its disk is kept.
    Booting,
    /// The guest knows who it is and its network is open.
    Live,
    /// It ran and has ended, and is being started again on its own disk.
    Restarting,
    /// It ran and has ended. Its disk and its address are kept.
    Stopped,
    /// It could not be made. Only the record is left.
    Failed,
    /// Being removed.
    Removing,
}

/// What a new process does with a VM that it finds written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adoption {
    /// Watch it, and go on where the last process was.
    TakeOver,
    /// Start it again on its own disk.
    StartAgain,
    /// Its VMM has ended while nobody looked: say so, keep the disk.
    Stop,
    /// Keep the record as it is.
    Keep,
    /// Undo what was made, and forget it.
    Undo,
}

impl Phase {
    /// Whether a VMM may run in this phase.
    pub(crate) const fn has_process(self) -> bool {
        !matches!(self, Self::Stopped | Self::Failed)
    }

    /// Whether its address belongs to it in this phase.
    pub(crate) const fn holds_address(self) -> bool {
        !matches!(self, Self::Failed)
    }

    /// What becomes of it under a new process.
    pub(crate) const fn adopt(self, wanted: bool, alive: bool, same_boot: bool) -> Adoption {
        match self {
            _ if !wanted => Adoption::Undo,
            Self::Making | Self::Removing => Adoption::Undo,
            Self::Failed => Adoption::Keep,
            Self::Booting | Self::Live if alive => Adoption::TakeOver,
            // Its disk is the learner's: what was asked for is finished.
            Self::Restarting => Adoption::StartAgain,
            // The host went down and took it along; nobody has stopped it.
            Self::Booting | Self::Live if !same_boot => Adoption::StartAgain,
            Self::Booting | Self::Live => Adoption::Stop,
            Self::Stopped => Adoption::Keep,
        }
    }
}

/// What is shown of a VM in `phase` whose probe says `health`.
pub(crate) const fn shown(phase: Phase, health: Option<&Health>) -> EnvironmentState {
    match (phase, health) {
        (Phase::Removing, _) => EnvironmentState::Removing,
        (Phase::Failed, _) => EnvironmentState::Failed,
        (Phase::Stopped, _) => EnvironmentState::Stopped,
        (Phase::Live, Some(Health::Well)) => EnvironmentState::Ready,
        (Phase::Live | Phase::Booting, Some(Health::Silent(_))) => EnvironmentState::Unresponsive,
        _ => EnvironmentState::Starting,
    }
}

#[cfg(test)]
mod tests {
    use clarateach_runtime::Reason;
    use proptest::prelude::*;

    use super::*;

    fn phases() -> impl Strategy<Value = Phase> {
        use Phase::*;
        prop::sample::select(vec![Making, Booting, Live, Restarting, Stopped, Failed, Removing])
    }

    proptest! {
        #[test]
        fn what_nobody_wants_goes(phase in phases(), alive: bool, same_boot: bool) {
            prop_assert_eq!(phase.adopt(false, alive, same_boot), Adoption::Undo);
        }

        #[test]
        fn a_disk_that_a_learner_has_worked_on_is_never_undone(phase in phases(), alive: bool, same_boot: bool) {
            let kept = matches!(phase, Phase::Booting | Phase::Live | Phase::Restarting | Phase::Stopped);
            if kept {
                prop_assert_ne!(phase.adopt(true, alive, same_boot), Adoption::Undo);
            }
        }

        #[test]
        fn a_running_guest_is_not_disturbed(phase in phases(), same_boot: bool) {
            if matches!(phase, Phase::Booting | Phase::Live) {
                prop_assert_eq!(phase.adopt(true, true, same_boot), Adoption::TakeOver);
            }
        }

        #[test]
        fn only_a_guest_that_answers_and_knows_who_it_is_is_ready(phase in phases(), well: bool) {
            let health = if well { Health::Well } else { Health::Silent(Reason::new("X", "x")) };
            let ready = shown(phase, Some(&health)) == EnvironmentState::Ready;
            prop_assert_eq!(ready, well && phase == Phase::Live);
            prop_assert_ne!(shown(phase, None), EnvironmentState::Ready);
        }
    }
}
