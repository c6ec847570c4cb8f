//! The client against a guest that follows a script.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream};

use super::*;

const PARKED: &str = r#"{"status":"ok","state":"parked"}"#;
const RUNNING: &str = r#"{"status":"ok","state":"running"}"#;
const ENDING: &str = r#"{"status":"ok","state":"ending"}"#;

fn config() -> GuestConfig {
    GuestConfig {
        instance: "i".into(),
        hostname: "seat-1".into(),
        network: None,
        unix_ms: 1,
        entropy: String::new(),
        secret: "hush".into(),
        env: BTreeMap::new(),
    }
}

fn quick() -> Patience {
    Patience { quick: Duration::from_millis(500), configure: Duration::from_millis(500) }
}

/// A guest that says `before`, then answers each line it gets with the next of `answers`. Gives back what it was asked.
fn guest(before: Vec<u8>, answers: Vec<String>) -> (Control, tokio::task::JoinHandle<Vec<String>>) {
    let (ours, theirs) = tokio::io::duplex(256);
    let played = tokio::spawn(async move {
        let (reading, mut writing) = tokio::io::split(theirs);
        writing.write_all(&before).await.unwrap();
        let mut lines = BufReader::new(reading).lines();
        let mut asked = Vec::new();
        for answer in answers {
            let Ok(Some(line)) = lines.next_line().await else { break };
            asked.push(line);
            writing.write_all(answer.as_bytes()).await.unwrap();
        }
        // Silent from now on, but there.
        while let Ok(Some(line)) = lines.next_line().await {
            asked.push(line);
        }
        asked
    });
    (Control::new(Box::new(ours)).with_patience(quick()), played)
}

fn lines(of: &[&str]) -> Vec<String> {
    of.iter().map(|line| format!("{line}\n")).collect()
}

#[tokio::test]
async fn a_seat_is_made_and_ended() {
    let (mut control, played) = guest(vec![], lines(&[PARKED, RUNNING, RUNNING, ENDING]));
    assert_eq!(control.hello().await.unwrap(), GuestState::Parked);
    control.configure(&config()).await.unwrap();
    control.clock(5).await.unwrap();
    control.shutdown().await.unwrap();
    drop(control);
    let asked = played.await.unwrap();
    assert_eq!(asked.len(), 4);
    assert_eq!(asked[2], r#"{"op":"clock","unix_ms":5}"#);
}

#[tokio::test]
async fn answers_to_questions_of_an_earlier_host_are_passed_over() {
    // Two late answers to hello come after configure was asked, as over a serial port that queued the questions.
    let late = format!("{PARKED}\n{PARKED}\n{RUNNING}\n");
    let (mut control, _played) = guest(format!("{PARKED}\n{RUNNING}\n").into_bytes(), vec![late]);
    tokio::task::yield_now().await;
    control.configure(&config()).await.unwrap();
}

#[tokio::test]
async fn garbage_is_passed_over_even_without_end() {
    let mut noise = vec![b'x'; MAX_LINE * 2 + 17];
    noise.extend_from_slice(b"\n\xff\xfe\n{}\n\n[1]\n");
    let mut answer = String::from_utf8_lossy(&vec![b'y'; MAX_LINE + 5]).into_owned();
    answer.push_str(&format!("\nnot json\n{PARKED}\n"));
    let (mut control, _played) = guest(noise, vec![answer]);
    let mut control = {
        control.patience.quick = Duration::from_secs(20);
        control
    };
    assert_eq!(control.hello().await.unwrap(), GuestState::Parked);
    assert!(control.buffer.capacity() <= MAX_LINE * 2);
}

#[tokio::test]
async fn a_request_that_arrived_behind_the_rest_of_another_is_repeated() {
    let malformed = r#"{"status":"error","message":"malformed request: it is no JSON (near byte 1)"}"#;
    let (mut control, played) = guest(vec![], lines(&[malformed, RUNNING]));
    control.configure(&config()).await.unwrap();
    drop(control);
    let asked = played.await.unwrap();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0], asked[1]);
    let (mut control, played) = guest(vec![], lines(&[malformed; 5]));
    assert!(matches!(control.hello().await, Err(ControlError::Refused { .. })));
    drop(control);
    assert_eq!(played.await.unwrap().len(), 3);
}

#[tokio::test]
async fn refusals_carry_the_guests_words() {
    let refusal = r#"{"status":"error","message":"the VM has no upper drive: /dev/vdb is not there"}"#;
    let (mut control, _played) = guest(vec![], lines(&[refusal]));
    let error = control.configure(&config()).await.unwrap_err().to_string();
    assert_eq!(error, "the guest refused configure: the VM has no upper drive: /dev/vdb is not there");
}

#[tokio::test]
async fn silence_and_a_closed_channel_are_told_apart() {
    let (mut control, _played) = guest(vec![], vec![]);
    assert!(matches!(control.hello().await, Err(ControlError::Silent { request: "hello", .. })));
    let (ours, theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(64);
    drop(theirs);
    let mut control = Control::new(Box::new(ours)).with_patience(quick());
    assert!(matches!(control.hello().await, Err(ControlError::Broken { .. })));
}

#[tokio::test]
async fn what_is_too_long_for_a_line_is_not_sent() {
    let (mut control, played) = guest(vec![], vec![]);
    let long = GuestConfig { env: BTreeMap::from([("A".into(), "a".repeat(MAX_LINE))]), ..config() };
    assert!(matches!(control.configure(&long).await, Err(ControlError::TooLong { .. })));
    drop(control);
    assert!(played.await.unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn answers_are_found_however_they_are_cut_and_whatever_is_around_them(
        noise in proptest::collection::vec(any::<u8>().prop_filter("not the end of a line", |b| *b != b'\n'), 0..300),
        cuts in proptest::collection::vec(1usize..40, 0..20),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let (ours, mut theirs) = tokio::io::duplex(64);
            let mut said = noise;
            said.push(b'\n');
            said.extend_from_slice(format!("{RUNNING}\n").as_bytes());
            tokio::spawn(async move {
                let mut asked = vec![0; 15];
                theirs.read_exact(&mut asked).await.unwrap();
                let mut rest = said.as_slice();
                for cut in cuts {
                    let (now, later) = rest.split_at(cut.min(rest.len()));
                    theirs.write_all(now).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = later;
                }
                theirs.write_all(rest).await.unwrap();
                // Held open until it is read.
                let _ = theirs.read(&mut [0]).await;
            });
            let mut control = Control::new(Box::new(ours));
            prop_assert_eq!(control.hello().await.unwrap(), GuestState::Running);
            Ok(())
        })?;
    }
}
