//! End-to-end tests: they know the API, not the code.
//!
//! [`Server`] is the real binary as a child process; [`Terminal`] a learner's WebSocket.

mod images;
mod server;
mod terminal;

pub use images::microvm_images;
pub use server::{Answer, Server, ServerOptions, server_binary};
pub use terminal::Terminal;

/// `running` with every seat ready, asked again and again.
pub async fn all_ready(server: &Server, workshop: &str) {
    clarateach_testkit::wait_for("every seat is ready", std::time::Duration::from_secs(120), || async {
        let answer = server.get(&format!("/api/workshops/{workshop}")).await;
        let view = &answer.body["workshop"];
        (view["seat_counts"]["ready"] == view["seats"]).then_some(())
    })
    .await;
}

/// The workshop is 404.
pub async fn gone(server: &Server, workshop: &str) {
    clarateach_testkit::wait_for("the workshop is gone", std::time::Duration::from_secs(120), || async {
        (server.get(&format!("/api/workshops/{workshop}")).await.status == 404).then_some(())
    })
    .await;
}
