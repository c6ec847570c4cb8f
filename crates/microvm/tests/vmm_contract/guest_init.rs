//! The first process of the guests in these tests: built by rustc alone, without crates.
//!
//! Loads /modules in the order of /modules/order, says so on the console, gives eth0 the address of `ip=`, writes to
//! /dev/vdb if there is one, and speaks as much of the guest protocol as tests need: `hello`, `shutdown`; and
//! `print`, for a guest that prints endlessly.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;

unsafe extern "C" {
    fn mount(source: *const i8, target: *const i8, kind: *const i8, flags: u64, data: *const i8) -> i32;
    fn syscall(number: i64, ...) -> i64;
    fn reboot(how: i32) -> i32;
    fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
    fn ioctl(fd: i32, request: u64, ...) -> i32;
}

const FINIT_MODULE: i64 = 313;
/// QEMU and Firecracker end when their guest restarts.
const RESTART: i32 = 0x0123_4567;
const SIOCSIFADDR: u64 = 0x8916;
const SIOCSIFNETMASK: u64 = 0x891c;
const SIOCSIFFLAGS: u64 = 0x8914;

fn mount_at(kind: &str, target: &str) {
    let _ = fs::create_dir_all(target);
    let (kind, target) = (CString::new(kind).unwrap(), CString::new(target).unwrap());
    unsafe { mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
}

fn load(name: &str) {
    let Ok(file) = File::open(format!("/modules/{name}")) else { return println!("guest: no module {name}") };
    let result = unsafe { syscall(FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result != 0 {
        println!("guest: {name}: {}", std::io::Error::last_os_error());
    }
}

/// struct ifreq: a name and 24 bytes.
fn interface(socket: i32, request: u64, value: &[u8]) {
    let mut request_data = [0_u8; 40];
    request_data[..4].copy_from_slice(b"eth0");
    request_data[16..16 + value.len()].copy_from_slice(value);
    if unsafe { ioctl(socket, request, request_data.as_mut_ptr()) } != 0 {
        println!("guest: eth0 {request:x}: {}", std::io::Error::last_os_error());
    }
}

fn address(of: [u8; 4]) -> [u8; 8] {
    [2, 0, 0, 0, of[0], of[1], of[2], of[3]]
}

fn main() {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount_at(kind, target);
    }
    for name in fs::read_to_string("/modules/order").unwrap_or_default().lines() {
        load(name);
    }
    let arguments = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if let Some(ip) = arguments.split_whitespace().find_map(|word| word.strip_prefix("ip=")) {
        let ip: Vec<u8> = ip.split(':').next().unwrap().split('.').map(|n| n.parse().unwrap()).collect();
        let fd = unsafe { socket(2, 2, 0) };
        interface(fd, SIOCSIFADDR, &address([ip[0], ip[1], ip[2], ip[3]]));
        interface(fd, SIOCSIFNETMASK, &address([255, 255, 255, 0]));
        interface(fd, SIOCSIFFLAGS, &[0x43, 0x10]);
    }
    let size = |disk: &str| fs::read_to_string(format!("/sys/block/{disk}/size")).unwrap_or_default();
    println!("guest: up, vda {} vdb {}", size("vda").trim(), size("vdb").trim());
    let port = fs::read_dir("/dev").unwrap().flatten().find(|e| e.file_name().to_string_lossy().starts_with("vport"));
    let Some(port) = port else {
        loop {
            std::thread::park();
        }
    };
    // It can't be opened until the host has said what it is called.
    let port = loop {
        match OpenOptions::new().read(true).write(true).open(port.path()) {
            Ok(port) => break port,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    };
    let mut asked = 0;
    loop {
        // The port says end of file while no host is connected.
        for line in BufReader::new(&port).lines().map_while(Result::ok) {
            asked += 1;
            let mut words = line.split('"').filter(|word| !matches!(*word, "{" | ":" | "}" | "op"));
            match words.next().unwrap_or_default() {
                "hello" => writeln!(&port, "{{\"status\":\"ok\",\"state\":\"parked\"}}").unwrap(),
                "asked" => writeln!(&port, "{{\"asked\":{asked}}}").unwrap(),
                "write" => {
                    let disk = OpenOptions::new().write(true).open("/dev/vdb");
                    let written = disk.and_then(|mut disk| {
                        disk.write_all(&[b'U'; 4096])?;
                        disk.sync_all()
                    });
                    let base = OpenOptions::new().write(true).open("/dev/vda").and_then(|mut base| {
                        base.write_all(&[b'B'; 4096])?;
                        base.sync_all()
                    });
                    writeln!(&port, "{{\"upper\":{},\"base\":{}}}", written.is_ok(), base.is_ok()).unwrap();
                }
                "print" => loop {
                    println!("guest: endlessly {asked} {}", "x".repeat(400));
                },
                "shutdown" => {
                    writeln!(&port, "{{\"status\":\"ok\",\"state\":\"ending\"}}").unwrap();
                    unsafe { reboot(RESTART) };
                }
                other => writeln!(&port, "{{\"status\":\"error\",\"message\":\"{other}\"}}").unwrap(),
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
