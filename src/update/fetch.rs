//! What comes from elsewhere: the word of who tells the newest version, and bundles, over HTTP or from a file. Bounded in size and
//! time. What comes is believed by nobody until RAUC has judged its signature.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use url::Url;

use crate::config;
use crate::mqtt::SYSTEM_CERTIFICATES;

const CONNECT: Duration = Duration::from_secs(15);
/// Silence after which a server is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// A bundle that takes longer will not come.
const LONGEST: Duration = Duration::from_secs(3 * 3600);
const MAX_NEWS: u64 = 64 << 10;
/// Left free on the disk.
const SPARE: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0:?} is no address: give https://..., http://..., or a path that begins with /")]
    Address(String),
    #[error(
        "cannot read certificates from {path}: {reason}; install ca-certificates, or set update.ca_file"
    )]
    Certificates { path: PathBuf, reason: String },
    #[error("{host}: {reason}")]
    Http { host: String, reason: String },
    #[error("cannot read {path}: {reason}")]
    File { path: PathBuf, reason: io::Error },
    #[error("it has more than {0} bytes: raise update.max_bundle_bytes, if it is a bundle indeed")]
    TooLong(u64),
    #[error(
        "there is no room: {needed} bytes are needed and {free} free; delete recordings, or lower record.keep_bytes"
    )]
    NoRoom { needed: u64, free: u64 },
    #[error("cannot write {path}: {reason}")]
    Write { path: PathBuf, reason: io::Error },
    #[error(
        "{place} says nothing of versions: {reason}; it should be {{\"version\":\"1.2.0\",\"bundle\":\"<address>\"}}"
    )]
    News { place: String, reason: String },
}

/// Where something comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Web(Url),
    File(PathBuf),
}

impl Place {
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        let bad = || FetchError::Address(text.chars().take(200).collect());
        if text.starts_with('/') {
            return Ok(Self::File(text.into()));
        }
        let url = Url::parse(text).map_err(|_| bad())?;
        if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
            return Err(bad());
        }
        Ok(Self::Web(url))
    }

    /// What is named beside this.
    fn beside(&self, text: &str) -> Result<Self, FetchError> {
        match self {
            Self::Web(url) => Self::parse(
                url.join(text).map_err(|_| FetchError::Address(text.to_owned()))?.as_str(),
            ),
            // A file may name another on the web.
            Self::File(path) => match text.contains("://") {
                true => Self::parse(text),
                false => Ok(Self::File(path.with_file_name("").join(text))),
            },
        }
    }

    /// Without what stands behind a `?` or before an `@`, which may be secret.
    pub fn shown(&self) -> String {
        match self {
            Self::Web(url) => format!("{}://{}{}", url.scheme(), host(url), url.path()),
            Self::File(path) => path.display().to_string(),
        }
    }
}

/// With the port, where it is not the scheme's own.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A newer version, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    pub version: String,
    pub bundle: Place,
}

/// Asks for the newest version. Blocks.
pub fn news(place: &Place, ca_file: &Path) -> Result<News, FetchError> {
    #[derive(Deserialize)]
    struct Told {
        version: String,
        bundle: String,
    }
    let (from, _) = open(place, ca_file)?;
    let mut text = Vec::new();
    let bad = |reason: String| FetchError::News { place: place.shown(), reason };
    from.take(MAX_NEWS + 1).read_to_end(&mut text).map_err(|e| bad(e.to_string()))?;
    if text.len() as u64 > MAX_NEWS {
        return Err(bad(format!("it has more than {MAX_NEWS} bytes")));
    }
    let told: Told = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    let legal = |c: char| c.is_ascii_graphic();
    if told.version.is_empty() || told.version.len() > 64 || !told.version.chars().all(legal) {
        return Err(bad("its version is none".into()));
    }
    Ok(News { version: told.version, bundle: place.beside(&told.bundle)? })
}

/// Copies a bundle to `to`; `told` hears how much of how much has come. What was cut short does not stay. Blocks.
pub fn copy(
    place: &Place,
    to: &Path,
    config: &config::Update,
    mut told: impl FnMut(u64, Option<u64>),
) -> Result<(), FetchError> {
    let (mut from, long) = open(place, &config.ca_file)?;
    let mut out = Intake::open(to, config.max_bundle_bytes, long)?;
    let mut chunk = vec![0; 256 << 10];
    loop {
        let read = from.read(&mut chunk).map_err(|e| match place {
            Place::Web(url) => http(url, e),
            Place::File(path) => FetchError::File { path: path.clone(), reason: e },
        })?;
        if read == 0 {
            break;
        }
        out.write(&chunk[..read])?;
        told(out.written, long);
    }
    out.finish()
}

/// A file that grows within bounds and is whole or not there.
#[derive(Debug)]
pub struct Intake {
    file: File,
    draft: PathBuf,
    to: PathBuf,
    max: u64,
    written: u64,
    finished: bool,
}

impl Intake {
    /// `long` is how long it will be, where that is known.
    pub fn open(to: &Path, max: u64, long: Option<u64>) -> Result<Self, FetchError> {
        let failed = |reason| FetchError::Write { path: to.to_owned(), reason };
        if let Some(needed) = long {
            if needed > max {
                return Err(FetchError::TooLong(max));
            }
            let free = free_bytes(to.parent().unwrap_or(Path::new("/")));
            if let Some(free) = free
                && free < needed.saturating_add(SPARE)
            {
                return Err(FetchError::NoRoom { needed, free });
            }
        }
        let draft = to.with_extension("part");
        let _ = fs::remove_file(&draft);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
        let file = file.map_err(failed)?;
        Ok(Self { file, draft, to: to.into(), max, written: 0, finished: false })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.written += bytes.len() as u64;
        if self.written > self.max {
            return Err(FetchError::TooLong(self.max));
        }
        self.file.write_all(bytes).map_err(|e| self.failed(e))
    }

    pub fn finish(mut self) -> Result<(), FetchError> {
        self.file.sync_all().map_err(|e| self.failed(e))?;
        fs::rename(&self.draft, &self.to).map_err(|e| self.failed(e))?;
        self.finished = true;
        Ok(())
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    fn failed(&self, reason: io::Error) -> FetchError {
        match reason.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let free = free_bytes(self.to.parent().unwrap_or(Path::new("/"))).unwrap_or(0);
                FetchError::NoRoom { needed: self.written, free }
            }
            _ => FetchError::Write { path: self.to.clone(), reason },
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.draft);
        }
    }
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// What to read from, and how long it is if that is known.
fn open(place: &Place, ca_file: &Path) -> Result<(Box<dyn Read>, Option<u64>), FetchError> {
    match place {
        Place::File(path) => {
            let failed = |reason| FetchError::File { path: path.clone(), reason };
            let file = File::open(path).map_err(failed)?;
            let meta = file.metadata().map_err(failed)?;
            if !meta.is_file() {
                return Err(failed(io::Error::other("it is no file")));
            }
            Ok((Box::new(file), Some(meta.len())))
        }
        Place::Web(url) => {
            let config = ureq::Agent::config_builder()
                .user_agent(concat!("spotter/", env!("CARGO_PKG_VERSION")))
                .max_redirects(5)
                .timeout_connect(Some(CONNECT))
                .timeout_recv_response(Some(SILENCE))
                .timeout_per_read(Some(SILENCE))
                .timeout_global(Some(LONGEST))
                .tls_config(tls(url, ca_file)?)
                .build();
            let answer = config.new_agent().get(url.as_str()).call().map_err(|e| http(url, e))?;
            let body = answer.into_body();
            let long = body.content_length();
            Ok((Box::new(body.into_with_config().limit(u64::MAX).reader()), long))
        }
    }
}

fn tls(url: &Url, ca_file: &Path) -> Result<TlsConfig, FetchError> {
    let given = !ca_file.as_os_str().is_empty();
    let path = if given { ca_file } else { Path::new(SYSTEM_CERTIFICATES) };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
    // A server on http:// may lead on to https://: the certificates are wanted then too, if there are any.
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<CertificateDer<'_>> = match read {
        Ok(found) => found,
        Err(_) if url.scheme() == "http" && !given => Vec::new(),
        Err(e) => {
            return Err(FetchError::Certificates { path: path.into(), reason: e.to_string() });
        }
    };
    let roots: Vec<_> = found.iter().map(|c| Certificate::from_der(c).to_owned()).collect();
    Ok(config.root_certs(RootCerts::new_with_certs(&roots)).build())
}

fn http(url: &Url, error: impl Into<ureq::Error>) -> FetchError {
    let reason = match error.into() {
        ureq::Error::StatusCode(404) => "it has no such file: check the address".to_owned(),
        ureq::Error::StatusCode(status) => format!("it answered {status}"),
        ureq::Error::HostNotFound => {
            "there is no such host, or no name server is reached".to_owned()
        }
        ureq::Error::Timeout(_) => "it does not answer".to_owned(),
        other => other.to_string(),
    };
    FetchError::Http { host: host(url), reason }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers each connection with the next of `answers`, byte for byte.
    fn server(answers: Vec<Vec<u8>>) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut socket, _) = listener.accept().unwrap();
                let mut head = [0; 4096];
                let _ = socket.read(&mut head);
                let _ = socket.write_all(&answer);
            }
        });
        Url::parse(&format!("http://{at}/dir/news.json?key=hush")).unwrap()
    }

    fn ok(body: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[test]
    fn the_newest_version_is_read_and_its_bundle_found_beside_it() {
        let url = server(vec![ok(r#"{"version":"1.2.0","bundle":"b.raucb","more":1}"#)]);
        let news = news(&Place::Web(url.clone()), Path::new("")).unwrap();
        assert_eq!(news.version, "1.2.0");
        let port = url.port().unwrap();
        assert_eq!(news.bundle.shown(), format!("http://127.0.0.1:{port}/dir/b.raucb"));
        let plain = Place::parse("https://u:hush@example.org:443/a?key=hush").unwrap();
        assert_eq!(plain.shown(), "https://example.org/a");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("news.json");
        fs::write(&file, r#"{"version":"2","bundle":"b.raucb"}"#).unwrap();
        let place = Place::parse(file.to_str().unwrap()).unwrap();
        assert_eq!(
            super::news(&place, Path::new("")).unwrap().bundle,
            Place::File(dir.path().join("b.raucb"))
        );
    }

    #[test]
    fn what_says_nothing_is_named_without_its_secrets() {
        let long = "x".repeat(70_000);
        for answer in [
            ok("<html>"),
            ok("{\"version\":\"\",\"bundle\":\"b\"}"),
            ok(&long),
            b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
            b"SSH-2.0-x\r\n".to_vec(),
            b"".to_vec(),
        ] {
            let error =
                news(&Place::Web(server(vec![answer])), Path::new("")).unwrap_err().to_string();
            assert!(error.contains("127.0.0.1") && !error.contains("hush"), "{error}");
        }
        for bad in ["", "b.raucb", "ftp://h/x", "file:///etc", "http://"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bundle_comes_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("bundle.raucb");
        let url = server(vec![
            ok("bundle"),
            b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf".to_vec(),
            ok("longer than allowed"),
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nlonger than allowed".to_vec(),
        ]);
        let place = Place::Web(url);
        let bounds = config::Update { max_bundle_bytes: 10, ..config::Update::default() };
        let mut seen = 0;
        copy(&place, &to, &bounds, |done, long| {
            assert_eq!(long, Some(6));
            seen = done;
        })
        .unwrap();
        assert_eq!((fs::read(&to).unwrap(), seen), (b"bundle".to_vec(), 6));
        fs::remove_file(&to).unwrap();
        for _ in 0..3 {
            copy(&place, &to, &bounds, |_, _| {}).unwrap_err();
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        let far = Intake::open(&to, u64::MAX, Some(1 << 60)).unwrap_err();
        assert!(matches!(far, FetchError::NoRoom { .. }), "{far}");
    }
}
