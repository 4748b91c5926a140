//! The token file: how tokens are made, hashed, written with mode 0600 and read back. It does not judge callers.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Denied, Grant, Right, Secret};
use crate::files;
use crate::media::StreamId;

/// The token file's name in the state directory.
pub const FILE_NAME: &str = "tokens.toml";
const OWNER: &str = "owner";
/// Names that [`Grant::who`] uses itself.
const RESERVED: [&str; 3] = [OWNER, "loopback", "anonymous"];
/// A token file of honest use is a few kilobytes; more is not read.
const MAX_FILE_BYTES: u64 = 1 << 20;

const HEADER: &str = "\
# Who may use this node from elsewhere than the machine itself. Keep this file private.
# `spotter token add | list | revoke` changes it; the owner's token is the one stored in plain.

";

#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("cannot {what} {path}: {source}{}", remedy(source))]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{path} is not a token file (line {line}): mend it, or move it away and restart to get a new owner token"
    )]
    Corrupt { path: PathBuf, line: usize },
    #[error("the system gives no random numbers: {0}")]
    NoRandom(String),
    #[error("token name {0:?} is not allowed: use 1 to 64 letters, digits, '-' or '_'")]
    BadName(String),
    #[error("token name {0:?} is taken: choose another, or revoke it first")]
    NameTaken(String),
    #[error("a token needs at least one right: publish, read or admin")]
    NoRights,
    #[error("there is no token {0:?}: `spotter token list` shows them")]
    Unknown(String),
    #[error("the owner's token cannot be revoked, only renewed")]
    OwnerStays,
}

/// One token as the owner may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenInfo {
    pub name: String,
    pub rights: Vec<Right>,
    /// The one stream it is tied to; absent: all.
    pub stream: Option<String>,
    pub takeover: bool,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    name: String,
    rights: Vec<Right>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(default)]
    takeover: bool,
    /// The owner's only, so that the owner can read it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// Everyone else's, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip)]
    digest: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tokens {
    version: u32,
    #[serde(default)]
    token: Vec<Token>,
}

/// What tells one state of the file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    modified_ns: i128,
}

impl Token {
    pub(super) fn new(
        name: &str,
        rights: &[Right],
        stream: Option<&StreamId>,
        takeover: bool,
        secret: &Secret,
    ) -> Result<Self, AuthError> {
        // Stream names and token names share one alphabet.
        StreamId::new(name).map_err(|bad| AuthError::BadName(bad.0))?;
        if RESERVED.contains(&name) {
            return Err(AuthError::NameTaken(name.into()));
        }
        if rights.is_empty() {
            return Err(AuthError::NoRights);
        }
        let digest = digest(secret.expose());
        Ok(Self {
            name: name.into(),
            rights: rights.to_vec(),
            stream: stream.map(|s| s.as_str().into()),
            takeover,
            secret: None,
            sha256: Some(hex(&digest)),
            digest,
        })
    }

    fn owner(secret: &Secret) -> Self {
        Self {
            name: OWNER.into(),
            rights: vec![Right::Publish, Right::Read, Right::Admin],
            stream: None,
            takeover: true,
            secret: Some(secret.expose().into()),
            sha256: None,
            digest: digest(secret.expose()),
        }
    }

    pub(super) fn allows(&self, right: Right, stream: Option<&StreamId>) -> Result<Grant, Denied> {
        let tied_elsewhere = match (&self.stream, stream) {
            (None, _) => false,
            (Some(own), Some(asked)) => own != asked.as_str(),
            (Some(_), None) => true,
        };
        if tied_elsewhere || !self.rights.contains(&right) {
            let stream = stream.map_or_else(|| "every stream".to_owned(), ToString::to_string);
            return Err(Denied::NotAllowed { right, stream });
        }
        Ok(Grant { who: self.name.clone(), token: Some(self.mark()), takeover: self.takeover })
    }

    /// Enough of the hash to tell tokens apart, and too little to be one.
    fn mark(&self) -> String {
        hex(&self.digest[..8])
    }

    /// Makes `digest` of what the file holds; `None` when it holds no secret or a broken one.
    fn complete(mut self) -> Option<Self> {
        self.digest = match (&self.secret, &self.sha256) {
            (Some(secret), None) if !secret.is_empty() => digest(secret),
            (None, Some(hash)) => unhex(hash)?,
            _ => return None,
        };
        Some(self)
    }
}

impl Tokens {
    /// Looks at every token whatever it finds, so that the time taken tells nothing.
    pub(super) fn find(&self, text: &str) -> Option<&Token> {
        let asked = digest(text);
        let mut found = None;
        for token in &self.token {
            if bool::from(token.digest.ct_eq(&asked)) {
                found = Some(token);
            }
        }
        found
    }

    pub(super) fn knows(&self, mark: &str) -> bool {
        self.token.iter().any(|token| token.mark() == mark)
    }

    pub(super) fn add(&mut self, token: Token) -> Result<(), AuthError> {
        if self.token.iter().any(|t| t.name == token.name) {
            return Err(AuthError::NameTaken(token.name));
        }
        self.token.push(token);
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<(), AuthError> {
        if name == OWNER {
            return Err(AuthError::OwnerStays);
        }
        let before = self.token.len();
        self.token.retain(|t| t.name != name);
        if self.token.len() == before {
            return Err(AuthError::Unknown(name.chars().take(80).collect()));
        }
        Ok(())
    }

    /// The owner's token, unless a person deleted it from the file.
    pub(super) fn owner(&self) -> Option<Secret> {
        self.token.iter().find_map(|token| token.secret.clone()).map(Secret)
    }

    pub(super) fn set_owner(&mut self, secret: &Secret) {
        self.token.retain(|t| t.name != OWNER);
        self.token.insert(0, Token::owner(secret));
    }

    pub(super) fn list(&self) -> Vec<TokenInfo> {
        let info = |t: &Token| TokenInfo {
            name: t.name.clone(),
            rights: t.rights.clone(),
            stream: t.stream.clone(),
            takeover: t.takeover,
        };
        self.token.iter().map(info).collect()
    }
}

/// 192 random bits, URL-safe.
pub(super) fn random_secret() -> Result<Secret, AuthError> {
    let mut bytes = [0_u8; 24];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|e| AuthError::NoRandom(e.to_string()))?;
    Ok(Secret(URL_SAFE_NO_PAD.encode(bytes)))
}

pub(super) fn make_dir(dir: &Path) -> Result<(), AuthError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| AuthError::Io { what: "make", path: dir.into(), source })
}

/// Reads the file; `None` when there is none.
pub(super) fn read(file: &Path) -> Result<Option<(Tokens, Stamp)>, AuthError> {
    match read_present(file) {
        Ok(read) => Ok(Some(read)),
        Err(AuthError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

pub(super) fn read_present(file: &Path) -> Result<(Tokens, Stamp), AuthError> {
    let failed = |source| AuthError::Io { what: "read", path: file.into(), source };
    let open = File::open(file).map_err(failed)?;
    let meta = open.metadata().map_err(failed)?;
    if meta.mode() & 0o077 != 0 {
        tracing::warn!(file = %file.display(), "others on this machine can read the tokens: chmod 600 it");
    }
    let mut text = String::new();
    open.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(|source| match source.kind() {
        ErrorKind::InvalidData => AuthError::Corrupt { path: file.into(), line: 1 },
        _ => failed(source),
    })?;
    let tokens = parse(&text).map_err(|line| AuthError::Corrupt { path: file.into(), line })?;
    Ok((tokens, stamp_of(&meta)))
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            ": start spotter as the user who owns it, or give it to that user"
        }
        _ => "",
    }
}

/// The file's text, or the line that is wrong. The parser's own message is not passed on: it quotes secrets.
fn parse(text: &str) -> Result<Tokens, usize> {
    let mut tokens: Tokens = toml::from_str(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
    })?;
    if tokens.version != 1 {
        return Err(1);
    }
    let complete: Option<Vec<_>> = tokens.token.into_iter().map(Token::complete).collect();
    tokens.token = complete.ok_or(1_usize)?;
    Ok(tokens)
}

pub(super) fn stamp(file: &Path) -> Option<Stamp> {
    fs::metadata(file).ok().map(|meta| stamp_of(&meta))
}

fn stamp_of(meta: &fs::Metadata) -> Stamp {
    let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Stamp { inode: meta.ino(), bytes: meta.len(), modified_ns }
}

/// Makes the file with a new owner token, unless there is one by now.
pub(super) fn create(file: &Path) -> Result<Option<Secret>, AuthError> {
    let secret = random_secret()?;
    let tokens = Tokens { version: 1, token: vec![Token::owner(&secret)] };
    let draft = write_draft(file, &tokens)?;
    // A link, unlike a rename, fails when somebody else made the file meanwhile.
    let linked = fs::hard_link(&draft, file);
    let _ = fs::remove_file(&draft);
    match linked {
        Ok(()) => {
            // If that fails it may be gone after a loss of power: then the next start makes another, and tells it.
            let _ = files::sync_entry(file);
            Ok(Some(secret))
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(source) => Err(AuthError::Io { what: "make", path: file.into(), source }),
    }
}

/// Puts `tokens` in the file's place at once, whole.
pub(super) fn replace(file: &Path, tokens: &Tokens) -> Result<Stamp, AuthError> {
    let failed = |source| AuthError::Io { what: "write", path: file.into(), source };
    let draft = write_draft(file, tokens)?;
    let meta = fs::metadata(&draft).map_err(failed)?;
    // A token that was taken back must not be there again after a loss of power.
    fs::rename(&draft, file).and_then(|()| files::sync_entry(file)).map_err(failed)?;
    Ok(stamp_of(&meta))
}

fn write_draft(file: &Path, tokens: &Tokens) -> Result<PathBuf, AuthError> {
    let draft = file.with_extension(format!("draft-{}", std::process::id()));
    let failed = |source| AuthError::Io { what: "write", path: draft.clone(), source };
    let body = toml::to_string(tokens).map_err(|e| failed(io::Error::other(e.to_string())))?;
    // Left by a process of this number that was killed.
    let _ = fs::remove_file(&draft);
    let mut out =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed)?;
    out.write_all(HEADER.as_bytes())
        .and_then(|()| out.write_all(body.as_bytes()))
        .and_then(|()| out.sync_all())
        .and_then(|()| give_to_owner_of(&draft, &out))
        .map_err(failed)?;
    Ok(draft)
}

/// The service reads the file as its own user: what root writes beside its other files becomes that user's.
fn give_to_owner_of(file: &Path, out: &File) -> io::Result<()> {
    let folder = fs::metadata(file.parent().unwrap_or(Path::new(".")))?;
    if folder.uid() == out.metadata()?.uid() {
        return Ok(());
    }
    fchown(out, Some(folder.uid()), Some(folder.gid()))
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut out = [0; 32];
    for (byte, at) in out.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Guard;
    use crate::config;

    #[test]
    fn the_file_is_private_from_its_first_moment() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/state");
        let (guard, first) = Guard::open(&state, &config::Auth::default()).unwrap();
        let first = first.unwrap();
        assert_eq!(first.file, state.join(FILE_NAME));
        assert!(first.owner.expose().len() >= 32);
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(guard.file()).unwrap().mode() & 0o777, 0o600);
        guard.add("x", &[Right::Read], None, false).unwrap();
        assert_eq!(fs::metadata(guard.file()).unwrap().mode() & 0o777, 0o600);
        // No drafts stay behind.
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn what_root_writes_belongs_to_the_folder_s_owner() {
        let dir = tempfile::tempdir().unwrap();
        if std::os::unix::fs::chown(dir.path(), Some(12345), Some(12345)).is_err() {
            return; // Only root gives files away.
        }
        let (guard, _) = Guard::open(dir.path(), &config::Auth::default()).unwrap();
        guard.add("x", &[Right::Read], None, false).unwrap();
        let meta = fs::metadata(guard.file()).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (12345, 12345, 0o600));
    }

    #[test]
    fn a_file_that_makes_no_sense_is_named_and_left_alone() {
        let secret = "tOpSeCrEt";
        for bad in [
            "\u{0}\u{1}garbage".to_owned(),
            "version = 2\n".to_owned(),
            format!("version = 1\n[[token]]\nname = \"a\"\nrights = [\"{secret}\"]\n"),
            format!(
                "version = 1\n[[token]]\nname = \"a\"\nrights = [\"read\"]\nsha256 = \"{secret}\"\n"
            ),
            format!("version = 1\n[[token]]\nname = \"owner\"\nsecret = \"{secret}\n"),
            "version = 1\n[[token]]\nname = \"a\"\nrights = [\"read\"]\n".to_owned(),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join(FILE_NAME);
            fs::write(&file, &bad).unwrap();
            let error = Guard::open(dir.path(), &config::Auth::default()).unwrap_err();
            assert!(matches!(error, AuthError::Corrupt { .. }), "{error:?}");
            let text = format!("{error} {error:?}");
            assert!(text.contains(FILE_NAME) && !text.contains(secret), "{text}");
            assert_eq!(fs::read_to_string(&file).unwrap(), bad);
        }
    }

    #[test]
    fn invalid_utf8_is_a_corrupt_file_too() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), [0xff, 0xfe]).unwrap();
        let error = Guard::open(dir.path(), &config::Auth::default()).unwrap_err();
        assert!(matches!(error, AuthError::Corrupt { .. }));
    }

    #[test]
    fn a_broken_file_does_not_take_the_tokens_from_a_running_service() {
        let dir = tempfile::tempdir().unwrap();
        let (guard, _) = Guard::open(dir.path(), &config::Auth::default()).unwrap();
        fs::write(guard.file(), "nonsense").unwrap();
        assert!(guard.reload().is_err());
        assert_eq!(guard.list().len(), 1);
        assert!(guard.add("x", &[Right::Read], None, false).is_err());
        assert_eq!(fs::read_to_string(guard.file()).unwrap(), "nonsense");
    }
}
