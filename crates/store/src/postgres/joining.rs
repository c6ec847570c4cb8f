//! Learners want in. Joins of one workshop wait for each other anyway, for the lock of its row, so they are decided in
//! groups.

use clarateach_ids::JoinCode;

use super::classroom::Classroom;
use super::database::{Database, Write};
use super::failure::Outcome;
use super::grouped::Groupable;
use crate::{JoinDecision, JoinWish, StoreError};

const OF_A_GROUP: &str = "decide a group of joins";

impl Groupable for JoinWish {
    type Key = JoinCode;
    type Answer = JoinDecision;
    const OPERATION: &'static str = "decide a join";

    fn key(&self) -> JoinCode {
        self.join_code
    }

    async fn in_one(database: &Database, wishes: &[&Self]) -> Result<Vec<JoinDecision>, StoreError> {
        database.write(OF_A_GROUP, |write| async move { decide_in(&write, wishes).await }).await
    }
}

async fn decide_in(write: &Write, wishes: &[&JoinWish]) -> Outcome<Vec<JoinDecision>> {
    let Some(first) = wishes.first() else { return Ok(Vec::new()) };
    let Some(mut classroom) = Classroom::lock(write, &first.join_code, wishes).await? else {
        return Ok(wishes.iter().map(|_| JoinDecision::NotFound).collect());
    };
    let mut decisions = Vec::with_capacity(wishes.len());
    for wish in wishes {
        decisions.push(classroom.join(write, wish)?);
    }
    classroom.store(write).await?;
    Ok(decisions)
}
