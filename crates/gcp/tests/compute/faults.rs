//! What goes wrong at Google's, and what comes of it.

use std::time::{Duration, Instant};

use clarateach_gcp::double::{ComputeDouble, Fault, Options};
use clarateach_gcp::{Compute, Credentials, Endpoint, Kind, Patience, ProjectInZone};

use crate::{ZONE, client, double, hasty, name, place, spec};

#[tokio::test]
async fn what_passes_is_tried_again() {
    let double = double().await;
    let compute = client(&double);
    for fault in [Fault::Unavailable, Fault::TooMany, Fault::RateLimit, Fault::Html] {
        double.fail("GET instances", fault, 3);
        let before = double.recorded().len();
        assert!(compute.instances(None).await.unwrap().is_empty(), "{fault:?}");
        assert_eq!(double.recorded().len() - before, 4, "{fault:?}");
    }
}

#[tokio::test]
async fn what_does_not_pass_is_given_up() {
    let double = double().await;
    let compute = client(&double);
    double.fail("GET instances", Fault::Unavailable, 100);
    let error = compute.instances(None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert_eq!(double.recorded().len(), 1 + hasty().retries);
}

#[tokio::test]
async fn quota_and_permissions_are_not_hammered() {
    let double = double().await;
    let compute = client(&double);
    for (fault, kind) in [(Fault::Quota, Kind::QuotaExceeded), (Fault::Forbidden, Kind::Forbidden)] {
        double.fail("POST instances", fault, 1);
        let before = double.recorded().len();
        let error = compute.change(&place().insert_instance(&spec("w"))).await.unwrap_err();
        assert_eq!((error.kind(), double.recorded().len() - before), (kind, 1), "{error}");
    }
}

#[tokio::test]
async fn a_lost_answer_costs_no_second_instance() {
    let double = double().await;
    let compute = client(&double);
    double.fail("POST instances", Fault::AnswerLost, 2);
    compute.complete(&place().insert_instance(&spec("w")), &mut |_| {}).await.unwrap();
    let inserts: Vec<_> =
        double.recorded().into_iter().filter(|call| call.method == "instances.insert").collect();
    assert_eq!(inserts.len(), 3);
    assert!(inserts.iter().all(|insert| insert.query["requestId"] == inserts[0].query["requestId"]));
    assert_eq!(double.instance_names(), ["w"]);
    let operations = compute.operations(Some("operationType=insert")).await.unwrap();
    assert_eq!(operations.len(), 1);
}

#[tokio::test]
async fn now_and_then_unavailable_is_not_noticed() {
    let double = ComputeDouble::start(Options { unavailable_every: 3, ..Options::default() }).await;
    let compute = client(&double);
    for number in 0..5 {
        let call = place().insert_instance(&spec(&format!("w{number}")));
        compute.complete(&call, &mut |_| {}).await.unwrap();
    }
    assert_eq!(double.instance_names().len(), 5);
}

#[tokio::test]
async fn quota_and_empty_zones_are_told_apart_and_leave_nothing() {
    let double = ComputeDouble::start(Options { cpus: 12, ..Options::default() }).await;
    let compute = client(&double);
    compute.complete(&place().insert_instance(&spec("w1")), &mut |_| {}).await.unwrap();
    let error = compute.complete(&place().insert_instance(&spec("w2")), &mut |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), Kind::QuotaExceeded, "{error}");
    assert!(error.to_string().contains("Limit: 12.0"), "{error}");
    double.set_quota(100);
    double.exhaust(ZONE, true);
    let error = compute.complete(&place().insert_instance(&spec("w3")), &mut |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ZoneExhausted, "{error}");
    assert_eq!(double.instance_names(), ["w1"]);
    assert_eq!(double.disk_names(), ["w1"]);
    let elsewhere = compute.in_zone(name("us-central1-c"));
    elsewhere.complete(&elsewhere.place().insert_instance(&spec("w3")), &mut |_| {}).await.unwrap();
    assert!(double.instance("us-central1-c", "w3").is_some());
}

#[tokio::test]
async fn a_stopped_instance_may_find_no_machine() {
    let double = double().await;
    let compute = client(&double);
    compute.complete(&place().insert_instance(&spec("w")), &mut |_| {}).await.unwrap();
    compute.complete(&place().stop_instance(&name("w")), &mut |_| {}).await.unwrap();
    double.exhaust(ZONE, true);
    let error = compute.complete(&place().start_instance(&name("w")), &mut |_| {}).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ZoneExhausted, "{error}");
    assert!(compute.instance(&name("w")).await.unwrap().unwrap().status().is_stopped());
}

#[tokio::test]
async fn an_operation_that_takes_too_long_is_said_so() {
    let double =
        ComputeDouble::start(Options { operation: Duration::from_secs(60), ..Options::default() }).await;
    let patience =
        Patience { operation: Duration::from_millis(200), answer: Duration::from_secs(1), ..hasty() };
    let credentials = Credentials::token_only(clarateach_gcp::double::TOKEN.to_owned().into());
    let compute =
        Compute::new(Endpoint::new(&double.endpoint()), place(), credentials.into(), patience).unwrap();
    let began = Instant::now();
    let outcome = tokio::time::timeout(
        Duration::from_secs(10),
        compute.complete(&place().insert_instance(&spec("w")), &mut |_| {}),
    )
    .await
    .expect("it gives up");
    assert!(outcome.unwrap_err().to_string().contains("not over"), "{:?}", began.elapsed());
}

#[tokio::test]
async fn nobody_there_is_said_in_one_line() {
    let credentials = Credentials::token_only("t".to_owned().into());
    let endpoint = Endpoint::new("http://127.0.0.1:9/compute/v1");
    let compute = Compute::new(endpoint, place(), credentials.into(), hasty()).unwrap();
    let error = compute.instances(None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let line = error.one_line();
    assert!(
        line.contains("no answer from http://127.0.0.1:9/compute/v1") && line.contains("refused"),
        "{line}"
    );
    assert!(ProjectInZone::new("../other", ZONE).is_err());
}
