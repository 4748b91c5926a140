//! Where a relay pushes to: its URL taken apart (pure), and the care that nobody reads the secret in it.

use std::fmt;

/// Where a stream is pushed. Its `Debug` and `Display` show host and port only.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    pub tls: bool,
    /// A name, an IPv4 address, or an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
    /// Scheme, host and application, as `connect` names them.
    pub tc_url: String,
    pub app: String,
    /// The last part of the path with the query, kept to the letter.
    pub key: String,
}

/// Why a text is not a relay's URL. It never repeats the text, which holds a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error("is not rtmp://host/app/key or rtmps://host/app/key")]
    Form,
    #[error("has no stream key: give rtmp://host/app/key")]
    NoKey,
    #[error(
        "holds a user or password, which RTMP targets are not given: leave out what stands before the @"
    )]
    UserInfo,
    #[error("holds spaces or control characters")]
    Characters,
}

impl Target {
    pub fn parse(url: &str) -> Result<Self, BadTarget> {
        if url.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(BadTarget::Characters);
        }
        let (scheme, rest) = url.split_once("://").ok_or(BadTarget::Form)?;
        let scheme = scheme.to_ascii_lowercase();
        let (tls, default_port) = match scheme.as_str() {
            "rtmp" => (false, 1935),
            "rtmps" => (true, 443),
            _ => return Err(BadTarget::Form),
        };
        let (place, path) = rest.split_once('/').ok_or(BadTarget::Form)?;
        if place.contains('@') {
            return Err(BadTarget::UserInfo);
        }
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().ok().filter(|p| *p != 0).ok_or(BadTarget::Form)?)
            }
            _ => (place, default_port),
        };
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let sound = match bare {
            Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '?', '#', '[', ']']),
        };
        if !sound {
            return Err(BadTarget::Form);
        }
        // Only a slash of the path parts it; a query may hold others.
        let path_end = path.find('?').unwrap_or(path.len());
        let cut = path[..path_end].rfind('/').ok_or(BadTarget::NoKey)?;
        let (app, key) = (&path[..cut], &path[cut + 1..]);
        if app.is_empty() || key.is_empty() || key.starts_with('?') {
            return Err(BadTarget::NoKey);
        }
        Ok(Self {
            tls,
            host: bare.unwrap_or(host).to_owned(),
            port,
            tc_url: format!("{scheme}://{place}/{app}"),
            app: app.to_owned(),
            key: key.to_owned(),
        })
    }

    /// `text` for people: short, and without the key wherever the other end repeated it.
    pub fn hide(&self, text: &str) -> String {
        let name = self.key.split('?').next().unwrap_or_default();
        let values =
            self.key.split(['?', '&']).skip(1).map(|p| p.split_once('=').map_or(p, |p| p.1));
        let mut shown = text.to_owned();
        for secret in [self.key.as_str(), name].into_iter().chain(values).filter(|s| !s.is_empty())
        {
            shown = shown.replace(secret, "***");
        }
        shown.chars().filter(|c| !c.is_control()).take(200).collect()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_kept_to_the_letter() {
        for (url, shown, tc_url, app, key) in [
            ("rtmp://h/live/cam", "h:1935", "rtmp://h/live", "live", "cam"),
            (
                "rtmp://h:7/live/cam?token=a/b&x=%20",
                "h:7",
                "rtmp://h:7/live",
                "live",
                "cam?token=a/b&x=%20",
            ),
            (
                "rtmps://live.example.com/a/b/K-e_y",
                "live.example.com:443",
                "rtmps://live.example.com/a/b",
                "a/b",
                "K-e_y",
            ),
            ("RTMPS://h:8443/rtmp/k", "h:8443", "rtmps://h:8443/rtmp", "rtmp", "k"),
            ("rtmp://[::1]:9/live/cam", "[::1]:9", "rtmp://[::1]:9/live", "live", "cam"),
            ("rtmp://[::1]/live/cam", "[::1]:1935", "rtmp://[::1]/live", "live", "cam"),
        ] {
            let t = Target::parse(url).unwrap_or_else(|e| panic!("{url}: {e}"));
            let got = (t.to_string(), t.tc_url.as_str(), t.app.as_str(), t.key.as_str());
            assert_eq!(got, (shown.to_owned(), tc_url, app, key), "{url}");
        }
    }

    #[test]
    fn what_is_no_target_is_refused_without_being_shown() {
        for (url, error) in [
            ("", BadTarget::Form),
            ("http://h/live/cam", BadTarget::Form),
            ("rtmp:/h/live/cam", BadTarget::Form),
            ("rtmp://h", BadTarget::Form),
            ("rtmp://:1935/live/cam", BadTarget::Form),
            ("rtmp://h:0/live/cam", BadTarget::Form),
            ("rtmp://h:99999/live/cam", BadTarget::Form),
            ("rtmp://::1/live/cam", BadTarget::Form),
            ("rtmp://[x]/live/cam", BadTarget::Form),
            ("rtmp://h/live", BadTarget::NoKey),
            ("rtmp://h/live/", BadTarget::NoKey),
            ("rtmp://h/live?a=/b", BadTarget::NoKey),
            ("rtmp://h/live/?token=x", BadTarget::NoKey),
            ("rtmp://me:secret@h/live/cam", BadTarget::UserInfo),
            ("rtmp://h/live/cam key", BadTarget::Characters),
        ] {
            assert_eq!(Target::parse(url), Err(error), "{url}");
        }
    }

    #[test]
    fn the_key_does_not_show() {
        let t = Target::parse("rtmp://h/live/hush?token=quiet&s=still").unwrap();
        assert_eq!(format!("{t} {t:?}"), "h:1935 Target(h:1935)");
        let said = "no stream hush?token=quiet&s=still, no hush, quiet or still\r\n";
        assert_eq!(t.hide(said), "no stream ***, no ***, *** or ***");
    }
}
