//! `ssh` and `verify-kvm`, with programs that write down how they were called.

use std::path::{Path, PathBuf};

use crate::{Desk, ZONE};

fn called(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// A program that writes its arguments down, prints, and ends with a status.
fn recorder(desk: &Desk, name: &str, prints: &str, status: u8) -> PathBuf {
    let log = desk.home.path().join(format!("{name}.log"));
    desk.install(name, &format!("echo \"$@\" >> '{}'\necho '{prints}'\nexit {status}", log.display()));
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn kvm_is_told_by_the_exit_code() {
    let desk = Desk::new().await;
    desk.ok(&["create", "clara2"]).await;
    let node = "crw-rw---- 1 root kvm 10, 232 Nov 23 10:00 /dev/kvm";
    let log = recorder(&desk, "gcloud", node, 0);
    let ended = desk.ok(&["verify-kvm", "clara2"]).await;
    assert!(ended.out.contains(node) && ended.out.contains("has /dev/kvm"), "{ended:?}");
    let wanted = "compute ssh clara2 --zone=us-central1-b --project=clarateach --command=ls -la /dev/kvm\n";
    assert_eq!(called(&log), wanted);
    recorder(&desk, "gcloud", "", 2);
    assert_eq!(desk.run(&["verify-kvm", "clara2"]).await.code, Some(9));
    recorder(&desk, "gcloud", "", 255);
    let ended = desk.run(&["verify-kvm", "clara2"]).await;
    assert!(ended.code == Some(1) && ended.err.contains("could not reach"), "{ended:?}");

    desk.double.put_instance(ZONE, "old", "work");
    recorder(&desk, "gcloud", "", 2);
    let ended = desk.run(&["verify-kvm", "old"]).await;
    assert!(ended.code == Some(9) && ended.err.contains("vmctl recreate old"), "{ended:?}");
    desk.ok(&["stop", "old"]).await;
    let ended = desk.run(&["verify-kvm", "old"]).await;
    assert!(ended.code == Some(1) && ended.err.contains("vmctl start old"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_goes_by_gcloud_or_to_an_address() {
    let desk = Desk::new().await;
    desk.ok(&["create", "clara2"]).await;
    let none = desk.run(&["ssh", "clara2"]).await;
    assert!(none.code == Some(1) && none.err.contains("neither gcloud nor ssh"), "{none:?}");
    let log = recorder(&desk, "ssh", "hello", 7);
    let ended = desk.run(&["ssh", "clara2", "--internal-ip", "--user", "root", "--", "uname", "-r"]).await;
    assert_eq!((ended.code, ended.out.trim()), (Some(7), "hello"), "its status is ours: {ended:?}");
    let instance = desk.double.instance(ZONE, "clara2").unwrap();
    let address = instance["networkInterfaces"][0]["networkIP"].as_str().unwrap();
    assert!(called(&log).ends_with(&format!("-- root@{address} uname -r\n")), "{}", called(&log));
    let log = recorder(&desk, "gcloud", "hello", 0);
    desk.ok(&["ssh", "clara2", "--internal-ip"]).await;
    let wanted = "compute ssh clara2 --zone=us-central1-b --project=clarateach --internal-ip\n";
    assert_eq!(called(&log), wanted);
}
