//! A microVM run by QEMU with an emulated processor, and what can be asked of it from outside.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clarateach_microvm::guest::control::{Control, Patience};
use clarateach_microvm::guest::{BOOT_ARGUMENTS, initramfs};
use clarateach_seatproto::guest::{
    CONTROL_PORT_NAME, CONTROL_VSOCK_PORT, GuestConfig, GuestNetwork, WORKSPACE_PORT,
};
use clarateach_testkit::{GuestKernel, guest_kernel, seat_binary, skip, wait_for, wait_for_blocking};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const QEMU: &str = "qemu-system-x86_64";
/// For anything that an emulated machine does, on a computer that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
pub(crate) const SECRET: &str = "correct-horse-battery-staple";

/// What tests boot.
pub(crate) struct Parts {
    pub(crate) kernel: GuestKernel,
    pub(crate) workspace: PathBuf,
}

/// Finds everything, or skips the test by name.
pub(crate) fn parts(test: &str) -> Option<Parts> {
    let missing = |what: &str| skip(test, what);
    if Command::new(QEMU).arg("--version").stdout(Stdio::null()).status().is_err() {
        missing("qemu-system-x86_64 is not installed");
        return None;
    }
    if !crate::image::possible() {
        missing("there is no static /bin/busybox");
        return None;
    }
    let Some(kernel) = guest_kernel() else {
        missing("no guest kernel could be fetched by scripts/setup-qemu-kernel.sh");
        return None;
    };
    match seat_binary::workspace() {
        Ok(workspace) => Some(Parts { kernel, workspace }),
        Err(reason) => {
            missing(&reason);
            None
        }
    }
}

/// A running machine; killed when dropped.
pub(crate) struct Machine {
    qemu: Child,
    /// What serves its vsock device.
    vsock: Option<Child>,
    directory: PathBuf,
    port: u16,
    pub(crate) started: Instant,
}

/// How a machine differs from the usual one.
#[derive(Default)]
pub(crate) struct Unusual {
    pub(crate) no_upper: bool,
    pub(crate) initramfs: Option<PathBuf>,
    /// The program `vhost-device-vsock`, for a machine with a vsock device in place of a serial port.
    pub(crate) vsock: Option<PathBuf>,
    pub(crate) arguments: &'static str,
}

impl Machine {
    /// Boots with `base.ext4` and `upper.ext4` of `directory`.
    pub(crate) fn boot(parts: &Parts, directory: &Path, unusual: &Unusual) -> Machine {
        let initramfs = unusual.initramfs.clone().unwrap_or_else(|| {
            initramfs::build(&parts.workspace, Some(&parts.kernel.modules), directory).unwrap()
        });
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let at = |name: &str| directory.join(name).display().to_string();
        let _ = std::fs::remove_file(directory.join("control"));
        let mut qemu = Command::new(QEMU);
        qemu.args(["-M", "microvm,x-option-roms=off,rtc=on,auto-kernel-cmdline=off"])
            .args(["-accel", "tcg,thread=single", "-cpu", "max", "-m", "192"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-serial", &format!("file:{}", at("console"))])
            .arg("-kernel")
            .arg(&parts.kernel.vmlinux)
            .arg("-initrd")
            .arg(initramfs)
            .args([
                "-append",
                &format!(
                    "console=ttyS0 no_timer_check lpj=4000000 {} {BOOT_ARGUMENTS} {}",
                    clock_argument(),
                    unusual.arguments
                ),
            ])
            .args(["-drive", &format!("id=base,if=none,format=raw,readonly=on,file={}", at("base.ext4"))])
            .args(["-device", "virtio-blk-device,drive=base"])
            .args([
                "-netdev",
                &format!("user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:{WORKSPACE_PORT}"),
            ])
            .args(["-device", "virtio-net-device,netdev=net"]);
        let vsock = unusual.vsock.as_ref().map(|program| start_vsock(program, directory));
        if vsock.is_some() {
            qemu.args(["-object", "memory-backend-memfd,id=memory,size=192M,share=on"])
                .args(["-machine", "memory-backend=memory"])
                .args(["-chardev", &format!("socket,id=vsock,path={}", at("vhost"))])
                .args(["-device", "vhost-user-vsock-device,chardev=vsock"]);
        } else {
            qemu.args(["-device", "virtio-serial-device"])
                .args(["-chardev", &format!("socket,id=control,server=on,wait=off,path={}", at("control"))])
                .args(["-device", &format!("virtserialport,chardev=control,name={CONTROL_PORT_NAME}")]);
        }
        if !unusual.no_upper {
            qemu.args(["-drive", &format!("id=upper,if=none,format=raw,file={}", at("upper.ext4"))])
                .args(["-device", "virtio-blk-device,drive=upper"]);
        }
        let started = Instant::now();
        let qemu = qemu.stdin(Stdio::null()).spawn().unwrap();
        Machine { qemu, vsock, directory: directory.to_owned(), port, started }
    }

    /// What it has printed.
    pub(crate) fn console(&self) -> String {
        let bytes = std::fs::read(self.directory.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Opens the control channel, as a host does: again and again until the VMM listens.
    pub(crate) async fn control(&self) -> Control {
        let path = self.directory.join("control");
        let stream = wait_for("the control socket", PATIENCE, || async {
            let stream = UnixStream::connect(&path).await.ok()?;
            if self.vsock.is_some() { shake_hands(stream).await.ok() } else { Some(stream) }
        })
        .await;
        Control::new(Box::new(stream)).with_patience(Patience { quick: PATIENCE, configure: PATIENCE })
    }

    /// The control channel without a client.
    pub(crate) fn raw_control(&self) -> std::os::unix::net::UnixStream {
        std::os::unix::net::UnixStream::connect(self.directory.join("control")).unwrap()
    }

    /// One request to the workspace server: status and body; none if nobody answers.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        secret: Option<&str>,
        body: &str,
    ) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let secret = secret.map(|secret| format!("x-clarateach-secret: {secret}\r\n")).unwrap_or_default();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: seat\r\nconnection: close\r\ncontent-length: {length}\r\ncontent-type: application/json\r\n{secret}\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
    }

    /// Runs a shell script as the learner, by a terminal whose shell reads the file that `ENV` names, and gives back what
    /// it printed.
    pub(crate) fn run(&self, script: &str) -> String {
        let probe = format!(
            "rm -f probed; {{ {script}\n}} >probing 2>&1; echo END >>probing; mv probing probed; exit\n"
        );
        let put = |path: &str, content: &str| {
            let body = serde_json::json!({"content": content, "encoding": "utf-8"}).to_string();
            self.request("PUT", &format!("/files/{path}"), Some(SECRET), &body).unwrap()
        };
        assert!(put("probed", "").0 < 300);
        let (status, why) = put(".probe", &probe);
        assert!(status < 300, "{why}");
        let (status, why) = self.request("POST", "/terminals", Some(SECRET), "{}").unwrap();
        assert!(status < 300, "{why}");
        wait_for_blocking("the learner's script", PATIENCE, || {
            let (_, file) = self.request("GET", "/files/probed", Some(SECRET), "")?;
            file["content"].as_str()?.strip_suffix("END\n").map(str::to_owned)
        })
    }

    /// Waits until the VMM has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        wait_for_blocking("the machine to switch off", PATIENCE, || self.qemu.try_wait().unwrap())
    }
}

/// Serves a vsock device as Firecracker does its own: behind a Unix socket, with the same words.
fn start_vsock(program: &Path, directory: &Path) -> Child {
    let (socket, uds) = (directory.join("vhost"), directory.join("control"));
    let vm = format!("guest-cid=3,socket={},uds-path={}", socket.display(), uds.display());
    let served = Command::new(program).args(["--vm", &vm]).stderr(Stdio::null()).spawn().unwrap();
    wait_for_blocking("the vsock device", PATIENCE, || socket.exists().then_some(()));
    served
}

/// As in Firecracker's docs/vsock.md, for connections that the host initiates.
async fn shake_hands(mut stream: UnixStream) -> std::io::Result<UnixStream> {
    stream.write_all(format!("CONNECT {CONTROL_VSOCK_PORT}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") {
        answer.push(stream.read_u8().await?);
    }
    if answer.starts_with(b"OK ") { Ok(stream) } else { Err(std::io::ErrorKind::ConnectionRefused.into()) }
}

/// On an emulated machine the kernel can't find out how fast the host's time stamp counter runs, and needs it.
fn clock_argument() -> String {
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let mhz = processors
        .lines()
        .find_map(|line| line.strip_prefix("cpu MHz")?.split(':').nth(1)?.trim().parse().ok());
    let mhz: f64 = mhz.expect("the processor's speed in /proc/cpuinfo");
    format!("tsc_early_khz={:.0} tsc=reliable", mhz * 1000.0)
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if let Some(vsock) = &mut self.vsock {
            let _ = vsock.kill();
            let _ = vsock.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- console:\n{}", self.console());
        }
    }
}

/// A seat as hosts make them; the clock is that of another year, so that it can be told from the emulated one's.
pub(crate) fn config() -> GuestConfig {
    GuestConfig {
        instance: "guest-boot".into(),
        hostname: "seat-7".into(),
        network: Some(GuestNetwork {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            dns: vec![Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(9, 9, 9, 9)],
            mac: "02:00:c0:a8:64:11".into(),
            mtu: 1400,
        }),
        unix_ms: 1_900_000_000_000,
        entropy: "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urqw=="
            .into(),
        secret: SECRET.into(),
        env: [("COURSE", "rust 101"), ("ENV", "/workspace/.probe")].map(|(n, v)| (n.into(), v.into())).into(),
    }
}
