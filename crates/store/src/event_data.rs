//! What events say of a session and of a seat: the same, whichever database keeps them.

use serde_json::{Map, Value};

use crate::{SeatRecord, SessionRecord};

/// `{session, seat?, name?, …}`.
pub(crate) fn of_session<const N: usize>(session: &SessionRecord, more: [(&str, Value); N]) -> Value {
    let mut data = Map::new();
    data.insert("session".to_owned(), session.id.as_str().into());
    if let Some(seat) = session.seat {
        data.insert("seat".to_owned(), seat.get().into());
    }
    if let Some(name) = &session.name {
        data.insert("name".to_owned(), name.as_str().into());
    }
    data.extend(more.into_iter().map(|(key, value)| (key.to_owned(), value)));
    Value::Object(data)
}

/// `{seat, generation, reason_code?, reason?, learner?}`.
pub(crate) fn of_seat(seat: &SeatRecord, learner: Option<&str>) -> Value {
    let mut data = Map::new();
    data.insert("seat".to_owned(), seat.key.seat.get().into());
    data.insert("generation".to_owned(), seat.generation.0.into());
    if let Some((code, message)) = &seat.reason {
        data.insert("reason_code".to_owned(), code.as_str().into());
        data.insert("reason".to_owned(), message.as_str().into());
    }
    if let Some(learner) = learner {
        data.insert("learner".to_owned(), learner.into());
    }
    Value::Object(data)
}
