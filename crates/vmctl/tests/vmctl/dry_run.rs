//! `--dry-run`: the handbook's commands, letter by letter, and nothing done.

use crate::{finish, vmctl};

const CREATE: &str = r"
gcloud compute instances create clara-worker \
  --project=clarateach \
  --zone=us-central1-b \
  --machine-type=n2-standard-8 \
  --enable-nested-virtualization \
  --image-family=debian-12 \
  --image-project=debian-cloud \
  --boot-disk-size=50GB \
  --provisioning-model=SPOT \
  --instance-termination-action=STOP
";

const RECREATE: &str = r"
# 1. Snapshot the disk
gcloud compute disks snapshot clara2 \
  --zone=us-central1-b \
  --snapshot-names=clara2-snapshot \
  --project=clarateach

# 2. Delete the VM
gcloud compute instances delete clara2 \
  --zone=us-central1-b \
  --project=clarateach \
  --quiet

# 3. Create new VM from snapshot
gcloud compute instances create clara2 \
  --project=clarateach \
  --zone=us-central1-b \
  --machine-type=n2-standard-8 \
  --enable-nested-virtualization \
  --create-disk=boot=yes,source-snapshot=clara2-snapshot,size=50GB,auto-delete=yes \
  --provisioning-model=SPOT \
  --instance-termination-action=STOP
";

const VERIFY: &str = r"
gcloud compute ssh clara2 --zone=us-central1-b --project=clarateach
ls -la /dev/kvm  # Should exist
";

/// Without credentials and without anybody to call.
async fn shown(arguments: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut command = vmctl(arguments, home.path());
    command.env("GCP_API_URL", "http://127.0.0.1:9/compute/v1").arg("--dry-run");
    let ended = finish(command).await;
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    assert!(!home.path().join(".local").exists());
    ended.out
}

#[tokio::test]
async fn the_documented_flows() {
    let create = shown(&["create", "clara-worker"]).await;
    assert!(create.contains(CREATE), "{create}");
    let post = "POST http://127.0.0.1:9/compute/v1/projects/clarateach/zones/us-central1-b/instances?requestId=UUID\n{";
    assert!(create.contains(post) && create.contains(r#""enableNestedVirtualization": true"#), "{create}");
    let recreate = shown(&["recreate", "clara2"]).await;
    assert!(recreate.contains(RECREATE), "{recreate}");
    let rest: Vec<&str> = recreate
        .lines()
        .filter(|line| ["GET ", "POST ", "DELETE "].iter().any(|verb| line.starts_with(verb)))
        .map(|line| line.split("/clarateach/").nth(1).unwrap().split('?').next().unwrap())
        .collect();
    assert_eq!(
        rest,
        [
            "zones/us-central1-b/instances/clara2/stop",
            "zones/us-central1-b/disks/clara2/createSnapshot",
            "global/snapshots/clara2-snapshot",
            "zones/us-central1-b/instances/clara2",
            "zones/us-central1-b/instances"
        ]
    );
    let verify = shown(&["verify-kvm", "clara2"]).await;
    assert!(verify.contains(VERIFY), "{verify}");
}

#[tokio::test]
async fn every_command_can_be_shown() {
    for arguments in [
        &["list", "--label", "a=b"][..],
        &["get", "w"],
        &["start", "w", "v"],
        &["stop", "w"],
        &["delete", "w"],
        &["ssh", "w", "--internal-ip"],
        &["snapshot", "w"],
        &["logs", "w", "--follow"],
    ] {
        let text = shown(arguments).await;
        assert!(text.contains("# gcloud\ngcloud compute "), "{arguments:?}: {text}");
    }
    let json = shown(&["delete", "w", "--format", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["rest"][0].as_str().unwrap().starts_with("DELETE http"), "{json}");
}

#[tokio::test]
async fn secrets_are_not_shown() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    std::fs::write(&file, "a-very-secret-agent-token\n").unwrap();
    let file = file.display().to_string();
    let text =
        shown(&["create", "w", "--agent-token-file", &file, "--release", "gs://bucket/release.tar.gz"]).await;
    assert!(!text.contains("very-secret"), "{text}");
    assert!(text.contains("startup-script=deploy/startup-worker.sh"), "{text}");
}
