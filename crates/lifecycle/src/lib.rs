//! Pure state machines of workshop, seat and session.
