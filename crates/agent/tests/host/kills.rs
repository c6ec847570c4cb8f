//! kill -9 of the agent at random moments: VMs that run go on, and nothing is left of what was half-made.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use clarateach_testkit::wait_for;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;

use crate::worker::{PATIENCE, Worker, in_own_network, possible, small};

/// Seats that come and go, beside [`KEPT`], which stay.
const CHURNED: [u32; 2] = [3, 4];
const KEPT: [u32; 2] = [1, 2];

/// How often the agent is killed: `CLARATEACH_KILLS`.
fn kills() -> u32 {
    std::env::var("CLARATEACH_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// A number that needs not be a good one (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % end
    }
}

/// Creates and deletes seats until it is dropped. What it is told may be cut off at any point.
async fn churn(worker: &Worker) {
    loop {
        for seat in CHURNED {
            let _ = worker.try_call(Method::POST, "/vms", Some(small(seat))).await;
        }
        for seat in CHURNED {
            let _ = worker.try_call(Method::DELETE, &format!("/vms/test/{seat}"), None).await;
        }
        // While the agent is away there is nothing to do.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn by_seat(vms: Vec<Value>) -> HashMap<u64, Value> {
    vms.into_iter().map(|vm| (vm["seat_id"].as_u64().unwrap(), vm)).collect()
}

#[test]
fn running_vms_outlive_an_agent_that_is_killed() {
    if !possible("agent: running_vms_outlive_an_agent_that_is_killed") {
        return;
    }
    in_own_network(|| async {
        let mut worker = Worker::new();
        worker.start().await;
        let mut handles = HashMap::new();
        for seat in KEPT {
            handles.insert(seat, worker.vm(seat).await["handle"].clone());
        }
        let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ u64::from(std::process::id()));
        for round in 0..kills() {
            let moment = Duration::from_micros(random.below(2_500_000));
            let _ = tokio::time::timeout(moment, churn(&worker)).await;
            worker.stop(Signal::KILL);
            worker.start().await;
            let vms = by_seat(worker.vms().await);
            for seat in KEPT {
                let vm = &vms[&u64::from(seat)];
                assert_eq!(vm["handle"], handles[&seat], "round {round} after {moment:?}: {vm}");
                let path = format!("/proxy/test/{seat}/files");
                wait_for("the seat after the kill", PATIENCE, async || {
                    (worker.call(Method::GET, &path, None).await.0 == 200).then_some(())
                })
                .await;
            }
            let addresses: HashSet<String> = vms.values().map(|vm| vm["ip"].to_string()).collect();
            assert_eq!(addresses.len(), vms.len(), "{vms:?}");
        }
        for vm in worker.vms().await {
            let seat = u32::try_from(vm["seat_id"].as_u64().unwrap()).unwrap();
            worker.delete(seat).await;
        }
        // What a killed agent had half-made is removed in the background.
        wait_for("nothing to be left", PATIENCE, async || {
            let left = worker.leftovers();
            if left.is_empty() { Some(()) } else { None }
        })
        .await;
        assert_eq!(worker.leftovers(), Vec::<String>::new());
        assert_eq!(worker.stop(Signal::TERM), Some(0));
    });
}
