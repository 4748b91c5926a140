//! Who may come through which door: the one place that every door asks.

use std::net::IpAddr;

use crate::media::StreamId;

/// What a caller wants to do; each is granted separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    Publish,
    Read,
    Admin,
}

/// Who asks, as far as the door can tell.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    pub peer: IpAddr,
    /// The request carried forwarding headers, or came from a web page of another origin: never treated as loopback.
    pub forwarded: bool,
    pub token: Option<&'a str>,
}

/// What the caller may do beyond the right itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The token's name, "loopback" or "anonymous": for logs, never a secret.
    pub who: String,
    /// May displace a present publisher.
    pub takeover: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error(
        "no token: add ?token=... (the owner's is in the state directory), or open this door in [auth] anonymous"
    )]
    NoToken,
    #[error("unknown or revoked token")]
    BadToken,
    #[error("this token does not give the right to {right:?} {stream}")]
    NotAllowed { right: Right, stream: String },
}

/// Holds the tokens and judges callers.
#[derive(Debug)]
pub struct Guard {}

impl Guard {
    /// Judges one caller at one door; `stream` is what is published or read, where it is one stream.
    pub fn check(
        &self,
        _caller: &Caller<'_>,
        _right: Right,
        _stream: Option<&StreamId>,
    ) -> Result<Grant, Denied> {
        Err(Denied::NoToken)
    }
}
