//! Who asks: a request's caller as the guard judges it.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::Door;
use super::error::ApiError;
use super::whep::Asker;
use crate::auth::{Caller, Grant, Origin, Right, bearer};
use crate::media::StreamId;

/// The connection's other end, put into each request by the accept loop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// The address of ours that the connection came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local(pub(super) IpAddr);

/// The caller of one request. Its token comes as `Authorization: Bearer` or `?token=`.
pub(super) struct Visitor {
    peer: IpAddr,
    forwarded: bool,
    token: Option<String>,
}

impl Visitor {
    /// The grant, or the refusal to answer with.
    pub(super) fn may(
        &self,
        door: &Door,
        right: Right,
        stream: Option<&StreamId>,
    ) -> Result<Grant, ApiError> {
        door.ctx.guard.check(&self.caller(), right, stream).map_err(|denied| {
            door.ctx.counters.refused_denied.inc();
            denied.into()
        })
    }

    /// Whether the caller also has another right than the one it came in with.
    pub(super) fn has(&self, door: &Door, right: Right) -> bool {
        door.ctx.guard.may(&self.caller(), right)
    }

    fn caller(&self) -> Caller<'_> {
        Caller { peer: self.peer, forwarded: self.forwarded, token: self.token.as_deref() }
    }

    /// Who it is, for what outlives the request.
    pub(super) fn asker(&self) -> Asker {
        Asker { peer: self.peer, forwarded: self.forwarded, token: self.token.clone() }
    }

    /// What the caller showed, for addresses that it is to come back to.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let mut origin = Origin::default();
        let mut token = None;
        for (name, value) in &parts.headers {
            // A header that is not text says nothing we would act on, except that it is there.
            let value = value.to_str().unwrap_or("\u{fffd}");
            origin.header(name.as_str(), value);
            if name == AUTHORIZATION {
                token = bearer(value).map(String::from);
            }
        }
        let query = parts.uri.query().unwrap_or_default();
        let asked = url::form_urlencoded::parse(query.as_bytes())
            .find_map(|(name, value)| (name == "token").then(|| value.into_owned()));
        // Without the accept loop's word the caller is nobody's neighbour.
        let peer = parts.extensions.get::<Peer>().map(|p| p.0);
        Ok(Self {
            peer: peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            forwarded: origin.is_from_elsewhere(),
            token: asked.or(token),
        })
    }
}
