//! Terminal frames, files API types and seat-token claims.
