//! As much of DNS messages as a relay has to know: the header and the question, see RFC 1035, section 4.

/// The length of a header.
const HEADER: usize = 12;
/// The longest name, RFC 1035 section 2.3.4.
const NAME: usize = 255;

/// Why a query gets no answer of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No nameserver answered.
    ServerFailure = 2,
    /// The asker may not ask.
    Refused = 5,
}

/// The id of a message that is long enough to have one.
pub(super) fn id(message: &[u8]) -> Option<u16> {
    message.get(..HEADER).map(|header| u16::from_be_bytes([header[0], header[1]]))
}

pub(super) fn set_id(message: &mut [u8], id: u16) {
    if let Some(field) = message.get_mut(..2) {
        field.copy_from_slice(&id.to_be_bytes());
    }
}

/// Whether this is a query, and not an answer.
pub(super) fn is_query(message: &[u8]) -> bool {
    message.len() >= HEADER && message[2] & 0x80 == 0
}

/// Whether `answer` answers `query`, once both have the same id: it is an answer and repeats the question (or, as some
/// servers' refusals do, none).
pub(super) fn answers(answer: &[u8], query: &[u8]) -> bool {
    if answer.len() < HEADER || is_query(answer) || id(answer) != id(query) {
        return false;
    }
    match (question(answer), question(query)) {
        (Some(repeated), Some(asked)) => repeated.eq_ignore_ascii_case(asked),
        (None, _) => answer[4..6] == [0, 0],
        (Some(_), None) => false,
    }
}

/// An answer that says no.
pub(super) fn refusal(query: &[u8], why: Refusal) -> Vec<u8> {
    bare_answer(query, 0, why as u8)
}

/// An answer that says: ask again by TCP.
pub(super) fn truncated(query: &[u8]) -> Vec<u8> {
    bare_answer(query, 0x02, 0)
}

fn bare_answer(query: &[u8], flag: u8, code: u8) -> Vec<u8> {
    let question = question(query).unwrap_or_default();
    let mut answer = Vec::with_capacity(HEADER + question.len());
    answer.extend_from_slice(query.get(..2).unwrap_or(&[0, 0]));
    // An answer, with the query's opcode and its wish for recursion; recursion is available.
    answer.push(0x80 | flag | query.get(2).copied().unwrap_or(0) & 0x79);
    answer.push(0x80 | code);
    answer.extend_from_slice(&[0, u8::from(!question.is_empty()), 0, 0, 0, 0, 0, 0]);
    answer.extend_from_slice(question);
    answer
}

/// The first question: name, type and class.
fn question(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? == [0, 0] {
        return None;
    }
    let mut end = HEADER;
    loop {
        let label = usize::from(*message.get(end)?);
        // A pointer has nothing to point at in a first name.
        if label > 63 || end - HEADER > NAME {
            return None;
        }
        end += 1 + label;
        if label == 0 {
            return message.get(HEADER..end + 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `example.com A IN`, recursion desired.
    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";

    fn answer() -> Vec<u8> {
        let mut answer = QUERY.to_vec();
        answer[2] |= 0x80;
        answer
    }

    #[test]
    fn answers_are_told_by_id_and_question() {
        assert!(answers(&answer(), QUERY));
        assert!(!answers(QUERY, QUERY), "a query is no answer");
        let mut other = answer();
        other[1] ^= 1;
        assert!(!answers(&other, QUERY), "another id");
        let mut other = answer();
        other[13] = b'E';
        assert!(answers(&other, QUERY), "names have no case");
        other[14] = b'y';
        assert!(!answers(&other, QUERY), "another name");
        let mut bare = answer();
        bare.truncate(12);
        assert!(!answers(&bare, QUERY), "says it has a question");
        bare[5] = 0;
        assert!(answers(&bare, QUERY));
    }

    #[test]
    fn refusals_repeat_the_question() {
        let refused = refusal(QUERY, Refusal::Refused);
        assert_eq!(refused[..4], [0x12, 0x34, 0x81, 0x85]);
        assert_eq!(refused[4..12], [0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(refused[12..], QUERY[12..]);
        assert!(answers(&refused, QUERY));
        assert_eq!(truncated(QUERY)[2] & 0x02, 0x02);
        assert!(answers(&truncated(QUERY), QUERY));
    }

    proptest! {
        #[test]
        fn no_message_is_too_strange(message: Vec<u8>, query: Vec<u8>) {
            let _ = (id(&message), is_query(&message), answers(&message, &query));
            prop_assert!(refusal(&message, Refusal::ServerFailure).len() >= 12);
            if is_query(&query) {
                prop_assert!(answers(&refusal(&query, Refusal::Refused), &query));
            }
        }
    }
}
