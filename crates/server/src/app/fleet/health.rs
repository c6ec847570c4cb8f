//! How a worker is, from when it answered last and what it said. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Silent for so long, a worker is suspect: its seats are shown as unreachable and it gets no new ones.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(10);
/// Silent for so long, it is lost.
pub const LOST_AFTER: Duration = Duration::from_secs(60);

/// How a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// It has not answered since this server knows it.
    Starting,
    /// It answers.
    Alive,
    /// It has not answered for a while.
    Suspect,
    /// It has not answered for long.
    Lost,
    /// It answers, and refuses the token.
    Unauthorized,
    /// It answers what can't be understood, or is of another version.
    Incompatible,
}

impl Health {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Starting, Self::Alive, Self::Suspect, Self::Lost, Self::Unauthorized, Self::Incompatible];

    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Lost => "lost",
            Self::Unauthorized => "unauthorized",
            Self::Incompatible => "incompatible",
        }
    }
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// What was asked for.
    Good,
    /// What was asked for, by an agent of another version.
    OtherVersion,
    /// The token was refused.
    TokenRefused,
    /// Something that can't be understood.
    NotUnderstood,
}

/// When a worker answered last, and what.
#[derive(Debug, Clone, Copy)]
pub struct Pulse {
    since: Instant,
    last: Option<(Instant, Answer)>,
}

impl Pulse {
    /// Of a worker that is known since `now`.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { since: now, last: None }
    }

    /// Notes an answer.
    pub fn heard(&mut self, answer: Answer, now: Instant) {
        // A seat call that went well says nothing of the version.
        let answer = match (self.last, answer) {
            (Some((_, Answer::OtherVersion)), Answer::Good) => Answer::OtherVersion,
            (_, answer) => answer,
        };
        self.last = Some((now, answer));
    }

    /// Notes that what it said of itself is as it should be.
    pub fn introduced(&mut self, answer: Answer, now: Instant) {
        self.last = Some((now, answer));
    }

    /// How it is at `now`.
    #[must_use]
    pub fn health(&self, now: Instant) -> Health {
        let silent = now.saturating_duration_since(self.last.map_or(self.since, |(at, _)| at));
        if silent >= LOST_AFTER {
            return Health::Lost;
        }
        if silent >= SUSPECT_AFTER {
            return Health::Suspect;
        }
        match self.last {
            None => Health::Starting,
            Some((_, Answer::Good)) => Health::Alive,
            Some((_, Answer::TokenRefused)) => Health::Unauthorized,
            Some((_, Answer::OtherVersion | Answer::NotUnderstood)) => Health::Incompatible,
        }
    }

    /// Whether its seats can be asked after at `now`, and be called.
    #[must_use]
    pub fn answers(&self, now: Instant) -> bool {
        let well = matches!(self.last, Some((_, Answer::Good | Answer::OtherVersion)));
        well && matches!(self.health(now), Health::Alive | Health::Incompatible)
    }
}

/// Whether an agent of version `theirs` speaks with a server of version `ours`: the same major, and before 1.0 the same
/// minor too.
#[must_use]
pub fn speaks_with(ours: &str, theirs: &str) -> bool {
    let significant = |version: &str| {
        let mut parts = version.split(['.', '-', '+']).map(str::to_owned);
        let (major, minor) = (parts.next()?, parts.next()?);
        Some(if major == "0" { (major, minor) } else { (major, String::new()) })
    };
    matches!((significant(ours), significant(theirs)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_makes_suspect_then_lost_and_an_answer_mends_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Pulse::new(start);
        assert_eq!(pulse.health(at(0)), Health::Starting);
        assert_eq!(pulse.health(at(9)), Health::Starting);
        assert_eq!(pulse.health(at(10)), Health::Suspect);
        assert_eq!(pulse.health(at(60)), Health::Lost);
        pulse.heard(Answer::Good, at(100));
        assert_eq!(pulse.health(at(109)), Health::Alive);
        assert!(pulse.answers(at(109)) && !pulse.answers(at(110)));
        assert_eq!(pulse.health(at(110)), Health::Suspect);
        assert_eq!(pulse.health(at(160)), Health::Lost);
        // A clock that looks back does no harm.
        assert_eq!(pulse.health(at(50)), Health::Alive);
    }

    #[test]
    fn a_refusal_is_shown_until_it_is_silent_or_lets_us_in() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Pulse::new(start);
        pulse.heard(Answer::TokenRefused, at(1));
        assert_eq!(pulse.health(at(2)), Health::Unauthorized);
        assert!(!pulse.answers(at(2)));
        assert_eq!(pulse.health(at(11)), Health::Suspect);
        pulse.heard(Answer::Good, at(12));
        assert_eq!(pulse.health(at(13)), Health::Alive);
        pulse.heard(Answer::NotUnderstood, at(14));
        assert_eq!(pulse.health(at(14)), Health::Incompatible);
        assert!(!pulse.answers(at(14)));
    }

    #[test]
    fn another_version_is_shown_until_it_introduces_itself_anew() {
        let now = Instant::now();
        let mut pulse = Pulse::new(now);
        pulse.introduced(Answer::OtherVersion, now);
        pulse.heard(Answer::Good, now);
        assert_eq!(pulse.health(now), Health::Incompatible);
        assert!(pulse.answers(now), "the seats that it has are looked after");
        pulse.introduced(Answer::Good, now);
        assert_eq!(pulse.health(now), Health::Alive);
    }

    #[test]
    fn versions_speak_with_each_other_as_semver_says() {
        for (ours, theirs, well) in [
            ("0.1.0", "0.1.9", true),
            ("0.1.0", "0.2.0", false),
            ("1.2.0", "1.9.3-rc.1", true),
            ("1.0.0", "2.0.0", false),
            ("0.1.0", "1.1.0", false),
            ("0.1.0", "nonsense", false),
            ("0.1.0", "", false),
        ] {
            assert_eq!(speaks_with(ours, theirs), well, "{ours} {theirs}");
        }
    }
}
