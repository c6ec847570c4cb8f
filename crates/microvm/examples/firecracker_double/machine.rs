//! The machine: what it has been told, what it has opened, and which calls it takes when.

mod snapshot;

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::Notify;

use crate::bodies::{
    Balloon, BootSource, Drive, Entropy, Logger, MachineConfiguration, NetworkInterface, Serial, Vsock,
};
use crate::faults::Faults;
use crate::guest::{self, Guest};
use crate::{network, tap};

const PRE_BOOT: &str = "The requested operation is not supported before starting the microVM.";
const POST_BOOT: &str = "The requested operation is not supported after starting the microVM.";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Configured,
    Running,
    Paused,
}

pub(crate) struct Machine {
    id: String,
    faults: RefCell<Faults>,
    phase: Cell<Phase>,
    devices: RefCell<Devices>,
    /// Files that are held open for as long as the process lives.
    open: RefCell<Vec<OwnedFd>>,
    taps: RefCell<Vec<(String, File)>>,
    vsock: RefCell<Option<std::os::unix::net::UnixListener>>,
    guest: RefCell<Option<Rc<RefCell<Guest>>>>,
    end: Rc<Notify>,
}

/// What was asked for; it goes into snapshots, as the paths in it do in Firecracker's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Devices {
    machine: Option<MachineConfiguration>,
    boot: Option<BootSource>,
    drives: Vec<Drive>,
    networks: Vec<NetworkInterface>,
    vsock: Option<Vsock>,
    entropy: bool,
    balloon: bool,
    /// Whether anything was said that a snapshot would say too.
    touched: bool,
}

impl Machine {
    pub(crate) fn new(id: String, faults: Faults) -> Self {
        Self {
            id,
            faults: RefCell::new(faults),
            phase: Cell::new(Phase::Configured),
            devices: RefCell::default(),
            open: RefCell::default(),
            taps: RefCell::default(),
            vsock: RefCell::default(),
            guest: RefCell::default(),
            end: Rc::new(Notify::new()),
        }
    }

    /// Until the guest has shut down.
    pub(crate) async fn ended(&self) {
        self.end.notified().await;
    }

    pub(crate) fn information(&self) -> Value {
        let state = match self.phase.get() {
            Phase::Configured => "Not started",
            Phase::Running => "Running",
            Phase::Paused => "Paused",
        };
        json!({ "id": self.id, "state": state, "vmm_version": "1.16.1", "app_name": "Firecracker" })
    }

    pub(crate) fn machine_config(&self) -> Value {
        let machine = self.devices.borrow().machine.clone();
        machine.map_or_else(
            || json!({ "vcpu_count": 1, "mem_size_mib": 128, "smt": false, "track_dirty_pages": false }),
            |machine| serde_json::to_value(machine).unwrap_or_default(),
        )
    }

    /// Calls that are only taken before the guest runs.
    fn before_boot(&self) -> Result<std::cell::RefMut<'_, Devices>, String> {
        if self.phase.get() != Phase::Configured {
            return Err(POST_BOOT.into());
        }
        let mut devices = self.devices.borrow_mut();
        devices.touched = true;
        Ok(devices)
    }

    fn after_boot(&self) -> Result<(), String> {
        if self.phase.get() == Phase::Configured { Err(PRE_BOOT.into()) } else { Ok(()) }
    }

    pub(crate) fn set_machine_config(&self, machine: MachineConfiguration) -> Result<(), String> {
        let mut devices = self.before_boot()?;
        if machine.mem_size_mib == 0 {
            return Err("Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size.".into());
        }
        if !(1..=32).contains(&machine.vcpu_count)
            || (machine.smt && machine.vcpu_count > 1 && machine.vcpu_count % 2 == 1)
        {
            return Err("Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.".into());
        }
        devices.machine = Some(machine);
        Ok(())
    }

    pub(crate) fn set_boot_source(&self, boot: BootSource) -> Result<(), String> {
        let mut devices = self.before_boot()?;
        let fault = |what: &str, error: std::io::Error| {
            format!("Boot source error: The {what} file cannot be opened: {error}")
        };
        File::open(&boot.kernel_image_path).map_err(|error| fault("kernel", error))?;
        if let Some(initrd) = &boot.initrd_path {
            File::open(initrd).map_err(|error| fault("initrd", error))?;
        }
        devices.boot = Some(boot);
        Ok(())
    }

    pub(crate) fn add_drive(&self, id: &str, drive: Drive) -> Result<(), String> {
        let mut devices = self.before_boot()?;
        if id != drive.drive_id {
            return Err("The id from the path does not match the id from the body!".into());
        }
        if drive.is_root_device
            && devices.drives.iter().any(|other| other.is_root_device && other.drive_id != id)
        {
            return Err("Drive config error: A root block device already exists!".into());
        }
        self.open_drive(&drive)?;
        devices.drives.retain(|other| other.drive_id != id);
        devices.drives.push(drive);
        Ok(())
    }

    fn open_drive(&self, drive: &Drive) -> Result<(), String> {
        let (Some(path), Some(read_only), None) = (&drive.path_on_host, drive.is_read_only, &drive.socket)
        else {
            return Err("Drive config error: Invalid drive configuration: virtio-block needs path_on_host and is_read_only".into());
        };
        let file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(|error| {
            format!("Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: {error} {}", path.display())
        })?;
        self.open.borrow_mut().push(file.into());
        Ok(())
    }

    pub(crate) fn add_network(&self, id: &str, interface: NetworkInterface) -> Result<(), String> {
        let mut devices = self.before_boot()?;
        if id != interface.iface_id {
            return Err("The id from the path does not match the id from the body!".into());
        }
        if interface.guest_mac.as_deref().is_some_and(|mac| guest::parse_mac(mac).is_none()) {
            return Err(
                "An error occurred when deserializing the json body of a request: invalid MAC address."
                    .into(),
            );
        }
        if devices.networks.iter().any(|other| {
            other.iface_id != id && other.guest_mac.is_some() && other.guest_mac == interface.guest_mac
        }) {
            return Err("Network config error: The MAC address is already in use".into());
        }
        self.taps.borrow_mut().retain(|(other, _)| other != id);
        devices.networks.retain(|other| other.iface_id != id);
        self.open_tap(&interface)?;
        devices.networks.push(interface);
        Ok(())
    }

    fn open_tap(&self, interface: &NetworkInterface) -> Result<(), String> {
        let tap = tap::open(&interface.host_dev_name).map_err(|error| {
            format!("Network config error: Could not create the network device: Open tap device failed: Error while creating ifreq structure: {error}. Invalid TUN/TAP Backend provided by {}.", interface.host_dev_name)
        })?;
        self.taps.borrow_mut().push((interface.iface_id.clone(), tap));
        Ok(())
    }

    pub(crate) fn set_vsock(&self, vsock: Vsock) -> Result<(), String> {
        let mut devices = self.before_boot()?;
        self.bind_vsock(&vsock)?;
        devices.vsock = Some(vsock);
        Ok(())
    }

    fn bind_vsock(&self, vsock: &Vsock) -> Result<(), String> {
        let bound = std::os::unix::net::UnixListener::bind(&vsock.uds_path).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = bound.map_err(|error| {
            format!("Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: {error}")
        })?;
        *self.vsock.borrow_mut() = Some(listener);
        Ok(())
    }

    pub(crate) fn set_entropy(&self, _: Entropy) -> Result<(), String> {
        self.before_boot()?.entropy = true;
        Ok(())
    }

    pub(crate) fn set_balloon(&self, balloon: Balloon) -> Result<(), String> {
        let mut devices = self.before_boot()?;
        let memory = devices.machine.as_ref().map_or(128, |machine| machine.mem_size_mib);
        if balloon.amount_mib as usize > memory {
            return Err(
                "Balloon config error: Amount of pages requested cannot fit in balloon's memory".into()
            );
        }
        devices.balloon = true;
        Ok(())
    }

    /// Taken before the guest runs; does not count as configuring it.
    pub(crate) fn set_serial(&self, _: Serial) -> Result<(), String> {
        if self.phase.get() == Phase::Configured { Ok(()) } else { Err(POST_BOOT.into()) }
    }

    pub(crate) fn set_logger(&self, _: Logger) -> Result<(), String> {
        if self.phase.get() == Phase::Configured { Ok(()) } else { Err(POST_BOOT.into()) }
    }

    pub(crate) async fn start(self: &Rc<Self>) -> Result<(), String> {
        let boot = {
            let devices = self.before_boot()?;
            devices
                .boot
                .clone()
                .ok_or("Start microvm error: Cannot start microvm without kernel configuration.")?
        };
        check_kernel(&boot.kernel_image_path)?;
        let arguments = boot.boot_args.unwrap_or_default();
        let faults = self.faults.borrow().clone().with_boot_arguments(&arguments)?;
        *self.faults.borrow_mut() = faults.clone();
        if faults.deaf {
            std::future::pending::<()>().await;
        }
        let mac = self
            .devices
            .borrow()
            .networks
            .first()
            .and_then(|nic| guest::parse_mac(nic.guest_mac.as_deref()?));
        let guest = Guest::new(&arguments, mac.unwrap_or([2, 0, 0, 0, 0, 1]), faults.mute);
        if !faults.mute {
            println!("guest: up");
        }
        self.run(guest, true);
        Ok(())
    }

    fn run(self: &Rc<Self>, mut guest: Guest, running: bool) {
        let faults = self.faults.borrow().clone();
        guest.running = running;
        let drives = self.devices.borrow().drives.clone();
        let path = |drive: Drive| Some((std::path::absolute(drive.path_on_host?).ok()?, drive.is_read_only?));
        guest.drives = drives.into_iter().filter_map(path).collect();
        let guest = Rc::new(RefCell::new(guest));
        for (_, tap) in self.taps.take() {
            if let Ok(tap) = tap::register(tap) {
                tokio::task::spawn_local(network::answer(tap, Rc::clone(&guest)));
            }
        }
        if let Some(listener) = self.vsock.take().and_then(|listener| UnixListener::from_std(listener).ok()) {
            tokio::task::spawn_local(guest::serve_vsock(listener, Rc::clone(&guest), Rc::clone(&self.end)));
        }
        if let Some(after) = faults.die {
            tokio::task::spawn_local(async move {
                tokio::time::sleep(after).await;
                eprintln!("double: told to die");
                std::process::exit(148);
            });
        }
        if faults.print {
            tokio::task::spawn_local(guest::print_endlessly());
        }
        *self.guest.borrow_mut() = Some(guest);
        self.phase.set(if running { Phase::Running } else { Phase::Paused });
    }

    /// A guest that listens to its keyboard restarts, which ends Firecracker.
    pub(crate) fn ctrl_alt_del(&self) -> Result<(), String> {
        self.after_boot()?;
        self.end.notify_one();
        Ok(())
    }

    pub(crate) fn flush_metrics(&self) -> Result<(), String> {
        self.after_boot()
    }

    pub(crate) fn set_paused(&self, paused: bool) -> Result<(), String> {
        self.after_boot()?;
        self.phase.set(if paused { Phase::Paused } else { Phase::Running });
        if let Some(guest) = &*self.guest.borrow() {
            guest.borrow_mut().running = !paused;
        }
        Ok(())
    }
}

fn check_kernel(path: &PathBuf) -> Result<(), String> {
    let mut magic = [0_u8; 4];
    let read = File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
    if read.is_err() || magic != *b"\x7fELF" {
        return Err("Start microvm error: Cannot load kernel due to invalid memory configuration or invalid kernel image: Invalid Elf magic number".into());
    }
    Ok(())
}
