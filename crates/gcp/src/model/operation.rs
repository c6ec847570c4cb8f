//! What takes a while, and what came of it.

use serde::{Deserialize, Serialize};

use super::{last_segment, resource, status};

status! {
    /// An operation's life.
    OperationStatus {
        /// Not yet begun.
        Pending = "PENDING",
        /// At it.
        Running = "RUNNING",
        /// Over, with or without errors.
        Done = "DONE",
    }
}

resource! {
    /// Something that takes a while.
    Operation {
        /// Given by the API.
        id: String,
        /// Its name, to ask after it.
        name: String,
        /// `insert`, `delete`, `start`, `stop`, `createSnapshot`, `compute.instances.preempted`, …
        operation_type: String,
        /// Whether it is over.
        status: OperationStatus,
        /// What it is about, for people.
        status_message: String,
        /// 0 to 100.
        progress: u32,
        /// URL of what it changes.
        target_link: String,
        /// Id of what it changes.
        target_id: String,
        /// URL of its zone; none: a global one.
        zone: String,
        /// RFC 3339.
        insert_time: String,
        /// RFC 3339.
        start_time: String,
        /// RFC 3339.
        end_time: String,
        /// What went wrong.
        error: OperationErrors,
        /// What somebody should know.
        warnings: Vec<Warning>,
        /// The status that the error would have had as an answer.
        http_error_status_code: u16,
        /// And its message.
        http_error_message: String,
    }
}

impl Operation {
    /// Name of the thing that is changed.
    #[must_use]
    pub fn target(&self) -> &str {
        last_segment(self.target_link.as_deref().unwrap_or_default())
    }
}

resource! {
    /// What went wrong with an operation.
    OperationErrors {
        /// One or more.
        errors: Vec<OperationErrorItem>,
    }
}

resource! {
    /// One thing that went wrong.
    OperationErrorItem {
        /// `QUOTA_EXCEEDED`, `ZONE_RESOURCE_POOL_EXHAUSTED`, …
        code: String,
        /// For people.
        message: String,
        /// The field that is at fault.
        location: String,
    }
}

resource! {
    /// What somebody should know of an operation.
    Warning {
        /// `DISK_SIZE_LARGER_THAN_IMAGE_SIZE`, …
        code: String,
        /// For people.
        message: String,
    }
}
