//! A fleet that grows and shrinks, on a double of Compute Engine: its machines' agents answer while they run.

use std::sync::Arc;
use std::time::Duration;

use clarateach_gcp::double::{ComputeDouble, Options, PROJECT, TOKEN};
use clarateach_testkit::postgres::PrivatePostgres;
use clarateach_testkit::{skip, wait_for};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::harness::{Hosts, Server};

const ZONE: &str = "us-central1-a";
const OTHER_ZONE: &str = "us-central1-b";
const PATIENCE: Duration = Duration::from_secs(90);

/// Compute Engine, and what runs on its machines.
struct Cloud {
    double: Arc<ComputeDouble>,
    hosts: Hosts,
    powering: JoinHandle<()>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.powering.abort();
    }
}

impl Cloud {
    async fn new(capacity: u32, options: Options) -> Self {
        let double = Arc::new(ComputeDouble::start(options).await);
        let hosts = Hosts::appearing(capacity);
        let (at, answering) = (Arc::clone(&double), hosts.clone());
        let powering = tokio::spawn(async move {
            loop {
                let up: Vec<String> = instances(&at)
                    .iter()
                    .filter(|instance| instance["status"] == "RUNNING")
                    .map(|instance| {
                        format!("{}:9090", instance["networkInterfaces"][0]["networkIP"].as_str().unwrap())
                    })
                    .collect();
                answering.answer_if(|address| up.iter().any(|up| up == address));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { double, hosts, powering }
    }

    fn settings(&self, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let own = [
            ("GCP_PROJECT", PROJECT.to_owned()),
            ("GCP_API_URL", self.double.endpoint()),
            ("CLOUDSDK_AUTH_ACCESS_TOKEN", TOKEN.to_owned()),
            ("FLEET_AGENT_URL", "gs://bucket/agent.tar.gz".to_owned()),
            ("FLEET_MAX", "3".to_owned()),
        ];
        own.into_iter().chain(more.iter().map(|(name, value)| (*name, (*value).to_owned()))).collect()
    }

    async fn server(&self, more: &[(&'static str, &str)]) -> Server {
        let settings = self.settings(more);
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Server::with(&self.hosts, &settings).await
    }

    fn calls(&self, method: &str) -> usize {
        self.double.recorded().iter().filter(|call| call.method == method).count()
    }
}

fn instances(double: &ComputeDouble) -> Vec<Value> {
    let names = double.instance_names();
    let of = |name: &String| [ZONE, OTHER_ZONE].iter().find_map(|zone| double.instance(zone, name));
    names.iter().filter_map(of).collect()
}

async fn workers(server: &Server) -> Vec<Value> {
    server.get("/api/admin/workers").await["workers"].as_array().unwrap().clone()
}

async fn problems(server: &Server) -> String {
    server.get("/api/admin/workers").await["fleet"]["problems"].to_string()
}

async fn until_ready(server: &Server, workshop: &str) {
    wait_for("all seats are ready", PATIENCE, || async {
        let seats = server.seats(workshop).await;
        seats.iter().all(|seat| seat["status"] == "ready").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_come_when_seats_need_room_and_go_when_they_are_idle() {
    let cloud = Cloud::new(3, Options::default()).await;
    let server = cloud.server(&[("FLEET_SEATS_PER_WORKER", "3"), ("FLEET_IDLE_MINUTES", "0")]).await;
    cloud.double.put_instance(ZONE, "by-hand", "somebody's work");
    let installation = server.running.as_ref().unwrap().app.installation.to_string();
    // Somebody else's has the name that would be next.
    let foreign = format!("clarateach-{installation}-1");
    cloud.double.put_instance(ZONE, &foreign, "not ours");
    assert_eq!(workers(&server).await, Vec::<Value>::new());

    let (workshop, _) = server.create(5).await;
    until_ready(&server, &workshop).await;
    let all = workers(&server).await;
    assert_eq!(all.len(), 2, "{all:?}");
    for worker in &all {
        assert_eq!((&worker["source"], &worker["kind"]), (&json!("gcp"), &json!("firecracker")), "{worker}");
        let instance = cloud.double.instance(ZONE, worker["id"].as_str().unwrap()).unwrap();
        assert_eq!(instance["labels"]["clarateach-installation"], json!(installation));
        assert_eq!(instance["scheduling"]["provisioningModel"], "SPOT");
        assert_eq!(instance["advancedMachineFeatures"]["enableNestedVirtualization"], true);
    }
    let seats: u64 = all.iter().map(|worker| worker["seats"].as_u64().unwrap()).sum();
    assert_eq!(seats, 5);

    server.delete(&workshop).await;
    server.until_gone(&workshop).await;
    wait_for("the machines and their rows are gone", PATIENCE, || async {
        (workers(&server).await.is_empty() && cloud.double.instance_names().len() == 2).then_some(())
    })
    .await;
    let left = |names: Vec<String>| names.into_iter().collect::<std::collections::BTreeSet<_>>();
    let foreigners = left(vec!["by-hand".to_owned(), foreign.clone()]);
    assert_eq!(left(cloud.double.instance_names()), foreigners);
    assert_eq!(left(cloud.double.disk_names()), foreigners);
    assert_eq!(cloud.double.disk_content(ZONE, &foreign).as_deref(), Some("not ours"));
    let store = Arc::clone(&server.running.as_ref().unwrap().app.store);
    assert!(store.workers().await.unwrap().is_empty(), "no tombstone either");
}

/// A class that needs three machines waits for one of them, and not for one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_are_made_at_once_and_as_the_settings_say() {
    let cloud = Cloud::new(3, Options { operation: Duration::from_secs(5), ..Options::default() }).await;
    let server = cloud
        .server(&[
            ("FLEET_SEATS_PER_WORKER", "3"),
            ("FLEET_NETWORK", "classes"),
            ("FLEET_EXTERNAL_IP", "off"),
            ("FLEET_TAGS", "clarateach-worker"),
            ("FLEET_DISK_GB", "200"),
        ])
        .await;
    let (workshop, _) = server.create(9).await;
    let made = wait_for("three machines are being made", PATIENCE, || async {
        let all = instances(&cloud.double);
        (all.len() == 3).then_some(all)
    })
    .await;
    assert!(made.iter().all(|instance| instance["status"] != "RUNNING"), "one after the other: {made:?}");
    for instance in &made {
        let interface = &instance["networkInterfaces"][0];
        assert_eq!(interface["network"], "global/networks/classes");
        assert!(interface["accessConfigs"].is_null(), "{interface}");
        assert_eq!(instance["tags"]["items"], json!(["clarateach-worker"]));
        assert_eq!(instance["disks"][0]["diskSizeGb"], "200");
    }
    until_ready(&server, &workshop).await;
    assert_eq!((cloud.calls("instances.insert"), workers(&server).await.len()), (3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preempted_machine_with_a_held_seat_is_started_again() {
    let cloud = Cloud::new(3, Options::default()).await;
    let server = cloud.server(&[]).await;
    let (workshop, code) = server.create(1).await;
    until_ready(&server, &workshop).await;
    let seat = server.join(&code, 1).await["seat"].as_u64().unwrap();
    let before = server.seat(&workshop, seat).await["generation"].clone();
    let worker = workers(&server).await[0]["id"].as_str().unwrap().to_owned();
    cloud.double.preempt(ZONE, &worker);
    wait_for("the machine is started again", PATIENCE, || async {
        let runs = instances(&cloud.double)[0]["status"] == "RUNNING";
        (runs && cloud.calls("instances.start") == 1).then_some(())
    })
    .await;
    wait_for("the same seat is back", PATIENCE, || async {
        (server.seat(&workshop, seat).await["status"] == "occupied").then_some(())
    })
    .await;
    assert_eq!(server.seat(&workshop, seat).await["generation"], before);
    assert_eq!(cloud.calls("instances.start"), 1);
    assert_eq!((cloud.double.instance_names(), workers(&server).await.len()), (vec![worker], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_zone_is_avoided_and_the_next_one_taken() {
    let cloud = Cloud::new(3, Options::default()).await;
    cloud.double.exhaust(ZONE, true);
    let server = cloud.server(&[("FLEET_ZONES", "us-central1-a, us-central1-b")]).await;
    let (workshop, _) = server.create(2).await;
    until_ready(&server, &workshop).await;
    let names = cloud.double.instance_names();
    assert_eq!(names.len(), 1);
    assert!(cloud.double.instance(OTHER_ZONE, &names[0]).is_some());
    assert!(problems(&server).await.contains("ZONE_RESOURCE_POOL_EXHAUSTED"), "{}", problems(&server).await);
    assert_eq!(cloud.calls("instances.insert"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn used_up_quota_is_shown_and_not_hammered() {
    let cloud = Cloud::new(3, Options::default()).await;
    cloud.double.set_quota(0);
    let server = cloud.server(&[]).await;
    server.create(2).await;
    wait_for("the quota is shown", PATIENCE, || async {
        problems(&server).await.contains("QUOTA_EXCEEDED").then_some(())
    })
    .await;
    let looks = cloud.calls("instances.list");
    wait_for("it has looked again, twice", PATIENCE, || async {
        (cloud.calls("instances.list") >= looks + 2).then_some(())
    })
    .await;
    assert_eq!(cloud.calls("instances.insert"), 1);
    assert!(problems(&server).await.contains("QUOTA_EXCEEDED"));
    assert!(cloud.double.instance_names().is_empty() && cloud.double.disk_names().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_while_a_machine_is_made_makes_no_second_one() {
    let cloud = Cloud::new(3, Options { operation: Duration::from_secs(3), ..Options::default() }).await;
    let mut server = cloud.server(&[]).await;
    let (workshop, _) = server.create(2).await;
    wait_for("a machine is being made", PATIENCE, || async {
        (!cloud.double.instance_names().is_empty()).then_some(())
    })
    .await;
    server.kill();
    assert_ne!(instances(&cloud.double)[0]["status"], "RUNNING", "it was killed too late to show anything");
    let settings = cloud.settings(&[]);
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    server.restart(&settings).await;
    until_ready(&server, &workshop).await;
    assert_eq!((cloud.calls("instances.insert"), cloud.double.instance_names().len()), (1, 1));
    assert_eq!(workers(&server).await.len(), 1);
}

/// The lease `scaling`: of two servers on one database only one makes machines, and when it dies the other goes on with
/// what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_servers_one_makes_machines_and_the_other_goes_on_when_it_dies() {
    let name = "of_two_servers_one_makes_machines_and_the_other_goes_on_when_it_dies";
    let postgres = match PrivatePostgres::start() {
        Ok(postgres) => postgres,
        Err(why) => return skip(name, &why),
    };
    let url = postgres.database("scaling");
    let options = Options { operation: Duration::from_secs(1), ..Options::default() };
    let cloud = Cloud::new(3, options).await;
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("SERVER_KEY", "a-server-key-of-at-least-32-characters"),
        ("FLEET_SEATS_PER_WORKER", "3"),
    ];
    let servers = [cloud.server(&settings).await, cloud.server(&settings).await];
    // Who looks after the fleet says how many machines there are; the other one says nothing of it.
    let looks_after = async |server: &Server| {
        server.get("/api/admin/workers").await["fleet"]["machines"].as_u64().is_some()
    };
    let (first, _) = servers[0].create(3).await;
    let (second, _) = servers[1].create(3).await;
    for server in &servers {
        until_ready(server, &first).await;
        until_ready(server, &second).await;
    }
    assert_eq!((cloud.calls("instances.insert"), cloud.double.instance_names().len()), (2, 2));
    let one = wait_for("only one of them looks after the fleet", PATIENCE, || async {
        match (looks_after(&servers[0]).await, looks_after(&servers[1]).await) {
            (true, false) => Some(0),
            (false, true) => Some(1),
            _ => None,
        }
    })
    .await;
    let [a, b] = servers;
    let (mut dies, lives) = if one == 0 { (a, b) } else { (b, a) };

    dies.kill();
    let (third, _) = lives.create(3).await;
    until_ready(&lives, &third).await;
    assert!(looks_after(&lives).await);
    assert_eq!(
        (cloud.calls("instances.insert"), cloud.double.instance_names().len()),
        (3, 3),
        "one more, and only one"
    );
    assert_eq!(workers(&lives).await.len(), 3);
}
