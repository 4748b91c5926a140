//! Ports for servers that the tests start.

#![allow(dead_code)] // each test program uses its own part

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below 32768, where the kernel takes the ports of outgoing connections from: one of those could sit on a port
/// between this look at it and the server's own bind, and the server would not start.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A port nobody listens on just now, and none given out before.
pub(crate) fn free_port() -> u16 {
    free(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

/// The same of UDP.
pub(crate) fn free_udp_port() -> u16 {
    free(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok())
}

fn free(can_be_had: impl Fn(u16) -> bool) -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Two test programs at once begin at different places.
    let begin = std::process::id().wrapping_mul(97);
    for _ in PORTS {
        let step = u32::from(GIVEN.fetch_add(1, Ordering::Relaxed));
        let place = begin.wrapping_add(step) % PORTS.len() as u32;
        let port = PORTS.start + place as u16;
        if can_be_had(port) {
            return port;
        }
    }
    panic!("no port is free between {} and {}", PORTS.start, PORTS.end);
}
