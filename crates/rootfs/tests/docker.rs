//! Images of the Docker daemon, and Dockerfiles.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::process::Command;

use support::layer::base;
use support::{Bench, have, refused, run, skip};

fn have_daemon(test: &str) -> bool {
    let out = Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output();
    let there = out.is_ok_and(|out| out.status.success());
    if !there {
        skip(test, "no Docker daemon answers (apt install docker.io; dockerd)");
    }
    there
}

/// An image in the daemon, removed when dropped.
struct Named(String);

impl Named {
    fn new(what: &str) -> Self {
        Self(format!("clarateach-rootfs-test-{what}-{}:latest", std::process::id()))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "--force", &self.0]).output();
    }
}

fn import(bench: &Bench, name: &Named) {
    let tar = bench.path("import.tar");
    fs::write(&tar, base().file("x", vec![7; 500_000]).done()).unwrap();
    run(Command::new("docker").arg("import").arg(&tar).arg(&name.0));
}

#[test]
fn an_image_of_the_daemon_is_the_same_as_its_saved_archive() {
    const NAME: &str = "an_image_of_the_daemon_is_the_same_as_its_saved_archive";
    if !have_daemon(NAME) {
        return;
    }
    let bench = Bench::new();
    let name = Named::new("import");
    import(&bench, &name);
    let (by_name, by_archive) = (bench.out().join("name.ext4"), bench.out().join("archive.ext4"));
    run(bench.builder(&name.0, &by_name).args(["--size", "64M"]));
    let archive = bench.path("saved.tar");
    run(Command::new("docker").arg("save").arg("--output").arg(&archive).arg(&name.0));
    run(bench.builder(&format!("docker-archive:{}", archive.display()), &by_archive).args(["--size", "64M"]));
    assert!(fs::read(&by_name).unwrap() == fs::read(&by_archive).unwrap());
    if have(NAME, "e2fsck", "e2fsprogs") {
        support::fsck(&by_name);
    }
    // Without access to the daemon's store, as for anybody but root, the API gives the same.
    if rustix::process::geteuid().is_root() && have(NAME, "setpriv", "util-linux") {
        use std::os::unix::fs::PermissionsExt;
        let builder = bench.path("rootfs-builder");
        fs::copy(env!("CARGO_BIN_EXE_rootfs-builder"), &builder).unwrap();
        for path in [bench.dir.path().to_owned(), bench.out(), builder.clone()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let by_api = bench.out().join("api.ext4");
        let group = fs::metadata("/var/run/docker.sock")
            .map(|socket| std::os::unix::fs::MetadataExt::gid(&socket))
            .unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", &format!("--groups={group}")]).arg(&builder);
        command.arg("--image").arg(&name.0).arg("--output").arg(&by_api).args(["--size", "64M"]);
        run(command.env("CLARATEACH_CACHE_DIR", "off"));
        assert!(fs::read(&by_name).unwrap() == fs::read(&by_api).unwrap());
    }
    let again = run(bench.builder(&name.0, &by_name).args(["--size", "64M"]));
    assert!(again.contains("unchanged"), "{again}");
    let missing = bench.builder("docker:clarateach-rootfs-test-no-such-image", &by_name).output().unwrap();
    refused(&missing, 3, &["clarateach-rootfs-test-no-such-image", "not found in the Docker daemon"]);
}

#[test]
fn a_dockerfile_is_built_and_named() {
    const NAME: &str = "a_dockerfile_is_built_and_named";
    if !have_daemon(NAME) || !have(NAME, "debugfs", "e2fsprogs") {
        return;
    }
    let bench = Bench::new();
    let (from, name) = (Named::new("from"), Named::new("built"));
    import(&bench, &from);
    let context = bench.path("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("lesson.txt"), "the lesson").unwrap();
    fs::write(context.join("Dockerfile"), format!("FROM {}\nCOPY lesson.txt /lesson.txt\n", from.0)).unwrap();
    let output = bench.out().join("rootfs.ext4");
    let dockerfile = context.join("Dockerfile");
    let build = |image: Option<&str>| {
        let mut command = match image {
            Some(image) => bench.builder(image, &output),
            None => {
                let mut command = Command::new(bench.executable());
                command.arg("--output").arg(&output).env("CLARATEACH_CACHE_DIR", bench.path("cache"));
                command
            }
        };
        command.arg("--dockerfile").arg(&dockerfile).args(["--size", "64M"]);
        command
    };
    run(&mut build(Some(&name.0)));
    support::fsck(&output);
    assert!(run(Command::new("debugfs").args(["-R", "cat /lesson.txt"]).arg(&output)).contains("the lesson"));
    run(Command::new("docker").args(["image", "inspect", &name.0]));
    let again = run(&mut build(None));
    assert!(again.contains("unchanged"), "{again}");

    fs::write(&dockerfile, "FROM scratch\nCOPY nothing /\n").unwrap();
    refused(&build(None).output().unwrap(), 3, &["docker build failed", "nothing"]);
    fs::remove_file(&dockerfile).unwrap();
    refused(&build(None).output().unwrap(), 3, &["Dockerfile", "no such file"]);
}
