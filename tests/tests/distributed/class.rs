//! A class that works, whatever happens: learners who join, come back, and look after what they wrote.

use std::collections::BTreeMap;

use serde_json::json;

use crate::cluster::Cluster;

/// One learner and what they know.
#[derive(Debug, Clone)]
pub(crate) struct Learner {
    name: String,
    /// What the browser keeps.
    session: Option<String>,
    pub(crate) seat: Option<u64>,
    /// Whether their file is on their seat's disk.
    wrote: bool,
}

/// What came of an attempt to work.
#[derive(Debug)]
pub(crate) enum Work {
    /// Their own file was there, or was written.
    Done,
    /// Not now, because of this.
    Away(String),
}

impl Learner {
    pub(crate) fn new(number: usize) -> Self {
        Self { name: format!("learner-{number:04}"), session: None, seat: None, wrote: false }
    }

    /// Asks for a seat with a code, again and again the same until it is answered.
    async fn join(&mut self, cluster: &Cluster, server: usize, code: &str) -> Result<(), String> {
        let wish = json!({"code": code, "name": self.name, "client_id": format!("browser-of-{}", self.name)});
        let answer = cluster.call(server, "POST", "/api/join", None, Some(wish)).await;
        match answer.status {
            200 | 202 => {
                let session = answer.body["session_code"].as_str().expect("a session code").to_owned();
                if let Some(before) = &self.session {
                    assert_eq!(*before, session, "{}: joining again gave another session", self.name);
                }
                self.session = Some(session);
                Ok(())
            }
            0 | 500.. => Err(format!("join: {} {}", answer.status, answer.body)),
            // Every one of them is entitled to a seat.
            status => panic!("{} was refused: {status} {}", self.name, answer.body),
        }
    }

    /// Comes back to the seat by one of the servers, and looks for the file there.
    pub(crate) async fn work(&mut self, cluster: &Cluster, server: usize, code: &str) -> Work {
        match self.try_work(cluster, server, code).await {
            Ok(()) => Work::Done,
            Err(why) => Work::Away(format!("{} at {:?}: {why}", self.name, self.seat)),
        }
    }

    async fn try_work(&mut self, cluster: &Cluster, server: usize, code: &str) -> Result<(), String> {
        if self.session.is_none() {
            self.join(cluster, server, code).await?;
        }
        let session = self.session.clone().expect("just joined");
        let answer = cluster.call(server, "GET", &format!("/api/session/{session}"), None, None).await;
        let status = answer.body["status"].as_str().unwrap_or_default().to_owned();
        if answer.status == 0 || answer.status >= 500 {
            return Err(format!("session: {} {}", answer.status, answer.body));
        }
        assert_eq!(answer.status, 200, "{}: the session is gone: {}", self.name, answer.body);
        assert_ne!(status, "ended", "{} lost the seat: {}", self.name, answer.body);
        if let Some(seat) = answer.body["seat"].as_u64() {
            assert!(
                self.seat.is_none_or(|before| before == seat),
                "{} was moved to {seat}: {self:?}",
                self.name
            );
            self.seat = Some(seat);
        }
        if status != "ready" {
            return Err(format!("the seat is {status}: {}", answer.body));
        }
        let token = answer.body["token"].as_str().expect("a token").to_owned();
        let endpoint = answer.body["endpoint"].as_str().expect("an endpoint");
        // By this server, whichever one the endpoint names.
        let path = &endpoint[endpoint.find("/proxy/").expect("a path")..];
        let files = cluster.call(server, "GET", &format!("{path}/files?path="), Some(&token), None).await;
        let Some(entries) = files.body["entries"].as_array().filter(|_| files.status == 200) else {
            return Err(format!("files: {} {}", files.status, files.body));
        };
        let mut own =
            entries.iter().filter_map(|entry| entry["name"].as_str()).filter(|name| name.ends_with(OWN));
        let there = own.next();
        let name = format!("{}{OWN}", self.name);
        assert!(there.is_none_or(|there| there == name), "{} sits at the seat of {there:?}", self.name);
        if self.wrote {
            assert!(there.is_some(), "{} sits at an empty seat: {}", self.name, files.body);
            return Ok(());
        }
        let wish = json!({"content": self.name, "encoding": "utf-8"});
        let wrote =
            cluster.call(server, "PUT", &format!("{path}/files/{name}"), Some(&token), Some(wish)).await;
        if !(200..300).contains(&wrote.status) {
            return Err(format!("write: {} {}", wrote.status, wrote.body));
        }
        self.wrote = true;
        Ok(())
    }
}

/// How a learner's own file ends.
const OWN: &str = ".own.txt";

/// No two learners have one seat.
pub(crate) fn nobody_shares(learners: &[Learner]) {
    let mut held = BTreeMap::new();
    for learner in learners {
        if let Some(seat) = learner.seat
            && let Some(other) = held.insert(seat, &learner.name)
        {
            panic!("{} and {other} both have seat {seat}", learner.name);
        }
    }
}
