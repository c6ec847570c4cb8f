use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use clarateach_ids::{Generation, MacAddr, SeatNumber};
use clarateach_runtime::{Egress, ImageRef, Reason};
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::config::Readiness;
use crate::net::Slot;
use crate::vm::Phase;
use crate::vmm::{VmProcess, VmSpec};

fn record(instance: &str, seat: u32) -> Record {
    let address = Ipv4Addr::new(192, 168, 100, 10);
    Record {
        workshop: "w".parse().unwrap(),
        seat: SeatNumber::new(seat).unwrap(),
        generation: Generation(1),
        slot: Slot {
            address,
            tap: "ct".to_owned(),
            mac: MacAddr::of_ipv4(address),
            egress: Egress::Internet,
        },
        spec: VmSpec {
            instance: instance.to_owned(),
            run_dir: "/run".into(),
            console: "/console".into(),
            vcpus: 1,
            memory_mb: 1,
            kernel: "/vmlinux".into(),
            initramfs: None,
            kernel_args: String::new(),
            drives: Vec::new(),
            nic: None,
            control: true,
        },
        image: ImageRef("default".to_owned()),
        base: "b".to_owned(),
        upper: "/upper".into(),
        disk_mb: 1,
        env: BTreeMap::from([("NEWLINE".to_owned(), "a\nb".to_owned())]),
        secret: "hush".to_owned(),
        not_after: None,
        readiness: Readiness::Health,
        created_at: Timestamp::UNIX_EPOCH,
        phase: Phase::Making,
        reason: None,
        process: None,
    }
}

fn process(pid: i32) -> VmProcess {
    VmProcess { pid, start_ticks: 1, boot_id: "boot".to_owned() }
}

fn intended(instance: &str) -> Event {
    Event::Intended(Box::new(record(instance, 1)))
}

fn phase(instance: &str, phase: Phase) -> Event {
    let reason = (phase == Phase::Stopped).then(|| Reason::new("X", "x"));
    Event::Phase { instance: instance.to_owned(), phase, reason }
}

fn found(path: &Path) -> HashMap<String, Record> {
    let opened = Journal::open(path).unwrap();
    opened.records.into_iter().map(|record| (record.instance().to_owned(), record)).collect()
}

#[tokio::test]
async fn what_was_written_is_found_by_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = Journal::open(&path).unwrap().journal;
    let number = journal.write(intended("a")).unwrap();
    journal.synced(number).await.unwrap();
    journal.write(Event::Spawned { instance: "a".to_owned(), process: process(7) }).unwrap();
    journal.write(phase("a", Phase::Live)).unwrap();
    journal.write(intended("b")).unwrap();
    journal.write(phase("b", Phase::Stopped)).unwrap();
    journal.write(intended("c")).unwrap();
    journal.write(Event::Gone { instance: "c".to_owned() }).unwrap();
    drop(journal);
    let records = found(&path);
    assert_eq!(records.len(), 2);
    assert_eq!((records["a"].phase, &records["a"].process), (Phase::Live, &Some(process(7))));
    assert_eq!(records["a"].env["NEWLINE"], "a\nb");
    assert_eq!(records["b"].reason, Some(Reason::new("X", "x")));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "it holds secrets");
    assert!(!format!("{:?}", records["a"]).contains("hush"));
}

#[tokio::test]
async fn a_closed_journal_takes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(&directory.path().join("journal")).unwrap().journal;
    journal.close();
    assert!(journal.write(intended("a")).is_err());
    assert!(journal.synced(1).await.is_err());
}

#[tokio::test]
async fn a_long_history_is_made_short() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = Journal::open(&path).unwrap().journal;
    journal.write(intended("kept")).unwrap();
    for _ in 0..SMALL_LOG {
        journal.write(phase("kept", Phase::Live)).unwrap();
    }
    let last = journal.write(phase("kept", Phase::Booting)).unwrap();
    journal.synced(last).await.unwrap();
    let lines = fs::read_to_string(&path).unwrap().lines().count();
    assert!(lines < 10, "{lines} lines");
    assert_eq!(found(&path)["kept"].phase, Phase::Booting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_wait_for_one_sync_and_all_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = Journal::open(&path).unwrap().journal;
    let writers = (0..100).map(|number| {
        let journal = journal.clone();
        tokio::spawn(async move {
            let number = journal.write(intended(&format!("vm-{number}"))).unwrap();
            journal.synced(number).await.unwrap();
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(found(&path).len(), 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to the file's bytes, it opens; a VM none of whose lines was touched is as it was.
    #[test]
    fn damage_stays_where_it_is(at in 0_usize..4000, with: Vec<u8>, cut: bool) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let names = ["a", "b", "c", "d"];
        {
            let journal = Journal::open(&path).unwrap().journal;
            for name in names {
                journal.write(intended(name)).unwrap();
            }
            for name in names {
                journal.write(phase(name, Phase::Live)).unwrap();
            }
        }
        let sound = fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        let at = at.min(bytes.len());
        let end = if cut { bytes.len() } else { (at + with.len()).min(bytes.len()) };
        bytes.splice(at..end, with);
        fs::write(&path, &bytes).unwrap();
        let records = found(&path);
        let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
            bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
        };
        let (before, after) = (lines(&sound), lines(&bytes));
        for (number, name) in names.iter().enumerate() {
            if after.contains(&before[number]) && after.contains(&before[number + 4]) {
                prop_assert_eq!(records[*name].phase, Phase::Live);
            }
        }
        // What it was made of is what it stays: opening it again finds the same.
        prop_assert_eq!(found(&path).len(), records.len());
    }
}
