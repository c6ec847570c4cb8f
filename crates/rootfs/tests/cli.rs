//! The tool as a user meets it: what it makes, what it refuses, what it leaves behind.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clarateach_rootfs::Digest;
use support::layer::{Layer, base};
use support::oci::{
    Store, blob_path, compress, config, descriptor, docker_archive, index, layout, manifest, put,
};
use support::{Bench, Mount, can_mount, fsck, have, names, refused, run};

/// A layout at `oci` with these plain layers; its name for `--image`.
fn oci(bench: &Bench, layers: &[Vec<u8>]) -> String {
    let dir = bench.path("oci");
    layout(&dir, &layers.iter().map(|layer| (layer.clone(), Store::Plain)).collect::<Vec<_>>());
    format!("oci:{}", dir.display())
}

fn debugfs(image: &Path, request: &str) -> String {
    run(Command::new("debugfs").args(["-R", request]).arg(image))
}

#[test]
fn every_source_and_compression_gives_the_same_bytes() {
    let bench = Bench::new();
    let layers = vec![
        base().file("data", vec![7; 300_000]).done(),
        Layer::new().file("etc/motd", "hello").whiteout("data").done(),
        Layer::new().dir("home/", 0o755).done(),
    ];
    let mut sums = Vec::new();
    let mut build = |image: String| {
        let output = bench.out().join("rootfs.ext4");
        run(bench.builder(&image, &output).args(["--size", "64M"]));
        sums.push(Digest::of(&fs::read(&output).unwrap()));
        if sums.len() == 1 && have("every_source_and_compression_gives_the_same_bytes", "e2fsck", "e2fsprogs")
        {
            fsck(&output);
            assert!(debugfs(&output, "cat /etc/motd").contains("hello"));
            assert!(!debugfs(&output, "ls /").contains("data"));
        }
        fs::remove_file(output).unwrap();
    };
    for stores in
        [[Store::Plain; 3], [Store::Gzip; 3], [Store::Zstd; 3], [Store::Gzip, Store::Plain, Store::Zstd]]
    {
        let dir = bench.path(&format!("oci-{stores:?}"));
        layout(&dir, &layers.iter().cloned().zip(stores).collect::<Vec<_>>());
        build(format!("oci:{}", dir.display()));
    }
    let archive = bench.path("saved.tar");
    docker_archive(&archive, &layers);
    build(format!("docker-archive:{}", archive.display()));
    let piped = bench.out().join("piped.ext4");
    let mut builder = bench.builder("docker-archive:/dev/stdin", &piped);
    let line = "exec cat \"$0\" | \"$@\"";
    let mut shell = Command::new("sh");
    shell
        .args(["-c", line])
        .arg(&archive)
        .arg(builder.get_program())
        .args(builder.get_args())
        .args(["--size", "64M"]);
    run(shell.env("CLARATEACH_CACHE_DIR", bench.path("cache")));
    builder.env_clear();
    fs::remove_file(piped).unwrap();
    let packed = bench.path("saved.tar.gz");
    fs::write(&packed, compress(&fs::read(&archive).unwrap(), Store::Gzip)).unwrap();
    for _known in [false, true] {
        build(format!("docker-archive:{}", packed.display()));
    }
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
}

#[test]
fn surroundings_do_not_change_a_byte() {
    let bench = Bench::new();
    let image = oci(&bench, &[base().file("x", vec![1; 100_000]).done()]);
    let (one, two) = (bench.out().join("one.ext4"), bench.out().join("two.ext4"));
    run(bench.builder(&image, &one).args(["--size", "64M"]));
    let scratch = bench.path("scratch");
    fs::create_dir(&scratch).unwrap();
    let builder = bench.executable();
    let builder = builder.to_str().unwrap();
    let line = format!("umask 077; exec {builder} --image {image} --output {} --size 64M", two.display());
    run(Command::new("sh").args(["-c", &line]).env_clear().envs([
        ("TMPDIR", scratch.to_str().unwrap()),
        ("LC_ALL", "tr_TR.UTF-8"),
        ("TZ", "Asia/Kathmandu"),
        ("CLARATEACH_CACHE_DIR", "off"),
        ("PATH", "/usr/bin:/bin"),
    ]));
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap());
    assert_eq!(two.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    assert!(names(&scratch).is_empty());
}

#[test]
fn a_compressed_archive_is_unpacked_once_and_within_bounds() {
    let bench = Bench::new();
    let packed = bench.path("saved.tar.gz");
    let save = |content: Vec<u8>| {
        let archive = bench.path("saved.tar");
        docker_archive(&archive, &[base().file("x", content).done()]);
        fs::write(&packed, compress(&fs::read(&archive).unwrap(), Store::Gzip)).unwrap();
    };
    let output = bench.out().join("rootfs.ext4");
    let build = || {
        let image = format!("docker-archive:{}", packed.display());
        let mut builder = bench.builder(&image, &output);
        let said = run(builder.args(["--size", "64M", "--format", "json"]));
        serde_json::from_str::<serde_json::Value>(&said).unwrap()
    };
    save(vec![1; 100_000]);
    let first = build();
    assert_eq!(first["unchanged"], false);
    // No file of more than 8 KiB may be written: it is not unpacked again.
    let image = format!("docker-archive:{}", packed.display());
    let builder = bench.builder(&image, &output);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "ulimit -f 16; exec \"$0\" \"$@\""])
        .arg(builder.get_program())
        .args(builder.get_args());
    shell.args(["--size", "64M", "--format", "json"]).env("CLARATEACH_CACHE_DIR", bench.path("cache"));
    let again: serde_json::Value = serde_json::from_str(&run(shell.env_remove("WORKSPACE_BIN"))).unwrap();
    assert_eq!(again["unchanged"], true);
    let modified = packed.metadata().unwrap().modified().unwrap();
    save(vec![2; 100_000]);
    fs::File::options().append(true).open(&packed).unwrap().set_modified(modified).unwrap();
    let second = build();
    assert_eq!(second["unchanged"], false, "another archive of the same age");
    assert_ne!(first["digest"], second["digest"]);

    // 1 GiB and four times the size of zeros, in a few hundred KiB.
    let bomb = bench.path("bomb.tar.zst");
    let mut encoder = zstd::Encoder::new(fs::File::create(&bomb).unwrap(), 1).unwrap();
    std::io::copy(&mut std::io::repeat(0).take((1 << 30) + (4 << 20) + 1), &mut encoder).unwrap();
    encoder.finish().unwrap();
    let mut builder = bench.builder(&format!("docker-archive:{}", bomb.display()), &output);
    refused(&builder.args(["--size", "1M"]).output().unwrap(), 4, &["unpacks to more than", "--size"]);
}

#[test]
fn an_unchanged_image_is_not_built_again() {
    let bench = Bench::new();
    let image = oci(&bench, &[base().done()]);
    let output = bench.out().join("rootfs.ext4");
    let json = |image: &str, size: &str| -> serde_json::Value {
        let text = run(bench.builder(image, &output).args(["--format", "json", "--size", size]));
        serde_json::from_str(&text).unwrap()
    };
    let first = json(&image, "64M");
    assert_eq!(first["unchanged"], false);
    assert_eq!(first["size"], 64 << 20);
    assert_eq!(first["layers"], 1);
    assert_eq!(first["init"], "the image's own");
    let inode = output.metadata().unwrap().ino();

    let start = Instant::now();
    let again = json(&image, "64M");
    let took = start.elapsed();
    assert_eq!(again["unchanged"], true);
    assert_eq!(again["used"], first["used"]);
    assert_eq!(output.metadata().unwrap().ino(), inode);
    assert!(took < Duration::from_millis(500), "{took:?}");

    // Another size, a file that was written to, and another image: each is built.
    assert_eq!(json(&image, "65M")["unchanged"], false);
    let file = fs::OpenOptions::new().write(true).open(&output).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 4096 * 100).unwrap();
    drop(file);
    assert_eq!(json(&image, "65M")["unchanged"], false);
    assert_eq!(json(&image, "65M")["unchanged"], true);
    fs::remove_dir_all(bench.path("oci")).unwrap();
    let other = oci(&bench, &[base().done(), Layer::new().file("new", "layer").done()]);
    assert_eq!(json(&other, "65M")["unchanged"], false);
    assert_eq!(names(&bench.out()), ["rootfs.ext4"]);
}

#[test]
fn a_damaged_cache_is_noticed_and_mended() {
    let bench = Bench::new();
    let dir = bench.path("oci");
    let layer = base().file("x", vec![1; 100_000]).done();
    layout(&dir, &[(layer.clone(), Store::Gzip)]);
    let image = format!("oci:{}", dir.display());
    let output = bench.out().join("rootfs.ext4");
    run(bench.builder(&image, &output).args(["--size", "64M"]));
    let kept = bench.path("cache/layers").join(Digest::of(&layer).hex());
    let mut bytes = fs::read(&kept).unwrap();
    assert!(bytes == layer);
    bytes[5000] ^= 1;
    fs::write(&kept, bytes).unwrap();
    fs::remove_file(&output).unwrap();
    let text = run(bench.builder(&image, &output).args(["--size", "64M", "--verbose"]));
    assert!(text.contains("built"), "{text}");
    assert!(fs::read(&kept).unwrap() == layer);
}

#[test]
fn a_plain_layer_that_changes_after_it_was_checked_is_noticed() {
    let bench = Bench::new();
    let dir = bench.path("oci");
    let layer = base().file("x", vec![1; 100_000]).done();
    let digests = layout(&dir, &[(layer.clone(), Store::Plain)]);
    let image = format!("oci:{}", dir.display());
    let output = bench.out().join("rootfs.ext4");
    run(bench.builder(&image, &output).args(["--size", "64M"]));
    let path = blob_path(&dir, &digests[0]);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let before = file.metadata().unwrap().modified().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"!", 10_000).unwrap();
    // Whoever hides the change can set the modification time, but not the change time.
    file.set_modified(before).unwrap();
    let out = bench.builder(&image, &output).args(["--size", "65M"]).output().unwrap();
    refused(&out, 4, &["its digest is", "damaged"]);
}

#[test]
fn init_users_and_mount_points_are_added_where_they_are_missing() {
    const NAME: &str = "init_users_and_mount_points_are_added_where_they_are_missing";
    if !have(NAME, "debugfs", "e2fsprogs") {
        return;
    }
    let bench = Bench::new();
    let workspace = bench.path("workspace-binary");
    fs::write(&workspace, "the workspace").unwrap();
    let bare = Layer::new()
        .dir("usr/", 0o755)
        .dir("usr/sbin/", 0o755)
        .symlink("sbin", "usr/sbin")
        .dir("etc/", 0o755)
        .file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nlearner:x:5:5::/:/bin/false\n")
        .file("etc/hosts", "")
        .file("etc/resolv.conf", "nameserver 9.9.9.9\n");
    let image = oci(&bench, &[bare.done()]);
    let output = bench.out().join("rootfs.ext4");
    let out = bench
        .builder(&image, &output)
        .args(["--size", "64M", "--verbose"])
        .env("WORKSPACE_BIN", &workspace)
        .output();
    let said = String::from_utf8(out.unwrap().stderr).unwrap();
    fsck(&output);
    for line in [
        "/sbin/init: points to /sbin/clarateach-init",
        "user learner1: added",
        "/etc/hosts: was empty",
        "/workspace: added",
    ] {
        assert!(said.contains(line), "{line:?} is not in {said}");
    }
    assert!(debugfs(&output, "cat /usr/sbin/clarateach-init").contains("the workspace"));
    assert!(debugfs(&output, "stat /usr/sbin/init").contains("Fast link dest: \"clarateach-init\""));
    assert!(debugfs(&output, "stat /usr/sbin/clarateach-init").contains("Mode:  0755"));
    assert!(
        debugfs(&output, "cat /etc/passwd").contains("learner1:x:1000:1000:learner1:/workspace:/bin/sh\n")
    );
    assert!(debugfs(&output, "cat /etc/group").contains("x:1000:"));
    assert!(debugfs(&output, "cat /etc/hosts").contains("localhost"));
    assert!(debugfs(&output, "cat /etc/resolv.conf").contains("9.9.9.9"));
    assert!(debugfs(&output, "stat /workspace").contains("User:  1000   Group:  1000"));
    for point in ["/proc", "/sys", "/dev", "/dev/pts", "/tmp", "/run"] {
        assert!(debugfs(&output, &format!("stat {point}")).contains("Type: directory"), "{point}");
    }
    assert!(debugfs(&output, "stat /tmp").contains("Mode:  01777"));
}

#[test]
fn an_image_s_own_init_and_users_are_kept() {
    if !have("an_image_s_own_init_and_users_are_kept", "debugfs", "e2fsprogs") {
        return;
    }
    let bench = Bench::new();
    let own = base().file("etc/passwd", "root:x:0:0::/:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n");
    let image = oci(&bench, &[own.done()]);
    let output = bench.out().join("rootfs.ext4");
    run(bench.builder(&image, &output).args(["--size", "64M"]));
    assert!(debugfs(&output, "cat /sbin/init").contains("#!/bin/sh"));
    assert!(!debugfs(&output, "cat /etc/passwd").contains("learner"));

    let script = bench.path("my-init");
    fs::write(&script, "#!/bin/sh\nexec mine\n").unwrap();
    run(bench.builder(&image, &output).args(["--size", "64M", "--init-script"]).arg(&script));
    assert!(debugfs(&output, "cat /sbin/init").contains("exec mine"));
    assert!(debugfs(&output, "stat /sbin/init").contains("Mode:  0755"));
    fsck(&output);
}

#[test]
fn an_init_behind_a_long_link_is_the_image_s_own() {
    if !have("an_init_behind_a_long_link_is_the_image_s_own", "debugfs", "e2fsprogs") {
        return;
    }
    let bench = Bench::new();
    let store = "nix/store/0123456789abcdefghijklmnopqrstuv-systemd-256.7/lib/systemd";
    let layer = Layer::new()
        .executable(&format!("{store}/systemd"), "an init")
        .symlink("sbin/init", &format!("/{store}/systemd"));
    let image = oci(&bench, &[layer.done()]);
    let output = bench.out().join("rootfs.ext4");
    let workspace = bench.path("workspace-binary");
    fs::write(&workspace, "the workspace").unwrap();
    let said = run(bench
        .builder(&image, &output)
        .args(["--size", "64M", "--format=json"])
        .env("WORKSPACE_BIN", &workspace));
    assert!(said.contains("the image's own"), "{said}");
    assert!(debugfs(&output, "cat /sbin/init").contains(store));
    fsck(&output);
}

#[test]
fn user_databases_of_a_directory_that_is_replaced_go_with_it() {
    let bench = Bench::new();
    let layer = Layer::new()
        .file("etc/passwd", "root:x:0:0::/:/bin/sh\n")
        .file("etc/hosts", "")
        .file("etc", "no directory")
        .dir("etc/", 0o755)
        .file("etc/motd", "hello");
    let image = oci(&bench, &[layer.done()]);
    let output = bench.out().join("rootfs.ext4");
    run(bench.builder(&image, &output).args(["--size", "64M"]));
    if have("user_databases_of_a_directory_that_is_replaced_go_with_it", "debugfs", "e2fsprogs") {
        fsck(&output);
        assert!(debugfs(&output, "cat /etc/passwd").contains("learner"));
        assert!(debugfs(&output, "cat /etc/hosts").contains("localhost"));
    }
}

#[test]
fn attributes_that_linux_has_no_place_for_are_left_out_with_a_warning() {
    if !have("attributes_that_linux_has_no_place_for_are_left_out_with_a_warning", "debugfs", "e2fsprogs") {
        return;
    }
    let bench = Bench::new();
    let layer = base()
        .pax("SCHILY.xattr.com.apple.provenance", "x")
        .file("from-a-mac", "x")
        .pax("SCHILY.xattr.user.note", "kept")
        .file("noted", "x");
    let image = oci(&bench, &[layer.done()]);
    let output = bench.out().join("rootfs.ext4");
    let out = bench.builder(&image, &output).args(["--size", "64M"]).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success() && said.contains("com.apple.provenance"), "{said}");
    assert!(debugfs(&output, "ea_list /noted").contains("user.note"));
    assert!(!debugfs(&output, "ea_list /from-a-mac").contains("apple"));
    fsck(&output);
}

#[test]
fn nobody_need_read_what_is_said_and_nothing_in_it_commands_the_terminal() {
    let bench = Bench::new();
    let layer = base().hard_link("\u{1b}[2Jwiped", "nowhere");
    let image = oci(&bench, &[layer.done()]);
    let output = bench.out().join("rootfs.ext4");
    let out = bench.builder(&image, &output).args(["--size", "64M"]).output().unwrap();
    refused(&out, 4, &["[2Jwiped", "not there"]);
    assert!(!out.stderr.contains(&0x1b));

    let image = oci(&bench, &[base().done()]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = bench.builder(&image, &output);
    command.args(["--size", "64M", "--verbose"]).stderr(writer.try_clone().unwrap()).stdout(writer);
    assert!(command.status().unwrap().success());
    assert!(output.is_file());
}

#[test]
fn an_empty_image_becomes_bootable_as_well() {
    if !have("an_empty_image_becomes_bootable_as_well", "debugfs", "e2fsprogs") {
        return;
    }
    let bench = Bench::new();
    let image = oci(&bench, &[]);
    let output = bench.out().join("rootfs.ext4");
    let workspace = bench.path("workspace-binary");
    fs::write(&workspace, "the workspace").unwrap();
    run(bench.builder(&image, &output).args(["--size", "16M"]).env("WORKSPACE_BIN", &workspace));
    fsck(&output);
    assert!(debugfs(&output, "cat /etc/passwd").contains("root:x:0:0"));
    assert!(debugfs(&output, "ls /sbin").contains("init"));
}

#[test]
fn path_tricks_stay_inside() {
    if !have("path_tricks_stay_inside", "debugfs", "e2fsprogs") {
        return;
    }
    let bench = Bench::new();
    let victim = bench.path("victim");
    fs::write(&victim, "untouched").unwrap();
    let absolute = victim.to_str().unwrap();
    let tricky = base()
        .file(absolute, "absolute")
        .symlink("way-out", bench.dir.path().to_str().unwrap())
        .file("way-out/victim", "through a symbolic link")
        .symlink("etc2", "etc")
        .file("etc2/passwd", "through a symbolic link")
        .file("twice", "first")
        .file("twice", "second")
        .hard_link("forward", "later")
        .file("later", "linked")
        .dir("lost+found/", 0o700);
    let image = oci(&bench, &[tricky.done()]);
    let output = bench.out().join("rootfs.ext4");
    run(bench.builder(&image, &output).args(["--size", "64M"]));
    fsck(&output);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert!(debugfs(&output, &format!("cat {absolute}")).contains("absolute"));
    assert!(debugfs(&output, "stat /way-out").contains("Type: directory"));
    assert!(debugfs(&output, "cat /etc/passwd").starts_with("root:"));
    assert!(debugfs(&output, "cat /twice").contains("second"));
    assert!(debugfs(&output, "cat /forward").contains("linked"));
}

#[test]
fn broken_and_malicious_layers_are_refused() {
    let bench = Bench::new();
    let output = bench.out().join("rootfs.ext4");
    fs::write(&output, "the old one").unwrap();
    let cut = {
        let mut tar = base().file("big", vec![3; 50_000]).done();
        tar.truncate(20_000);
        tar
    };
    let cases: [(&str, Vec<u8>, &[&str]); 9] = [
        ("dots", base().file("../../escape", "x").done(), &["layer 1", "'..'"]),
        ("link-dots", base().hard_link("x", "../../etc/shadow").done(), &["'..'"]),
        ("missing", base().hard_link("x", "nowhere").done(), &["x", "nowhere", "not there"]),
        ("directory-link", base().hard_link("x", "etc").done(), &["etc"]),
        ("absurd", base().lying_file("x", 1 << 50), &["layer 1"]),
        ("longer", base().lying_file("x", 5000), &["ends within a file"]),
        ("cut", cut, &["ends"]),
        ("no-tar", vec![0x41; 4096], &["not a tar header"]),
        ("long-name", base().file(&"n".repeat(300), "x").done(), &["255 bytes"]),
    ];
    for (name, layer, parts) in cases {
        let dir = bench.path(name);
        layout(&dir, &[(layer, Store::Plain)]);
        let out = bench
            .builder(&format!("oci:{}", dir.display()), &output)
            .args(["--size", "64M"])
            .output()
            .unwrap();
        refused(&out, 4, parts);
    }
    assert_eq!(fs::read_to_string(&output).unwrap(), "the old one");
    assert_eq!(names(&bench.out()), ["rootfs.ext4"]);
}

#[test]
fn a_decompression_bomb_stops_at_its_limit() {
    let bench = Bench::new();
    let dir = bench.path("oci");
    // 1.25 GiB of zeros in one file of the layer, for a filesystem of 16 MiB: more than 4 x 16 MiB + 1 GiB.
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let header = base().lying_file("bomb", 5 << 28);
    std::io::Write::write_all(&mut packed, &header[..header.len() - 512]).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..1280 {
        std::io::Write::write_all(&mut packed, &zeros).unwrap();
    }
    let blob = packed.finish().unwrap();
    let digest = put(&dir, &blob);
    let config = config(&[Digest::of(b"never reached").to_string()]);
    let config_digest = put(&dir, &config);
    let json =
        manifest(&descriptor("c", &config_digest, config.len()), &[descriptor("l", &digest, blob.len())]);
    let manifest_digest = put(&dir, &json);
    index(&dir, &[descriptor("application/vnd.oci.image.manifest.v1+json", &manifest_digest, json.len())]);
    let output = bench.out().join("rootfs.ext4");
    let out =
        bench.builder(&format!("oci:{}", dir.display()), &output).args(["--size", "16M"]).output().unwrap();
    refused(&out, 4, &["unpacks to more than", "--size"]);
    assert!(names(&bench.out()).is_empty());
    assert!(names(&bench.path("cache/layers")).is_empty());
}

#[test]
fn wrong_digests_and_damaged_blobs_are_refused() {
    for store in [Store::Plain, Store::Gzip, Store::Zstd] {
        let bench = Bench::new();
        let dir = bench.path("oci");
        let noise: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let digests = layout(&dir, &[(base().file("x", noise).done(), store)]);
        let image = format!("oci:{}", dir.display());
        let output = bench.out().join("rootfs.ext4");
        let layer = blob_path(&dir, &digests[0]);
        let good = fs::read(&layer).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 0x10;
        fs::write(&layer, &bad).unwrap();
        let out = bench.builder(&image, &output).output().unwrap();
        refused(&out, 4, &["digest"]);
        fs::write(&layer, &good[..good.len() / 2]).unwrap();
        let out = bench.builder(&image, &output).output().unwrap();
        refused(&out, 4, &["cut off"]);
        fs::write(&layer, &good).unwrap();
        // Configuration and manifest too.
        for digest in &digests[1..] {
            let path = blob_path(&dir, digest);
            let good = fs::read(&path).unwrap();
            let bad: Vec<_> =
                String::from_utf8(good.clone()).unwrap().replace("sha256:", "sha256:0").into_bytes();
            fs::write(&path, bad).unwrap();
            refused(&bench.builder(&image, &output).output().unwrap(), 4, &["digest"]);
            fs::remove_file(&path).unwrap();
            refused(&bench.builder(&image, &output).output().unwrap(), 4, &["missing"]);
            fs::write(&path, good).unwrap();
        }
        assert!(names(&bench.out()).is_empty());
        run(&mut bench.builder(&image, &output));
    }
}

#[test]
fn an_index_for_several_machines_gives_the_one_for_this() {
    let bench = Bench::new();
    let dir = bench.path("oci");
    let other = layout(&dir, &[(base().file("for", "another machine").done(), Store::Plain)]);
    let ours = layout(&dir, &[(base().file("for", "this machine").done(), Store::Plain)]);
    let entry = |digest: &Digest, architecture: &str| {
        let size = fs::metadata(blob_path(&dir, digest)).unwrap().len() as usize;
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", digest, size);
        entry["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
        entry
    };
    let list = [
        entry(other.last().unwrap(), "s390x"),
        entry(ours.last().unwrap(), clarateach_rootfs::manifest::architecture()),
    ];
    let inner = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": list})).unwrap();
    let digest = put(&dir, &inner);
    index(&dir, &[descriptor("application/vnd.oci.image.index.v1+json", &digest, inner.len())]);
    let image = format!("oci:{}", dir.display());
    let output = bench.out().join("rootfs.ext4");
    run(bench.builder(&image, &output).args(["--size", "64M"]));
    let text = fs::read(&output).unwrap();
    assert!(text.windows(12).any(|part| part == b"this machine"));
    assert!(!text.windows(15).any(|part| part == b"another machine"));
    let only = serde_json::to_vec(
        &serde_json::json!({"schemaVersion": 2, "manifests": [entry(&other[0], "s390x")]}),
    )
    .unwrap();
    fs::write(dir.join("index.json"), only).unwrap();
    refused(&bench.builder(&image, &output).output().unwrap(), 4, &["no image for linux/", "linux/s390x"]);
}

#[test]
fn what_is_not_there_is_named() {
    let bench = Bench::new();
    let output = bench.out().join("rootfs.ext4");
    for (image, code, part) in [
        ("oci:/nowhere", 3, "/nowhere"),
        ("docker-archive:/nowhere.tar", 3, "/nowhere.tar"),
        ("docker-archive:/proc/self", 3, "directory"),
        ("", 2, "no image"),
        ("a b", 2, "no image"),
    ] {
        refused(&bench.builder(image, &output).output().unwrap(), code, &[part]);
    }
    let empty = bench.path("empty");
    fs::create_dir(&empty).unwrap();
    refused(
        &bench.builder(&format!("oci:{}", empty.display()), &output).output().unwrap(),
        4,
        &["index.json"],
    );
    let file = bench.path("file.tar");
    fs::write(&file, "no tar at all, but long enough to look at".repeat(100)).unwrap();
    refused(
        &bench.builder(&format!("docker-archive:{}", file.display()), &output).output().unwrap(),
        4,
        &["tar"],
    );

    let image = oci(&bench, &[base().done()]);
    let missing = bench.path("no/such/rootfs.ext4");
    refused(&bench.builder(&image, &missing).output().unwrap(), 6, &["no/such", "does not exist"]);
    refused(&bench.builder(&image, &empty).output().unwrap(), 6, &["no regular file"]);
    let script = ["--init-script", "/nowhere/init"];
    refused(&bench.builder(&image, &output).args(script).output().unwrap(), 2, &["/nowhere/init"]);
    let mut named = bench.builder(&image, &output);
    refused(
        &named.env("WORKSPACE_BIN", "/nowhere/workspace").output().unwrap(),
        2,
        &["WORKSPACE_BIN", "/nowhere/workspace"],
    );
    assert!(names(&bench.out()).is_empty());
}

#[test]
fn the_command_line_is_checked() {
    let bench = Bench::new();
    let image = oci(&bench, &[base().done()]);
    let output = bench.out().join("rootfs.ext4");
    for size in ["0", "-1G", "2X", "1.5G", "", "1K", "999999999T"] {
        let out = bench.builder(&image, &output).arg(format!("--size={size}")).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{size}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("--size"));
    }
    let bare = Command::new(env!("CARGO_BIN_EXE_rootfs-builder")).args(["--output", "x"]).output().unwrap();
    assert_eq!(bare.status.code(), Some(2));
    let help = run(Command::new(env!("CARGO_BIN_EXE_rootfs-builder")).arg("--help"));
    for flag in
        ["--image", "--dockerfile", "--output", "--size", "--init-script", "--verbose", "--format", "2G"]
    {
        assert!(help.contains(flag), "{flag}");
    }
}

#[test]
fn too_small_says_how_much_is_needed_and_that_is_enough() {
    let bench = Bench::new();
    let image = oci(&bench, &[base().file("big", vec![9; 40 << 20]).done()]);
    let output = bench.out().join("rootfs.ext4");
    fs::write(&output, "the old one").unwrap();
    let out = bench.builder(&image, &output).args(["--size", "20M"]).output().unwrap();
    refused(&out, 5, &["does not fit into 20.0 MiB", "give --size "]);
    assert_eq!(fs::read_to_string(&output).unwrap(), "the old one");
    let text = String::from_utf8(out.stderr).unwrap();
    let size = text.split("give --size ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    run(bench.builder(&image, &output).args(["--size", &size]));
    assert!(output.metadata().unwrap().len() < 50 << 20);
}

#[test]
fn too_small_is_what_it_is_behind_long_links_too() {
    let bench = Bench::new();
    let store = format!("store/{}", "n".repeat(70));
    let directories = ["etc", "sbin", "tmp"];
    let layer = directories.iter().fold(Layer::new(), |layer, name| {
        layer.dir(&format!("{store}-{name}/"), 0o755).symlink(name, &format!("/{store}-{name}"))
    });
    // The links come after what makes the image overflow.
    let upper = Layer::new().file("big", vec![9; 40 << 20]);
    let image = oci(&bench, &[layer.done(), upper.done()]);
    let output = bench.out().join("rootfs.ext4");
    let workspace = bench.path("workspace-binary");
    fs::write(&workspace, vec![7; 8 << 20]).unwrap();
    let builder = |size: &str| {
        let mut command = bench.builder(&image, &output);
        command.args(["--size", size]).env("WORKSPACE_BIN", &workspace);
        command
    };
    let out = builder("20M").output().unwrap();
    refused(&out, 5, &["does not fit into 20.0 MiB", "give --size "]);
    let text = String::from_utf8(out.stderr).unwrap();
    let size = text.split("give --size ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    run(&mut builder(&size));
    if have("too_small_is_what_it_is_behind_long_links_too", "e2fsck", "e2fsprogs") {
        fsck(&output);
        assert!(debugfs(&output, &format!("ls /{store}-sbin")).contains("clarateach-init"));
    }
}

#[test]
fn far_too_small_says_that_it_is_more() {
    let bench = Bench::new();
    let deep = "/a".repeat(2046);
    let layer = (0..80).fold(base(), |layer, index| layer.file(&format!("{index}{deep}"), ""));
    let image = oci(&bench, &[layer.done()]);
    let output = bench.out().join("rootfs.ext4");
    fs::write(&output, "the old one").unwrap();
    let out = bench.builder(&image, &output).args(["--size", "20M"]).output().unwrap();
    refused(
        &out,
        5,
        &["does not fit into 20.0 MiB", "131072 files and directories", "it has more", "--size above"],
    );
    assert_eq!(fs::read_to_string(&output).unwrap(), "the old one");
}

#[test]
fn a_full_disk_a_read_only_one_and_a_busy_output_are_said_so() {
    const NAME: &str = "a_full_disk_a_read_only_one_and_a_busy_output_are_said_so";
    if !can_mount(NAME) {
        return;
    }
    let bench = Bench::new();
    let image = oci(&bench, &[base().file("big", vec![9; 8 << 20]).done()]);
    {
        let small = Mount::tmpfs(bench.dir.path(), "size=4m");
        let output = small.at.join("rootfs.ext4");
        fs::write(&output, "the old one").unwrap();
        let out = bench.builder(&image, &output).args(["--size", "64M"]).output().unwrap();
        refused(&out, 6, &["disk is full", "free some space"]);
        assert_eq!(fs::read_to_string(&output).unwrap(), "the old one");
        assert_eq!(names(&small.at), ["rootfs.ext4"]);
        run(Command::new("mount").args(["-o", "remount,ro"]).arg(&small.at));
        let out = bench.builder(&image, &output).args(["--size", "64M"]).output().unwrap();
        refused(&out, 6, &["read-only"]);
    }
    let output = bench.out().join("rootfs.ext4");
    run(bench.builder(&image, &output).args(["--size", "64M"]));
    let sum = Digest::of(&fs::read(&output).unwrap());
    {
        let _mounted = Mount::image(&output, bench.dir.path(), "ro");
        let out = bench.builder(&image, &output).args(["--size", "65M"]).output().unwrap();
        refused(&out, 6, &["in use by /dev/loop"]);
    }
    assert_eq!(Digest::of(&fs::read(&output).unwrap()), sum);
    assert_eq!(names(&bench.out()), ["rootfs.ext4"]);
}

/// A builder that has begun to write and can't go on: its registry does not send the layer.
fn stuck(bench: &Bench, output: &Path) -> std::process::Child {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    silent_registry(listener);
    let mut command = bench.builder(&format!("docker://{address}/stuck:latest"), output);
    command.args(["--size", "64M"]).stderr(Stdio::piped()).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    let partial =
        output.with_file_name(format!(".{}.partial", output.file_name().unwrap().to_str().unwrap()));
    let deadline = Instant::now() + Duration::from_secs(30);
    while !partial.exists() {
        assert!(Instant::now() < deadline, "the builder never began to write");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// Answers for a manifest and a configuration, and never for the layer.
fn silent_registry(listener: std::net::TcpListener) {
    let diff_id = Digest::of(b"never").to_string();
    let config = config(&[diff_id]);
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar", &Digest::of(b"never"), 1 << 20);
    let json = manifest(
        &descriptor("application/vnd.oci.image.config.v1+json", &Digest::of(&config), config.len()),
        &[layer],
    );
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (config, json) = (config.clone(), json.clone());
            std::thread::spawn(move || {
                loop {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let mut request = String::new();
                    if reader.read_line(&mut request).unwrap_or(0) == 0 {
                        return;
                    }
                    let mut line = String::new();
                    while reader.read_line(&mut line).unwrap_or(0) > 2 {
                        line.clear();
                    }
                    let body: &[u8] = if request.contains("/manifests/") {
                        &json
                    } else if request.contains(&Digest::of(&config).to_string()) {
                        &config
                    } else if request.contains("/blobs/") {
                        std::thread::park();
                        return;
                    } else {
                        b"{}"
                    };
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
                    std::io::Write::write_all(&mut stream, body).unwrap();
                }
            });
        }
    });
}

#[test]
fn two_builders_on_one_output_and_an_interrupted_one() {
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let bench = Bench::new();
        let output = bench.out().join("rootfs.ext4");
        fs::write(&output, "the old one").unwrap();
        let mut first = stuck(&bench, &output);
        let image = oci(&bench, &[base().done()]);
        let out = bench.builder(&image, &output).args(["--size", "64M"]).output().unwrap();
        refused(&out, 6, &["another rootfs-builder is writing", "rootfs.ext4"]);

        let pid = rustix::process::Pid::from_child(&first);
        rustix::process::kill_process(pid, signal).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = loop {
            if let Some(status) = first.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "still running after {signal:?}");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(128 + signal.as_raw()));
        assert_eq!(names(&bench.out()), ["rootfs.ext4"]);
        assert_eq!(fs::read_to_string(&output).unwrap(), "the old one");
        assert!(names(&bench.path("cache/layers")).is_empty());
        // And what a killed one leaves behind is no obstacle.
        fs::write(bench.out().join(".rootfs.ext4.partial"), "left over").unwrap();
        run(bench.builder(&image, &output).args(["--size", "64M"]));
        assert_eq!(names(&bench.out()), ["rootfs.ext4"]);
    }
}

#[test]
fn without_root_without_loop_devices_without_e2fsprogs() {
    const NAME: &str = "without_root_without_loop_devices_without_e2fsprogs";
    if !rustix::process::geteuid().is_root() {
        // The whole suite then runs without root, and this says nothing more.
        return;
    }
    let bench = Bench::new();
    let layer = base().device("dev-null", 1, 3).fifo("pipe").file("owned", "by root");
    let image = oci(&bench, &[layer.done()]);
    let by_root = bench.out().join("root.ext4");
    run(bench.builder(&image, &by_root).args(["--size", "64M"]));
    // A copy that everybody may execute, and directories that nobody may write to but one.
    let builder = bench.path("rootfs-builder");
    fs::copy(env!("CARGO_BIN_EXE_rootfs-builder"), &builder).unwrap();
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(bench.dir.path(), 0o755);
    open(&builder, 0o755);
    let mine = bench.path("mine");
    fs::create_dir(&mine).unwrap();
    std::os::unix::fs::chown(&mine, Some(65534), Some(65534)).unwrap();
    let output = mine.join("rootfs.ext4");
    let nobody = |output: &Path| {
        let mut command = Command::new(&builder);
        command.arg("--image").arg(&image).arg("--output").arg(output).args(["--size", "64M"]);
        // No PATH: nothing is run. No HOME: nothing is cached.
        command.env_clear().uid(65534).gid(65534).current_dir("/");
        command.output().unwrap()
    };
    let out = nobody(&output);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(fs::read(&output).unwrap() == fs::read(&by_root).unwrap());
    refused(&nobody(&bench.out().join("rootfs.ext4")), 6, &["permission denied", "--output"]);
    if have(NAME, "e2fsck", "e2fsprogs") {
        fsck(&output);
    }
}
