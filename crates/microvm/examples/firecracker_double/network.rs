//! As much of a network stack as a guest needs to be found: ARP and ICMP echo for one address.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::rc::Rc;

use tokio::io::unix::AsyncFd;

use crate::guest::Guest;

const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];

/// Answers on a tap until it is gone.
pub(crate) async fn answer(tap: AsyncFd<File>, guest: Rc<RefCell<Guest>>) {
    let mut frame = vec![0_u8; 2048];
    loop {
        let Ok(mut ready) = tap.readable().await else { return };
        match ready.try_io(|tap| tap.get_ref().read(&mut frame)) {
            Ok(Ok(length)) => {
                let (address, mac, listens) = {
                    let guest = guest.borrow();
                    (guest.address, guest.mac, guest.listens())
                };
                if let Some(reply) =
                    address.filter(|_| listens).and_then(|ip| reply(&frame[..length], ip, mac))
                {
                    // A full queue loses it, as networks do.
                    let _ = tap.get_ref().write(&reply);
                }
            }
            Ok(Err(_)) => return,
            Err(_would_block) => {}
        }
    }
}

/// The answer to an Ethernet frame, if there is one.
pub(crate) fn reply(frame: &[u8], ip: Ipv4Addr, mac: [u8; 6]) -> Option<Vec<u8>> {
    match frame.get(12..14)?.try_into().ok()? {
        ARP => arp_reply(frame, ip, mac),
        IPV4 if frame[..6] == mac => echo_reply(frame, ip, mac),
        _ => None,
    }
}

/// RFC 826: a request for our address.
fn arp_reply(frame: &[u8], ip: Ipv4Addr, mac: [u8; 6]) -> Option<Vec<u8>> {
    let packet = frame.get(14..42)?;
    if packet[..8] != [0, 1, 8, 0, 6, 4, 0, 1] || packet[24..28] != ip.octets() {
        return None;
    }
    let (sender_mac, sender_ip) = (&packet[8..14], &packet[14..18]);
    let parts: [&[u8]; 8] =
        [sender_mac, &mac, &ARP, &[0, 1, 8, 0, 6, 4, 0, 2], &mac, &ip.octets(), sender_mac, sender_ip];
    Some(parts.concat())
}

/// RFC 792: an echo request to our address. Swapping addresses leaves the header's checksum as it is; the type goes from
/// 8 to 0, which the ICMP checksum must make up for.
fn echo_reply(frame: &[u8], ip: Ipv4Addr, mac: [u8; 6]) -> Option<Vec<u8>> {
    let packet = frame.get(14..)?;
    let header = usize::from(packet.first()? & 15) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let packet = packet.get(..total)?;
    if *packet.get(9)? != 1
        || packet.get(16..20)? != ip.octets()
        || *packet.get(header)? != 8
        || header + 8 > total
    {
        return None;
    }
    let mut reply = [&frame[6..12], &mac, &IPV4, packet].concat();
    let (from, to): ([u8; 4], [u8; 4]) = (packet[12..16].try_into().ok()?, packet[16..20].try_into().ok()?);
    reply[14 + 12..14 + 16].copy_from_slice(&to);
    reply[14 + 16..14 + 20].copy_from_slice(&from);
    let icmp = 14 + header;
    reply[icmp] = 0;
    let check = u32::from(u16::from_be_bytes([reply[icmp + 2], reply[icmp + 3]])) + 0x0800;
    let check = u16::try_from((check & 0xffff) + (check >> 16)).ok()?;
    reply[icmp + 2..icmp + 4].copy_from_slice(&check.to_be_bytes());
    Some(reply)
}
