//! Who may come through which door: the one place that every door asks. It judges; doors refuse in their own protocol.

mod door;
mod origin;
mod store;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::config::{self, Anonymous};
use crate::health::Counter;
use crate::media::StreamId;

pub use door::{Full, Place, Places, Rarely};
pub use origin::{Origin, bearer};
pub use store::{AuthError, FILE_NAME, TokenInfo};
use store::{Stamp, Token, Tokens};

/// What a caller wants to do; each is granted separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    Publish,
    Read,
    Admin,
}

/// Who asks, as far as the door can tell.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    pub peer: IpAddr,
    /// The request carried forwarding headers, or came from a web page of another origin: never treated as loopback.
    pub forwarded: bool,
    pub token: Option<&'a str>,
}

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("peer", &self.peer)
            .field("forwarded", &self.forwarded)
            .field("token", &self.token.map(|_| "***"))
            .finish()
    }
}

/// What the caller may do beyond the right itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The token's name, "loopback" or "anonymous": for logs, never a secret.
    pub who: String,
    /// Which token it was, if one was needed: the beginning of its hash, no secret. A renewed token is another.
    pub token: Option<String>,
    /// May displace a present publisher.
    pub takeover: bool,
}

/// Why a caller is turned away. None of the texts may contain "Authentication" or "Unauthorized": the glasses give up
/// for good on those.
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

/// A token's text. It is shown only where someone calls [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What the first start made, to be shown once.
#[derive(Debug, Clone)]
pub struct FirstStart {
    pub owner: Secret,
    /// Where the owner finds the token again.
    pub file: PathBuf,
}

/// How often callers were turned away, by reason.
#[derive(Debug, Default, Serialize)]
pub struct Denials {
    pub no_token: Counter,
    pub bad_token: Counter,
    pub not_allowed: Counter,
    /// Wrong tokens that did no harm because the door was open to the caller anyway.
    pub ignored_token: Counter,
}

/// Holds the tokens and judges callers.
pub struct Guard {
    file: PathBuf,
    state: RwLock<State>,
    pub denials: Denials,
}

#[derive(Debug)]
struct State {
    tokens: Tokens,
    anonymous: Vec<Anonymous>,
    /// What the file looked like when it was read, and when that was last compared.
    stamp: Option<Stamp>,
    looked: Instant,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Guard {
    /// A changed token file takes effect within this time of the next caller with a token.
    const LOOK_EVERY: Duration = Duration::from_secs(1);

    /// Reads the tokens in `state_dir`, which is made (mode 0700) when missing. The first start makes the owner's.
    /// A file that cannot be understood is an error and stays as it is.
    pub fn open(
        state_dir: &Path,
        config: &config::Auth,
    ) -> Result<(Self, Option<FirstStart>), AuthError> {
        let file = state_dir.join(FILE_NAME);
        store::make_dir(state_dir)?;
        let (tokens, stamp, made) = match store::read(&file)? {
            Some((tokens, stamp)) => (tokens, stamp, None),
            None => match store::create(&file)? {
                Some(owner) => {
                    let (tokens, stamp) = store::read_present(&file)?;
                    (tokens, stamp, Some(FirstStart { owner, file: file.clone() }))
                }
                // Another process was first.
                None => {
                    let (tokens, stamp) = store::read_present(&file)?;
                    (tokens, stamp, None)
                }
            },
        };
        let state = State {
            tokens,
            anonymous: config.anonymous.clone(),
            stamp: Some(stamp),
            looked: Instant::now(),
        };
        Ok((Self { file, state: RwLock::new(state), denials: Denials::default() }, made))
    }

    /// Judges one caller at one door; `stream` is what is published or read, where it is one stream.
    ///
    /// A caller from loopback, and one at a door that the owner opened to all, needs no token; a wrong one is then
    /// ignored, so that a stale URL does not close a door that is open without it.
    pub fn check(
        &self,
        caller: &Caller<'_>,
        right: Right,
        stream: Option<&StreamId>,
    ) -> Result<Grant, Denied> {
        if caller.token.is_some() {
            self.look_at_file();
        }
        let judged = self.judge(caller, right, stream);
        match &judged {
            Ok((_, None)) => {}
            Ok((grant, Some(ignored))) => {
                self.denials.ignored_token.inc();
                tracing::debug!(peer = %caller.peer, who = grant.who, %ignored, "token ignored");
            }
            Err(denied) => self.count(denied),
        }
        judged.map(|(grant, _)| grant)
    }

    /// The grant, with what was wrong about a token that was not needed.
    fn judge(
        &self,
        caller: &Caller<'_>,
        right: Right,
        stream: Option<&StreamId>,
    ) -> Result<(Grant, Option<Denied>), Denied> {
        let state = self.state.read();
        let denied = match caller.token.filter(|t| !t.is_empty()) {
            None => Denied::NoToken,
            Some(text) => match state.tokens.find(text).map(|token| token.allows(right, stream)) {
                None => Denied::BadToken,
                Some(Ok(grant)) => return Ok((grant, None)),
                Some(Err(denied)) => denied,
            },
        };
        let who = if is_local(caller) {
            "loopback"
        } else if state.opens(right) {
            "anonymous"
        } else {
            return Err(denied);
        };
        let ignored = (denied != Denied::NoToken).then_some(denied);
        Ok((Grant { who: who.into(), token: None, takeover: false }, ignored))
    }

    /// Whether a caller that was let in for one right also has another. A "no" is not counted as a denial.
    pub fn may(&self, caller: &Caller<'_>, right: Right) -> bool {
        self.judge(caller, right, None).is_ok()
    }

    /// Takes over a changed `[auth]` section.
    pub fn update_config(&self, config: &config::Auth) {
        self.state.write().anonymous.clone_from(&config.anonymous);
    }

    /// Reads the file again. On an error the tokens stay what they were.
    pub fn reload(&self) -> Result<(), AuthError> {
        let (tokens, stamp) = store::read_present(&self.file)?;
        let mut state = self.state.write();
        state.tokens = tokens;
        state.stamp = Some(stamp);
        Ok(())
    }

    /// Adds a token and returns its text, which is stored only as a hash and cannot be shown again.
    pub fn add(
        &self,
        name: &str,
        rights: &[Right],
        stream: Option<StreamId>,
        takeover: bool,
    ) -> Result<Secret, AuthError> {
        let secret = store::random_secret()?;
        let token = Token::new(name, rights, stream.as_ref(), takeover, &secret)?;
        self.change(|tokens| tokens.add(token))?;
        Ok(secret)
    }

    /// All tokens, without their secrets, the owner's first.
    pub fn list(&self) -> Vec<TokenInfo> {
        self.look_at_file();
        self.state.read().tokens.list()
    }

    /// Whether [`Grant::token`] is still good for anything.
    pub fn knows(&self, token: &str) -> bool {
        self.state.read().tokens.knows(token)
    }

    pub fn revoke(&self, name: &str) -> Result<(), AuthError> {
        self.change(|tokens| tokens.remove(name))
    }

    /// Gives the owner a new token; the old one is void.
    pub fn renew_owner(&self) -> Result<Secret, AuthError> {
        let secret = store::random_secret()?;
        self.change(|tokens| {
            tokens.set_owner(&secret);
            Ok(())
        })?;
        Ok(secret)
    }

    /// The owner's token, to be shown to who may administer anyway.
    pub fn owner(&self) -> Option<Secret> {
        self.state.read().tokens.owner()
    }

    /// Where the tokens are kept.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Changes what is in the file now, which another process may have changed since it was last read.
    fn change(
        &self,
        how: impl FnOnce(&mut Tokens) -> Result<(), AuthError>,
    ) -> Result<(), AuthError> {
        let mut state = self.state.write();
        let (mut tokens, _) = store::read_present(&self.file)?;
        how(&mut tokens)?;
        state.stamp = Some(store::replace(&self.file, &tokens)?);
        state.tokens = tokens;
        Ok(())
    }

    /// Rereads the file when it changed: `spotter token revoke` must reach a running service.
    pub fn look_at_file(&self) {
        let due = |state: &State| state.looked.elapsed() >= Self::LOOK_EVERY;
        if !due(&self.state.read()) {
            return;
        }
        let seen = {
            let mut state = self.state.write();
            if !due(&state) {
                return;
            }
            state.looked = Instant::now();
            state.stamp
        };
        if store::stamp(&self.file) == seen {
            return;
        }
        match self.reload() {
            Ok(()) => tracing::info!(file = %self.file.display(), "tokens read again"),
            Err(error) => tracing::warn!(%error, "tokens stay as they were"),
        }
    }

    fn count(&self, denied: &Denied) {
        match denied {
            Denied::NoToken => self.denials.no_token.inc(),
            Denied::BadToken => self.denials.bad_token.inc(),
            Denied::NotAllowed { .. } => self.denials.not_allowed.inc(),
        }
    }
}

impl State {
    fn opens(&self, right: Right) -> bool {
        let name = match right {
            Right::Publish => Anonymous::Publish,
            Right::Read => Anonymous::Read,
            Right::Admin => return false,
        };
        self.anonymous.contains(&name)
    }
}

fn is_local(caller: &Caller<'_>) -> bool {
    !caller.forwarded && caller.peer.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "127.0.0.1";
    const AWAY: &str = "192.0.2.7";

    fn open(anonymous: &[Anonymous]) -> (tempfile::TempDir, Guard, Secret) {
        let dir = tempfile::tempdir().unwrap();
        let config = config::Auth { anonymous: anonymous.to_vec() };
        let (guard, first) = Guard::open(dir.path(), &config).unwrap();
        (dir, guard, first.unwrap().owner)
    }

    fn from<'a>(peer: &str, token: Option<&'a str>) -> Caller<'a> {
        Caller { peer: peer.parse().unwrap(), forwarded: false, token }
    }

    fn id(name: &str) -> StreamId {
        StreamId::new(name).unwrap()
    }

    #[test]
    fn loopback_needs_no_token_and_elsewhere_does() {
        let (_dir, guard, owner) = open(&[]);
        for local in [LOCAL, "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            for right in [Right::Publish, Right::Read, Right::Admin] {
                let grant = guard.check(&from(local, None), right, None).unwrap();
                assert_eq!(grant, Grant { who: "loopback".into(), token: None, takeover: false });
            }
        }
        for away in [AWAY, "::ffff:192.0.2.7", "2001:db8::1", "0.0.0.0"] {
            let denied = guard.check(&from(away, None), Right::Read, None).unwrap_err();
            assert_eq!(denied, Denied::NoToken);
            let grant = guard.check(&from(away, Some(owner.expose())), Right::Admin, None);
            let grant = grant.unwrap();
            assert_eq!((grant.who.as_str(), grant.takeover), ("owner", true));
        }
        assert_eq!(guard.denials.no_token.get(), 4);
    }

    #[test]
    fn a_forwarded_request_is_from_elsewhere() {
        let (_dir, guard, owner) = open(&[]);
        let mut caller = from(LOCAL, None);
        caller.forwarded = true;
        assert_eq!(guard.check(&caller, Right::Read, None).unwrap_err(), Denied::NoToken);
        caller.token = Some(owner.expose());
        assert!(guard.check(&caller, Right::Read, None).is_ok());
    }

    #[test]
    fn wrong_tokens_are_refused_unless_the_door_is_open_anyway() {
        let (_dir, guard, _) = open(&[Anonymous::Publish]);
        assert!(guard.check(&from(LOCAL, Some("wrong")), Right::Admin, None).is_ok());
        let denied = guard.check(&from(AWAY, Some("wrong")), Right::Read, None).unwrap_err();
        assert_eq!(denied, Denied::BadToken);
        let grant = guard.check(&from(AWAY, Some("wrong")), Right::Publish, Some(&id("a")));
        assert_eq!(grant.unwrap().who, "anonymous");
        assert_eq!(guard.denials.ignored_token.get(), 2);
        assert!(guard.check(&from(AWAY, Some("")), Right::Publish, None).is_ok());
    }

    #[test]
    fn an_owner_can_open_doors_and_close_them_again() {
        let (_dir, guard, _) = open(&[]);
        assert!(guard.check(&from(AWAY, None), Right::Read, None).is_err());
        guard.update_config(&config::Auth { anonymous: vec![Anonymous::Read] });
        assert!(guard.check(&from(AWAY, None), Right::Read, None).is_ok());
        assert!(guard.check(&from(AWAY, None), Right::Publish, None).is_err());
        assert!(guard.check(&from(AWAY, None), Right::Admin, None).is_err());
        guard.update_config(&config::Auth::default());
        assert!(guard.check(&from(AWAY, None), Right::Read, None).is_err());
    }

    #[test]
    fn a_token_gives_its_rights_on_its_stream_only() {
        let (_dir, guard, _) = open(&[]);
        let cam = guard.add("cam", &[Right::Publish], Some(id("garden")), true).unwrap();
        let caller = from(AWAY, Some(cam.expose()));
        let grant = guard.check(&caller, Right::Publish, Some(&id("garden"))).unwrap();
        assert_eq!((grant.who.as_str(), grant.takeover), ("cam", true));
        for (right, stream) in [
            (Right::Publish, Some(id("door"))),
            (Right::Publish, None),
            (Right::Read, Some(id("garden"))),
            (Right::Admin, None),
        ] {
            let denied = guard.check(&caller, right, stream.as_ref()).unwrap_err();
            assert!(matches!(denied, Denied::NotAllowed { .. }), "{right:?} {stream:?}");
            // From loopback the token's limits do not take away what loopback has.
            let local = from(LOCAL, Some(cam.expose()));
            assert_eq!(guard.check(&local, right, stream.as_ref()).unwrap().who, "loopback");
        }
        assert_eq!(guard.denials.not_allowed.get(), 4);
    }

    #[test]
    fn tokens_survive_a_restart_and_end_with_their_revocation() {
        let (dir, guard, owner) = open(&[]);
        let viewer = guard.add("viewer", &[Right::Read], None, false).unwrap();
        let (again, first) = Guard::open(dir.path(), &config::Auth::default()).unwrap();
        assert!(first.is_none());
        for secret in [&owner, &viewer] {
            let caller = from(AWAY, Some(secret.expose()));
            assert!(again.check(&caller, Right::Read, None).is_ok());
        }
        guard.revoke("viewer").unwrap();
        again.reload().unwrap();
        let caller = from(AWAY, Some(viewer.expose()));
        assert_eq!(again.check(&caller, Right::Read, None).unwrap_err(), Denied::BadToken);
        let new = again.renew_owner().unwrap();
        assert!(again.check(&from(AWAY, Some(owner.expose())), Right::Read, None).is_err());
        assert!(again.check(&from(AWAY, Some(new.expose())), Right::Read, None).is_ok());
    }

    #[test]
    fn another_process_s_change_is_noticed_by_itself() {
        let (dir, guard, _) = open(&[]);
        let (other, _) = Guard::open(dir.path(), &config::Auth::default()).unwrap();
        let new = other.add("new", &[Right::Read], None, false).unwrap();
        guard.state.write().looked -= Guard::LOOK_EVERY;
        assert!(guard.check(&from(AWAY, Some(new.expose())), Right::Read, None).is_ok());
        other.revoke("new").unwrap();
        guard.state.write().looked -= Guard::LOOK_EVERY;
        assert!(guard.check(&from(AWAY, Some(new.expose())), Right::Read, None).is_err());
    }

    #[test]
    fn names_are_checked() {
        let (_dir, guard, _) = open(&[]);
        guard.add("a", &[Right::Read], None, false).unwrap();
        for bad in ["a", "owner", "loopback", "anonymous", "", "x y", "ä"] {
            assert!(guard.add(bad, &[Right::Read], None, false).is_err(), "{bad:?}");
        }
        assert!(guard.add("b", &[], None, false).is_err());
        assert!(guard.revoke("nobody").is_err());
        assert!(guard.revoke("owner").is_err());
        let names: Vec<_> = guard.list().into_iter().map(|t| t.name).collect();
        assert_eq!(names, ["owner", "a"]);
    }

    #[test]
    fn secrets_do_not_show() {
        let (_dir, guard, owner) = open(&[]);
        let secret = guard.add("a", &[Right::Read], None, false).unwrap();
        let shown = format!(
            "{guard:?} {owner:?} {:?} {:?} {:?}",
            guard.list(),
            from(AWAY, Some(secret.expose())),
            guard.state.read(),
        );
        assert!(!shown.contains(owner.expose()) && !shown.contains(secret.expose()), "{shown}");
        let file = std::fs::read_to_string(guard.file()).unwrap();
        assert!(file.contains(owner.expose()) && !file.contains(secret.expose()));
    }
}
