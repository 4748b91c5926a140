//! Where an HTTP request comes from, judged by its headers alone. Pure; every door that speaks HTTP asks here.

use std::net::IpAddr;

/// What a request's headers say of where it comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    host: Option<String>,
    origin: Option<String>,
    has_forwarding_headers: bool,
}

impl Origin {
    /// Takes one header in. What is not about the origin is passed over.
    pub fn header(&mut self, name: &str, value: &str) {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "host" => self.host = Some(value.into()),
            "origin" => self.origin = Some(value.into()),
            "forwarded" | "via" | "x-real-ip" => self.has_forwarding_headers = true,
            other if other.starts_with("x-forwarded-") => self.has_forwarding_headers = true,
            _ => {}
        }
    }

    /// Whether the request must not count as from this machine even when its connection is: it came through a proxy,
    /// from a page of another site, or under a name that anyone's DNS may point here.
    pub fn is_from_elsewhere(&self) -> bool {
        let host = self.host.as_deref().map(host_name).unwrap_or_default();
        let foreign_page = match &self.origin {
            None => false,
            // "null" is what sandboxed pages and local files have.
            Some(origin) => match origin.split_once("://") {
                Some((_, rest)) => !host_name(rest).eq_ignore_ascii_case(host),
                None => true,
            },
        };
        self.has_forwarding_headers || foreign_page || !is_own_name(host)
    }
}

/// The token of an `Authorization: Bearer` header (RFC 6750 section 2.1).
pub fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// An address, or the one name that always means this machine (RFC 6761 section 6.3).
fn is_own_name(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok() || bare.eq_ignore_ascii_case("localhost")
}

/// `host` of `host:port`, `[v6]:port` or either without a port.
fn host_name(authority: &str) -> &str {
    let authority = authority.split('/').next().unwrap_or_default();
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(headers: &str) -> Origin {
        let mut origin = Origin::default();
        for (name, value) in headers.lines().filter_map(|l| l.split_once(": ")) {
            origin.header(name, value);
        }
        origin
    }

    #[test]
    fn only_plain_requests_count_as_local() {
        for local in [
            "Host: localhost:8765",
            "Host: 127.0.0.1:8765",
            "Host: [::1]:8765",
            "Host: LOCALHOST\nOrigin: http://localhost:8080",
            "Host: 127.0.0.1:8765\nOrigin: http://127.0.0.1:8080",
            "Host: [::1]:8765\nOrigin: http://[::1]:8080",
        ] {
            assert!(!origin(local).is_from_elsewhere(), "{local}");
        }
        for elsewhere in [
            "",
            "Host: evil.example",
            "Host: evil.example:8765\nOrigin: http://evil.example",
            "Host: localhost:8765\nOrigin: https://evil.example",
            "Host: localhost:8765\nOrigin: null",
            "Host: localhost:8765\nOrigin: file://",
            "Host: localhost:8765\nOrigin: http://127.0.0.1",
            "Host: localhost.evil.example",
            "Host: localhost\nX-Forwarded-For: 10.0.0.1",
            "Host: localhost\nForwarded: for=10.0.0.1",
            "Host: localhost\nVia: 1.1 proxy",
            "Host: localhost\nX-Real-IP: 10.0.0.1",
        ] {
            assert!(origin(elsewhere).is_from_elsewhere(), "{elsewhere}");
        }
    }

    #[test]
    fn a_bearer_token_is_read() {
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
    }
}
