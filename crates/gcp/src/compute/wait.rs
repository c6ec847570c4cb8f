//! Waiting for operations.

use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use super::Compute;
use crate::call::Call;
use crate::error::GcpError;
use crate::model::{Operation, OperationStatus, last_segment};

/// `wait` answers after two minutes at the latest; a little longer, and the connection is dead.
const WAIT: Duration = Duration::from_secs(135);

impl Compute {
    /// Makes a change and waits until it is done. `progress` hears of the operation each time there is news, its warnings at the end
    /// included.
    ///
    /// # Errors
    /// See [`GcpError`]; errors of the operation too.
    pub async fn complete(
        &self,
        call: &Call,
        progress: &mut (dyn FnMut(&Operation) + Send),
    ) -> Result<Operation, GcpError> {
        let operation = self.change(call).await?;
        self.wait(operation, progress).await
    }

    /// Waits until an operation is done.
    ///
    /// # Errors
    /// See [`GcpError`]; errors of the operation too.
    pub async fn wait(
        &self,
        mut operation: Operation,
        progress: &mut (dyn FnMut(&Operation) + Send),
    ) -> Result<Operation, GcpError> {
        let began = Instant::now();
        let mut pause = self.patience.first_pause.min(Duration::from_millis(500));
        loop {
            progress(&operation);
            if operation.status == Some(OperationStatus::Done) {
                return match GcpError::of(&operation) {
                    Some(error) => Err(error),
                    None => Ok(operation),
                };
            }
            let asked = Instant::now();
            let call = self.wait_call(&operation);
            let left = self.patience.operation.saturating_sub(began.elapsed());
            let Ok(body) = tokio::time::timeout(left, self.send_within(&call, WAIT)).await else {
                return Err(GcpError::Unfinished {
                    operation: operation.operation_type.clone().unwrap_or_default(),
                    target: operation.target().to_owned(),
                    after: began.elapsed(),
                });
            };
            let body = body?;
            operation = serde_json::from_slice(&body)
                .map_err(|source| GcpError::Unreadable { call: call.to_string(), source })?;
            // An overloaded API answers at once, whatever the state.
            if operation.status != Some(OperationStatus::Done) && asked.elapsed() < pause {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
        }
    }

    /// `zoneOperations.wait`, or `globalOperations.wait` for one without a zone.
    fn wait_call(&self, operation: &Operation) -> Call {
        let name = operation.name.as_deref().unwrap_or_default();
        let path = match operation.zone.as_deref().map(last_segment) {
            Some(zone) => format!("projects/{}/zones/{zone}/operations/{name}/wait", self.place.project),
            None => self.place.global(&format!("operations/{name}/wait")),
        };
        Call::new(Method::POST, path)
    }
}
