//! Typed ids, join and session codes: parse, print, nothing else.
