//! What can go wrong with the store.

/// Why the store did not do what was asked. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such thing.
    #[error("{what} not found")]
    NotFound {
        /// What was looked for: `workshop`, `session`, …
        what: &'static str,
    },
    /// The thing is in a state in which this can't be done, or its name is taken.
    #[error("{message}")]
    Conflict {
        /// One sentence.
        message: String,
    },
    /// The database can't be used now: locked, read-only, full, gone. It may be later, without a restart.
    #[error("the database can't be used now: {message}")]
    Unavailable {
        /// One sentence that an operator understands.
        message: String,
    },
    /// The lease that the write was made on has been lost: somebody else decides by now.
    #[error("the lease {lease} has been lost to another server")]
    Fenced {
        /// Its name.
        lease: String,
    },
    /// What is stored can't be understood, or the code is wrong.
    #[error("the store failed to {operation}")]
    Internal {
        /// What was tried.
        operation: &'static str,
        /// What the database said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
