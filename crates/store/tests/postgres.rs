//! The story of the store, on PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod classroom;
mod story;

use clarateach_store::Store;
use clarateach_store::postgres::PostgresStore;
use clarateach_testkit::postgres::PrivatePostgres;
use clarateach_testkit::skip;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_in_postgresql() {
    let postgres = match PrivatePostgres::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip("the_story_in_postgresql", &reason),
    };
    let store = PostgresStore::connect(&postgres.database("story").parse().unwrap()).await.unwrap();
    story::run(&store).await;
    store.close().await;
    for table in [
        "workshops",
        "seats",
        "sessions",
        "events",
        "event_counters",
        "users",
        "keys",
        "workers",
        "placements",
    ] {
        assert_eq!(postgres.sql("story", &format!("SELECT count(*) FROM {table}")), "0", "{table}");
    }
}
