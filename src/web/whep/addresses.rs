//! Where a viewer can reach this machine by UDP. It asks nobody outside: neither STUN nor mDNS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// More candidates than this only cost the viewer time.
const MAX: usize = 8;

/// The addresses to name in an answer, best first. `bound` is the socket's own, `asked` the one that the request came to.
pub(super) fn candidates(bound: SocketAddr, asked: IpAddr) -> Vec<SocketAddr> {
    let asked = asked.to_canonical();
    let ips = match bound.ip().to_canonical() {
        ip if !ip.is_unspecified() => vec![ip],
        any => {
            // An IPv6 socket serves IPv4 too, as IPv6 addresses that hold one.
            let served = |ip: &IpAddr| any.is_ipv6() || ip.is_ipv4();
            let own = own().into_iter().filter(|ip| asked.is_loopback() || !ip.is_loopback());
            let mut ips: Vec<_> = [asked].into_iter().chain(own).filter(served).collect();
            let mut seen = Vec::new();
            ips.retain(|ip| {
                usable(*ip) && !seen.contains(ip) && {
                    seen.push(*ip);
                    true
                }
            });
            ips
        }
    };
    ips.into_iter().take(MAX).map(|ip| SocketAddr::new(ip, bound.port())).collect()
}

/// Link-local addresses mean nothing without the interface they belong to.
fn usable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_unicast_link_local(),
    }
}

/// This machine's addresses, as Linux tells them.
fn own() -> Vec<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let v4 = fib_trie(&read("/proc/net/fib_trie"));
    let v6 = if_inet6(&read("/proc/net/if_inet6"));
    v4.into_iter().map(IpAddr::V4).chain(v6.into_iter().map(IpAddr::V6)).collect()
}

/// The routing tables' leaves `|-- 192.0.2.2` that are followed by `/32 host LOCAL`.
fn fib_trie(text: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = leaf
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// Lines of 32 hexadecimal digits and what is not of interest here.
fn if_inet6(text: &str) -> Vec<Ipv6Addr> {
    let word = |line: &str| line.split_whitespace().next().map(String::from);
    let bits = |word: String| u128::from_str_radix(&word, 16).ok();
    text.lines().filter_map(word).filter_map(bits).map(Ipv6Addr::from_bits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 127.0.0.0/8 2 0 2\n\
                        |-- 127.0.0.0\n /8 host LOCAL\n |-- 127.0.0.1\n /32 host LOCAL\n |-- 192.0.2.2\n /32 host LOCAL\n\
                        |-- 192.0.2.255\n /32 link BROADCAST\nLocal:\n |-- 192.0.2.2\n /32 host LOCAL\n";

    #[test]
    fn the_kernel_s_tables_are_read() {
        assert_eq!(fib_trie(TRIE), [Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 0, 2, 2)]);
        let line = "20010db8000000000000000000000001 02 40 00 80 eth0\nnonsense\n";
        assert_eq!(if_inet6(line), ["2001:db8::1".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn the_address_that_was_asked_comes_first() {
        let bound: SocketAddr = "0.0.0.0:8080".parse().unwrap();
        let away = candidates(bound, "192.0.2.77".parse().unwrap());
        assert_eq!(away[0], "192.0.2.77:8080".parse().unwrap());
        assert!(away.iter().all(|a| !a.ip().is_loopback() && a.is_ipv4()));
        let local = candidates(bound, "127.0.0.1".parse().unwrap());
        assert_eq!(local[0], "127.0.0.1:8080".parse().unwrap());
        let only: SocketAddr = "127.0.0.1:9".parse().unwrap();
        assert_eq!(candidates(only, "192.0.2.77".parse().unwrap()), [only]);
        let mapped = candidates("[::]:1".parse().unwrap(), "::ffff:192.0.2.77".parse().unwrap());
        assert_eq!(mapped[0], "192.0.2.77:1".parse().unwrap());
    }
}
