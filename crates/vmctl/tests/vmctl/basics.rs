//! Making, looking, stopping, deleting.

use std::process::{Command, Stdio};
use std::time::Duration;

use clarateach_gcp::double::Options;
use clarateach_testkit::wait_for;
use serde_json::Value;

use crate::{Desk, ZONE, finish, vmctl};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_from_birth_to_end() {
    let desk = Desk::new().await;
    let made = desk.ok(&["create", "clara-worker", "--label", "team=teaching", "--tag", "worker"]).await;
    assert!(made.out.starts_with("NAME"), "{made:?}");
    let row: Vec<&str> = made.out.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(&row[..6], ["clara-worker", ZONE, "n2-standard-8", "SPOT", "RUNNING", "yes"]);
    assert!(made.err.contains("creating clara-worker: pending") && made.err.contains("done ("), "{made:?}");

    let listed = desk.ok(&["list", "--label", "team=teaching", "--format", "json"]).await.out;
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap()[0]["name"], "clara-worker");
    assert!(desk.ok(&["list", "--label", "team=other"]).await.out.is_empty());
    let got = desk.ok(&["get", "clara-worker"]).await.out;
    assert!(got.contains("clara-worker (50 GB, boot, goes with the VM)"), "{got}");

    let private = desk.ok(&["create", "private", "--no-external-ip", "--network", "classes"]).await;
    assert!(private.out.lines().nth(1).unwrap().trim_end().ends_with('-'), "{private:?}");
    desk.ok(&["delete", "private", "--yes"]).await;

    desk.ok(&["stop", "clara-worker"]).await;
    assert_eq!(desk.double.instance(ZONE, "clara-worker").unwrap()["status"], "TERMINATED");
    assert!(desk.ok(&["stop", "clara-worker"]).await.err.contains("stopped already"));
    desk.ok(&["start", "clara-worker"]).await;
    let snapshot = desk.ok(&["snapshot", "clara-worker"]).await;
    assert!(snapshot.out.contains("clara-worker-snapshot") && snapshot.out.contains("READY"), "{snapshot:?}");
    assert!(snapshot.err.contains("as after a power failure"), "{snapshot:?}");

    let refused = desk.run(&["delete", "clara-worker"]).await;
    assert_eq!(refused.code, Some(8), "{refused:?}");
    assert!(refused.err.contains("no terminal to ask on"), "{refused:?}");
    assert_eq!(desk.double.instance_names(), ["clara-worker"]);
    desk.ok(&["delete", "clara-worker", "--yes"]).await;
    assert!(desk.double.instance_names().is_empty() && desk.double.disk_names().is_empty());
    assert_eq!(desk.double.snapshot_names(), ["clara-worker-snapshot"]);
}

/// On a terminal the name has to be typed.
#[tokio::test(flavor = "multi_thread")]
async fn deleting_is_confirmed_by_typing_the_name() {
    let desk = Desk::new().await;
    desk.double.put_instance(ZONE, "clara2", "work");
    for (typed, code) in [("yes\n", 8), ("clara2\n", 0)] {
        let inner = desk.command(&["delete", "clara2"]);
        let line = format!("{} delete clara2", inner.get_program().display());
        let mut script = Command::new("/usr/bin/script");
        script.args(["-qec", &line, "/dev/null"]).env_clear().env("TERM", "dumb");
        for (name, value) in inner.get_envs() {
            script.env(name, value.unwrap());
        }
        let mut child =
            script.env("SHELL", "/bin/sh").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let ended = tokio::task::spawn_blocking(move || {
            use std::io::Write;
            let mut input = child.stdin.take().unwrap();
            input.write_all(typed.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            drop(input);
            output
        });
        let ended = ended.await.unwrap();
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(text.contains("Type clara2 to go on"), "{text}");
        assert_eq!(ended.status.code(), Some(code), "{text}");
        assert_eq!(desk.double.instance_names().is_empty(), code == 0, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_token_gets_there_and_is_not_shown() {
    let desk = Desk::new().await;
    let file = desk.home.path().join("token");
    std::fs::write(&file, "a-very-secret-agent-token\n").unwrap();
    let file = file.display().to_string();
    let release = "gs://bucket/release.tar.gz";
    let made = desk
        .ok(&["create", "w", "--agent-token-file", &file, "--release", release, "--format", "json"])
        .await;
    assert!(!format!("{made:?}").contains("very-secret"), "{made:?}");
    let items = desk.double.instance(ZONE, "w").unwrap()["metadata"]["items"].clone();
    let value = |key: &str| {
        let found = items.as_array().unwrap().iter().find(|item| item["key"] == key);
        found.unwrap()["value"].as_str().unwrap().to_owned()
    };
    assert_eq!(value("agent-token"), "a-very-secret-agent-token");
    assert_eq!(value("clarateach-release"), release);
    assert!(value("startup-script").starts_with("#!/bin/bash"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_is_printed_and_followed() {
    let desk = Desk::new().await;
    desk.double.put_instance(ZONE, "clara2", "work");
    desk.double.print(ZONE, "clara2", "booting\n");
    assert_eq!(desk.ok(&["logs", "clara2"]).await.out, "booting\n");
    let following = tokio::spawn(finish(desk.command(&["logs", "clara2", "--follow", "--interval", "0.02"])));
    for number in 0..5 {
        let calls = desk.double.recorded().len();
        desk.double.print(ZONE, "clara2", &format!("line {number}\n"));
        wait_for("two more looks", Duration::from_secs(20), async || {
            (desk.double.recorded().len() > calls + 1).then_some(())
        })
        .await;
    }
    // It ends when the VM does.
    desk.ok(&["delete", "clara2", "--yes"]).await;
    assert_eq!(following.await.unwrap().out, "booting\nline 0\nline 1\nline 2\nline 3\nline 4\n");
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_is_asked() {
    let home = tempfile::tempdir().unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["create", "w", "--machine-type", "e2-standard-8"], "no nested virtualisation"),
        (&["create", "w", "--machine-type", "n2d-standard-8"], "N2D machines have no nested virtualisation"),
        (&["create", "Worker_1"], "can't be a name"),
        (&["create", "w", "--disk-size", "5"], "5"),
        (&["create", "w", "--label", "Team"], "can't be a label"),
        (&["create", "w", "--agent-token-file", "/nowhere"], "/nowhere"),
        (&["list", "--project", "../../other"], "can't be a project"),
        (&["list", "--zone", "us/central"], "can't be a name"),
        (&["list", "--endpoint", "compute.googleapis.com"], "no http:// or https:// URL"),
        (&["delete"], "required"),
        (&["frobnicate"], "unrecognized subcommand"),
    ];
    for (arguments, wanted) in cases {
        let ended = finish(vmctl(arguments, home.path())).await;
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(ended.err.contains(wanted), "{arguments:?}: {ended:?}");
    }
    let mut nowhere = vmctl(&["list"], home.path());
    nowhere.env_remove("GCP_PROJECT");
    let ended = finish(nowhere).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("--project") && ended.err.contains("GCP_PROJECT"), "{ended:?}");
}

#[tokio::test]
async fn gclouds_own_variable_names_the_project_too() {
    let desk = Desk::new().await;
    let mut command = desk.command(&["get", "w"]);
    command.env_remove("GCP_PROJECT").env("CLOUDSDK_CORE_PROJECT", "clarateach").env_remove("GCP_ZONE");
    assert_eq!(finish(command).await.code, Some(3));
    assert_eq!(desk.double.recorded()[0].call, "GET projects/clarateach/zones/us-central1-a/instances/w");
}

/// A machine that was forgotten in another zone costs as much as one here. Pages are as small as they can be.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_of_all_zones_unless_one_is_given() {
    let desk = Desk::with(Options { page: 1, ..Options::default() }).await;
    let there = [("europe-west1-b", "clara2"), (ZONE, "clara2"), (ZONE, "w1"), ("us-central1-f", "w1")];
    for (zone, name) in there {
        desk.double.put_instance(zone, name, "work");
    }
    let listed = |out: &str| -> Vec<(String, String)> {
        let found: Value = serde_json::from_str(out).unwrap();
        let last = |of: &Value| of.as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        found.as_array().unwrap().iter().map(|one| (last(&one["zone"]), last(&one["name"]))).collect()
    };
    let mut all = listed(&desk.ok(&["list", "--format", "json"]).await.out);
    all.sort();
    assert_eq!(all, there.map(|(zone, name)| (zone.to_owned(), name.to_owned())));
    let one = listed(&desk.ok(&["list", "--zone", ZONE, "--format", "json"]).await.out);
    assert_eq!(one.len(), 2, "{one:?}");
    desk.double.cut_off("us-central1-f");
    let without = desk.ok(&["list", "--format", "json"]).await;
    assert_eq!(listed(&without.out).len(), 3);
    assert!(without.err.contains("did not answer") && without.err.contains("us-central1-f"), "{without:?}");
}

#[tokio::test]
async fn completions_are_scripts() {
    let home = tempfile::tempdir().unwrap();
    let ended = finish(vmctl(&["completions", "bash"], home.path())).await;
    assert_eq!(ended.code, Some(0));
    for command in ["create", "verify-kvm", "recreate", "--dry-run"] {
        assert!(ended.out.contains(command), "{command}");
    }
    let file = home.path().join("vmctl.bash");
    std::fs::write(&file, ended.out).unwrap();
    assert!(Command::new("bash").arg("-n").arg(file).status().unwrap().success());
}
