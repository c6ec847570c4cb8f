//! The one network interface, set up by the ioctls of netdevice(7): they need no library.

use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use clarateach_seatproto::guest::GuestNetwork;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::GuestError;

/// The interface.
const NAME: &str = "eth0";
/// For its driver to bring it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a place in the network can be one.
pub(super) fn check(network: &GuestNetwork) -> Result<(), GuestError> {
    let refuse = |message: &str| Err(GuestError::Refused(message.to_owned()));
    if parse_mac(&network.mac).is_none() {
        return refuse("the MAC address takes six pairs of hexadecimal digits, that of one device");
    }
    if !(1..=32).contains(&network.prefix) {
        return refuse("the network prefix takes 1 to 32 bits");
    }
    if !(68..=65535).contains(&network.mtu) {
        return refuse("the MTU takes 68 to 65535 bytes");
    }
    Ok(())
}

/// Brings up lo, and eth0 as told; without a network, eth0 stays down.
pub(super) fn bring_up(network: Option<&GuestNetwork>) -> Result<(), GuestError> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(GuestError::during("opening a socket to set up the network"))?;
    let up = |name| set_up(&socket, name).map_err(GuestError::during(format!("bringing {name} up")));
    up("lo")?;
    let Some(network) = network else { return Ok(()) };
    await_interface()?;
    for (setting, value) in [("ipv6/conf/eth0/disable_ipv6", "1"), ("ipv4/conf/eth0/arp_notify", "1")] {
        // A kernel without IPv6 has it disabled.
        let _ = fs::write(format!("/proc/sys/net/{setting}"), value);
    }
    let during = |what: &str| GuestError::during::<io::Error>(format!("setting the {what} of {NAME}"));
    let mac = parse_mac(&network.mac).unwrap_or_default();
    set(&socket, libc::SIOCSIFHWADDR, hardware(mac)).map_err(during("MAC address"))?;
    let mtu = libc::c_int::try_from(network.mtu).unwrap_or(1500);
    set(&socket, libc::SIOCSIFMTU, Value { ifru_mtu: mtu }).map_err(during("MTU"))?;
    set(&socket, libc::SIOCSIFADDR, address(network.address)).map_err(during("address"))?;
    set(&socket, libc::SIOCSIFNETMASK, address(mask(network.prefix))).map_err(during("network mask"))?;
    up(NAME)?;
    route_by(&socket, network.gateway).map_err(during("default route"))
}

fn await_interface() -> Result<(), GuestError> {
    let deadline = Instant::now() + PATIENCE;
    while !fs::exists(format!("/sys/class/net/{NAME}")).unwrap_or(false) {
        if Instant::now() >= deadline {
            return Err(GuestError::Absent(format!(
                "{NAME} is not there: the VM has no network interface, or its driver is missing"
            )));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Six bytes that are the address of one device: not all zero, and not of a group.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part =
            parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

fn mask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0))
}

type Value = libc::__c_anonymous_ifr_ifru;

fn request(name: &str, value: Value) -> libc::ifreq {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    libc::ifreq { ifr_name, ifr_ifru: value }
}

fn socket_address(ip: Ipv4Addr) -> libc::sockaddr {
    let mut sa_data = [0; 14];
    for (to, from) in sa_data[2..6].iter_mut().zip(ip.octets()) {
        *to = from.cast_signed();
    }
    // AF_INET is 2.
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data }
}

fn address(ip: Ipv4Addr) -> Value {
    Value { ifru_addr: socket_address(ip) }
}

fn hardware(mac: [u8; 6]) -> Value {
    let mut sa_data = [0; 14];
    for (to, from) in sa_data.iter_mut().zip(mac) {
        *to = from.cast_signed();
    }
    Value { ifru_hwaddr: libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data } }
}

fn set(socket: &OwnedFd, call: libc::Ioctl, value: Value) -> io::Result<()> {
    checked(socket, call, &mut request(NAME, value))
}

fn set_up(socket: &OwnedFd, name: &str) -> io::Result<()> {
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    checked(socket, libc::SIOCSIFFLAGS, &mut request(name, Value { ifru_flags: flags }))
}

fn checked(socket: &OwnedFd, call: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: every call made here reads one `ifreq` with a NUL-terminated name through a pointer to one.
    match unsafe { libc::ioctl(socket.as_raw_fd(), call, std::ptr::from_mut(request)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn route_by(socket: &OwnedFd, gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: `rtentry` is plain data for which zero is a value: no device, no flags, address 0.0.0.0/0.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: SIOCADDRT reads one `rtentry`, whose device name is a null pointer, which means none.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw mut route) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_those_of_one_device() {
        assert_eq!(parse_mac("02:00:c0:a8:64:0b"), Some([2, 0, 0xc0, 0xa8, 0x64, 0x0b]));
        for wrong in [
            "",
            "02:00:c0:a8:64",
            "02:00:c0:a8:64:0b:1",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "2:0:c0:a8:64:b",
            "02-00-c0-a8-64-0b",
            "+2:00:00:00:00:00",
        ] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn masks_follow_from_prefixes() {
        assert_eq!(mask(24), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(mask(32), Ipv4Addr::BROADCAST);
        assert_eq!(mask(1), Ipv4Addr::new(128, 0, 0, 0));
    }
}
