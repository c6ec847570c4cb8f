//! Answering the host: before there is a seat, while there is one, and when one could not be made.

use clarateach_seatproto::guest::{GuestConfig, GuestReply, GuestRequest, GuestState, MAX_LINE};

use super::{
    GuestError, RUNNING,
    channel::{Channel, Line},
    ending, freshness,
    root::Upper,
};

/// How far the guest is, as far as answers depend on it.
enum Stage<'a> {
    Parked,
    Running,
    Broken(&'a str),
}

/// Answers until a configuration comes; none for anything else. Whoever gets it owes the host an answer.
pub(super) fn until_configured(channel: &mut Channel) -> Option<GuestConfig> {
    next(channel, &Stage::Parked, None).map(|config| *config)
}

/// Answers for as long as the machine runs.
pub(super) fn serve(mut channel: Channel, upper: Option<&Upper>) -> ! {
    loop {
        if next(&mut channel, &Stage::Running, upper).is_some() {
            let message = "this guest has been configured already: it is told who it is once in its life";
            channel.answer(&GuestReply::Error { message: message.to_owned() });
        }
    }
}

/// Answers the configuration that failed, and everything after it, with why it failed.
pub(super) fn broken(channel: &mut Channel, problem: &dyn std::error::Error) -> ! {
    let message = problem.to_string();
    channel.answer(&GuestReply::Error { message: message.clone() });
    loop {
        if next(channel, &Stage::Broken(&message), None).is_some() {
            channel.answer(&GuestReply::Error { message: message.clone() });
        }
    }
}

fn next(channel: &mut Channel, stage: &Stage<'_>, upper: Option<&Upper>) -> Option<Box<GuestConfig>> {
    let request = match channel.next_line() {
        Line::Whole(line) => parse(&line),
        Line::TooLong => Err(format!("malformed request: a line has at most {MAX_LINE} bytes")),
    };
    let state = || match stage {
        Stage::Parked => GuestReply::Ok { state: GuestState::Parked },
        Stage::Running => RUNNING,
        Stage::Broken(why) => GuestReply::Error { message: (*why).to_owned() },
    };
    let reply = match request {
        Ok(GuestRequest::Configure(config)) => return Some(config),
        Ok(GuestRequest::Hello) => state(),
        Ok(GuestRequest::Clock { unix_ms }) => match freshness::set_clock(unix_ms) {
            Ok(()) => state(),
            Err(problem) => error(&problem),
        },
        Ok(GuestRequest::Shutdown) => {
            channel.answer(&GuestReply::Ok { state: GuestState::Ending });
            ending::shut_down(upper)
        }
        Err(message) => GuestReply::Error { message },
    };
    channel.answer(&reply);
    None
}

fn error(problem: &GuestError) -> GuestReply {
    GuestReply::Error { message: problem.to_string() }
}

/// What is wrong is told by place only: serde's own words may quote a secret.
fn parse(line: &[u8]) -> Result<GuestRequest, String> {
    serde_json::from_slice(line).map_err(|wrong| {
        let kind = match wrong.classify() {
            serde_json::error::Category::Data => "no such request, or a field that does not belong there",
            serde_json::error::Category::Eof => "it ends too early",
            _ => "it is no JSON",
        };
        format!("malformed request: {kind} (near byte {})", wrong.column())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_told_from_everything_else_without_quoting_it() {
        assert!(matches!(parse(br#"{"op":"hello"}"#), Ok(GuestRequest::Hello)));
        assert!(matches!(parse(br#"{"op":"clock","unix_ms":5}"#), Ok(GuestRequest::Clock { unix_ms: 5 })));
        for wrong in [
            &br#"{"op":"configure","secret":"hush"}"#[..],
            br#"{"op":"hush"}"#,
            br#"{"op":"clock","unix_ms":"hush"}"#,
            br#"{"op":"clock","unix_ms":1,"hush":2}"#,
            b"hush",
            b"\xff\xfe",
            br#"{"op":"#,
        ] {
            let message = parse(wrong).unwrap_err();
            assert!(message.starts_with("malformed request: "), "{message}");
            assert!(!message.contains("hush"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_makes_it_panic(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&line);
        }
    }
}
