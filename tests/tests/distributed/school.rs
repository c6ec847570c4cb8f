//! The class as a whole, and whether all is well with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::chance::Chance;
use crate::class::{Learner, Work, nobody_shares};
use crate::cluster::{Cluster, SERVERS};

const CLASS: &str = "Class";
/// By when all must be well again: a lost lease takes 10 s, a connection that nobody ended half a minute; emulated
/// machines take their time to start.
const WELL_WITHIN: Duration = Duration::from_secs(120);

/// How large it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Seats of the class.
    pub(crate) seats: usize,
    /// Learners who are there before anything goes wrong; one more comes with every round, while it does.
    pub(crate) first: usize,
    /// Seats of a small workshop that is made in every round while something is wrong, and deleted in the next while
    /// something else is.
    pub(crate) extra: usize,
}

/// The class, its learners, and a small workshop beside it.
pub(crate) struct School {
    size: Size,
    workshop: String,
    code: String,
    learners: Vec<Learner>,
    /// The small workshop's name; the number is the round's.
    extra: Option<String>,
    /// Whether this round's has been asked for.
    asked: bool,
}

impl School {
    pub(crate) async fn open(cluster: &Cluster, size: Size) -> Self {
        let made = cluster.admin(0, "POST", "/api/workshops", Some(cluster.wish(CLASS, size.seats))).await;
        assert_eq!(made.status, 201, "{}", made.body);
        let text = |name: &str| made.body["workshop"][name].as_str().expect("a text").to_owned();
        Self {
            size,
            workshop: text("id"),
            code: text("join_code"),
            learners: (0..size.first).map(Learner::new).collect(),
            extra: None,
            asked: true,
        }
    }

    /// While all is well: somebody leaves if there is no seat left for the next who comes.
    pub(crate) async fn make_room(&mut self, cluster: &Cluster, server: usize) {
        if self.learners.len() < self.size.seats {
            return;
        }
        let seat = self.learners.remove(0).seat.expect("all is well");
        let path = format!("/api/workshops/{}/seats/{seat}/evict", self.workshop);
        let evicted = cluster.admin(server, "POST", &path, Some(json!({}))).await;
        assert!((200..300).contains(&evicted.status), "{} {}", evicted.status, evicted.body);
    }

    /// The round begins: one more learner wants to come, the small workshop of the one before is to go and another is to
    /// be made.
    pub(crate) fn next_round(&mut self, round: usize) {
        self.learners.push(Learner::new(self.size.first + round));
        if self.size.extra > 0 {
            self.extra = Some(format!("Extra {round}"));
            self.asked = false;
        }
    }

    /// Everybody tries to work once, each by a server that chance gives, and the instructor to do what is to be done; who
    /// could not, and why.
    pub(crate) async fn works(&mut self, cluster: &Cluster, chance: &mut Chance) -> Vec<String> {
        let instructor = self.instructs(cluster, chance.below(SERVERS)).await;
        let code = &self.code;
        let tries = self.learners.iter_mut().map(|learner| {
            let server = chance.below(SERVERS);
            async move { learner.work(cluster, server, code).await }
        });
        let away = join_all(tries).await.into_iter().filter_map(|work| match work {
            Work::Done => None,
            Work::Away(why) => Some(why),
        });
        let away = away.chain(instructor.err()).collect();
        nobody_shares(&self.learners);
        self.no_double_seat(cluster);
        away
    }

    /// Makes the small workshop of this round and deletes those of others. An answer may be lost: it is asked what there
    /// is.
    async fn instructs(&mut self, cluster: &Cluster, server: usize) -> Result<(), String> {
        let there = workshops(cluster, server).await?;
        let is_wanted = |name: &str| name == CLASS || Some(name) == self.extra.as_deref();
        for (id, _) in there.iter().filter(|(_, view)| !is_wanted(name_of(view))) {
            let deleted = cluster.admin(server, "DELETE", &format!("/api/workshops/{id}"), None).await;
            if !matches!(deleted.status, 202 | 404) {
                return Err(format!("delete: {} {}", deleted.status, deleted.body));
            }
        }
        if let Some(extra) = self.extra.clone().filter(|_| !self.asked) {
            if !there.values().any(|view| name_of(view) == extra) {
                let wish = cluster.wish(&extra, self.size.extra);
                let made = cluster.admin(server, "POST", "/api/workshops", Some(wish)).await;
                if made.status != 201 {
                    return Err(format!("create: {} {}", made.status, made.body));
                }
            }
            self.asked = true;
        }
        Ok(())
    }

    /// One make of a seat is never in two places, not even for a moment, and one that is held is somewhere. An older make
    /// may be left for a while on a worker that is cut off; nobody reaches it.
    fn no_double_seat(&self, cluster: &Cluster) {
        let Some(environments) = cluster.environments() else { return };
        for (seat, places) in &environments {
            let makes: BTreeSet<u64> = places.iter().map(|(_, generation)| *generation).collect();
            assert_eq!(makes.len(), places.len(), "{seat:?} is twice at {places:?} (worker, generation)");
        }
        for seat in self.learners.iter().filter_map(|learner| learner.seat) {
            let there = environments.contains_key(&(self.workshop.clone(), seat));
            assert!(there, "seat {seat} is held and nowhere");
        }
    }

    /// All is as it should be: every seat is ready by either server's account, everybody works, every seat is at one
    /// place, and nothing else is anywhere.
    async fn is_well(&mut self, cluster: &Cluster, chance: &mut Chance) -> Result<(), String> {
        if let Some(away) = self.works(cluster, chance).await.first() {
            return Err(away.clone());
        }
        let mut wanted = BTreeSet::new();
        for server in 0..SERVERS {
            let there = workshops(cluster, server).await?;
            if there.len() != 1 + usize::from(self.extra.is_some()) {
                return Err(format!("server {server}: {} workshops", there.len()));
            }
            for (id, view) in &there {
                let seats = view["seats"].as_u64().unwrap_or(0);
                let count = |name: &str| view["seat_counts"][name].as_u64().unwrap_or(0);
                if count("ready") + count("occupied") != seats {
                    return Err(format!("server {server}: {} {}", name_of(view), view["seat_counts"]));
                }
                wanted.extend((1..=seats).map(|seat| (id.clone(), seat)));
            }
        }
        let environments = cluster.environments().ok_or("a worker does not answer")?;
        if !environments.keys().eq(&wanted) || environments.values().any(|places| places.len() != 1) {
            return Err(format!("environments: {environments:?}"));
        }
        Ok(())
    }

    /// How long it takes until all is well.
    pub(crate) async fn until_well(&mut self, cluster: &mut Cluster, chance: &mut Chance) -> Duration {
        let began = Instant::now();
        loop {
            match self.is_well(cluster, chance).await {
                Ok(()) => return began.elapsed(),
                Err(why) => {
                    cluster.nobody_fell();
                    assert!(began.elapsed() < WELL_WITHIN, "not well after {WELL_WITHIN:?}: {why}");
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Deletes everything.
    pub(crate) async fn close(mut self, cluster: &Cluster) {
        self.extra = None;
        let deleted = cluster.admin(1, "DELETE", &format!("/api/workshops/{}", self.workshop), None).await;
        assert_eq!(deleted.status, 202, "{}", deleted.body);
        clarateach_testkit::wait_for("all workshops to be gone", WELL_WITHIN, async || {
            let there = workshops(cluster, 0).await.ok()?;
            for id in there.keys() {
                let _ = cluster.admin(0, "DELETE", &format!("/api/workshops/{id}"), None).await;
            }
            there.is_empty().then_some(())
        })
        .await;
    }
}

fn name_of(view: &Value) -> &str {
    view["name"].as_str().unwrap_or_default()
}

async fn workshops(cluster: &Cluster, server: usize) -> Result<BTreeMap<String, Value>, String> {
    let answer = cluster.admin(server, "GET", "/api/workshops", None).await;
    let list = answer.body["workshops"].as_array().filter(|_| answer.status == 200);
    let list =
        list.ok_or_else(|| format!("workshops by server {server}: {} {}", answer.status, answer.body))?;
    Ok(list.iter().map(|view| (view["id"].as_str().unwrap_or_default().to_owned(), view.clone())).collect())
}
