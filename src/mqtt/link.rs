//! How the broker is reached: address, credentials, TLS and last will made into the client's options, and what goes
//! wrong there made into words. It connects nothing.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::v5::mqttbytes::v5::LastWill as LastWill5;
use rumqttc::{LastWill, MqttOptions, NetworkOptions, QoS, TlsConfiguration, Transport, v5};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config;

/// Where Debian, Yocto and their kin keep the certificates they trust.
pub(crate) const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Largest message taken from a broker at least, bytes.
const MAX_INCOMING: usize = 1 << 20;
/// What a message is longer than its payload at most.
const AROUND: usize = 64 << 10;
const MAX_OUTGOING: usize = 16 << 20;
/// Unacknowledged publishes at a time; what brokers grant is often no more.
pub(super) const IN_FLIGHT: u16 = 20;
/// How long a version 5 broker is to keep our session while we are away.
const SESSION_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why there is no connection to the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error(
        "mqtt.broker {0:?} is no broker: give mqtt://host:1883, mqtts://host:8883, ws://host/path, wss://host/path, or \"\" for the embedded one"
    )]
    BadUrl(String),
    #[error("mqtt.broker must not hold a password: use mqtt.username and mqtt.password_file")]
    UrlWithPassword,
    #[error("cannot read {key} {path}: {reason}")]
    File { key: &'static str, path: PathBuf, reason: String },
    #[error(
        "there are no system certificates in {SYSTEM_CERTIFICATES}: install ca-certificates or set mqtt.ca_file"
    )]
    NoCertificates,
    #[error("the client certificate and key do not fit: {0}")]
    ClientCertificate(String),
    #[error("nothing listens at {0}: start the broker or correct mqtt.broker")]
    NobodyThere(String),
    #[error("{broker} cannot be reached: {reason}")]
    Unreachable { broker: String, reason: String },
    #[error("{0} does not answer")]
    Silent(String),
    #[error("{0} refused the credentials: check mqtt.username and mqtt.password_file")]
    Credentials(String),
    #[error("{broker} refused the connection: {reason}")]
    Refused { broker: String, reason: String },
    #[error("TLS with {broker} failed: {reason}; check mqtt.ca_file and the host name")]
    Tls { broker: String, reason: String },
    #[error(
        "{0} wants a client certificate: name one in mqtt.client_cert_file and mqtt.client_key_file"
    )]
    CertificateWanted(String),
    #[error(
        "{broker} refused the client certificate ({reason}): check mqtt.client_cert_file and who signed it"
    )]
    CertificateRefused { broker: String, reason: String },
    #[error(
        "{broker} does not answer in TLS ({reason}): is that port for mqtt:// or ws://, without TLS?"
    )]
    NoTls { broker: String, reason: String },
    #[error(
        "{broker} does not answer in MQTT ({reason}): is that port for TLS (mqtts://) or WebSocket (ws://)?"
    )]
    NoMqtt { broker: String, reason: String },
    #[error("the connection to {broker} broke: {reason}")]
    Broken { broker: String, reason: String },
    #[error(
        "somebody published {bytes} bytes to a command topic of ours, or left them there; connecting to {broker} anew without that"
    )]
    TooLarge { broker: String, bytes: usize },
    #[error("looking whether what was left out at {0} is gone")]
    Look(String),
}

/// Largest message taken from a broker, bytes: our own discovery message comes back to us.
pub(super) fn max_incoming(config: &config::Mqtt) -> usize {
    MAX_INCOMING.max(config.max_packet_bytes.saturating_add(AROUND))
}

/// What is wrong with the configured broker and the files for it, as far as that shows without asking anybody: the key and
/// what to do about it, in which no password stands.
pub(super) fn faults(config: &config::Mqtt) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    if config.broker.is_empty() {
        return all;
    }
    let secured = match Endpoint::parse(&config.broker) {
        Ok(endpoint) => endpoint.tls,
        Err(error) => {
            let error = error.to_string();
            let error = error.strip_prefix("mqtt.broker ").unwrap_or(&error).to_owned();
            all.push(("mqtt.broker", error));
            false
        }
    };
    let there = |path: &PathBuf| path.is_file();
    let own = set(&config.ca_file).is_some() || set(&config.client_cert_file).is_some();
    let files = [&config.ca_file, &config.client_cert_file, &config.client_key_file];
    // Files that are not there are complained of already.
    if secured && own && files.into_iter().all(|f| f.as_os_str().is_empty() || there(f)) {
        match tls(config) {
            Ok(_) | Err(LinkError::NoCertificates) => {}
            Err(LinkError::File { key, path, reason }) => {
                all.push((key, format!("{} cannot be read: {reason}; give PEM", path.display())));
            }
            Err(error) => all.push(("mqtt.client_cert_file", error.to_string())),
        }
    }
    all
}

/// Where the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    /// Over WebSocket, at this path.
    pub(super) path: Option<String>,
}

impl Endpoint {
    pub(super) fn own(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port(), tls: false, path: None }
    }

    pub(super) fn parse(url: &str) -> Result<Self, LinkError> {
        // What stands before an @ is never shown.
        if url.contains('@') {
            return Err(LinkError::UrlWithPassword);
        }
        let bad = || LinkError::BadUrl(url.chars().take(200).collect());
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        let (tls, default_port, web) = match scheme {
            "mqtt" => (false, 1883, false),
            "mqtts" => (true, 8883, false),
            "ws" => (false, 80, true),
            "wss" => (true, 443, true),
            _ => return Err(bad()),
        };
        let (rest, path) = match rest.split_once('/') {
            Some((rest, path)) if web => (rest, format!("/{path}")),
            // Where brokers are by custom.
            None if web => (rest, "/mqtt".into()),
            _ => (rest.strip_suffix('/').unwrap_or(rest), String::new()),
        };
        if path.contains(|c: char| c == '#' || c.is_whitespace()) {
            return Err(bad());
        }
        // An IPv6 address keeps its brackets: the resolver takes it so.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| bad())?),
            _ => (rest, default_port),
        };
        let address = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let fine = match address {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && !host.contains(|c: char| "/?#:[]".contains(c) || c.is_whitespace())
            }
        };
        if port == 0 || !fine {
            return Err(bad());
        }
        Ok(Self { host: host.into(), port, tls, path: web.then_some(path) })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The client's options in the version that is spoken.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // there is one of them, once a connection
pub(super) enum Options {
    V4(Box<MqttOptions>),
    V5(Box<v5::MqttOptions>),
}

/// What becomes of what the broker keeps of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    /// What was not acknowledged is sent again in the same session.
    GoesOn,
    Anew,
}

/// The client's options. Files are read each time, so that a mended one is taken at the next attempt.
pub(super) fn options(
    config: &config::Mqtt,
    endpoint: &Endpoint,
    is_own: bool,
    client_id: &str,
    available_topic: &str,
    session: Session,
) -> Result<Options, LinkError> {
    let login = match set(&config.password_file) {
        _ if is_own || config.username.is_empty() => None,
        Some(path) => {
            let password = read("mqtt.password_file", path)?;
            Some((config.username.clone(), password.trim_end_matches(['\r', '\n']).to_owned()))
        }
        None => Some((config.username.clone(), String::new())),
    };
    let transport = match (&endpoint.path, endpoint.tls) {
        (None, false) => Transport::Tcp,
        (None, true) => Transport::tls_with_config(rustls(config)?),
        (Some(_), false) => Transport::Ws,
        (Some(_), true) => Transport::wss_with_config(rustls(config)?),
    };
    let host = match &endpoint.path {
        Some(path) => {
            let scheme = if endpoint.tls { "wss" } else { "ws" };
            format!("{scheme}://{endpoint}{path}")
        }
        None => endpoint.host.clone(),
    };
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    if config.version == 4 || is_own {
        let mut options = MqttOptions::new(client_id, host, endpoint.port);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_session(session == Session::Anew);
        options.set_inflight(IN_FLIGHT);
        let outgoing = MAX_OUTGOING.max(config.max_packet_bytes.saturating_add(AROUND));
        options.set_max_packet_size(max_incoming(config), outgoing);
        options.set_last_will(LastWill::new(available_topic, "offline", QoS::AtLeastOnce, true));
        options.set_transport(transport);
        if let Some((user, password)) = login {
            options.set_credentials(user, password);
        }
        return Ok(Options::V4(Box::new(options)));
    }
    let mut options = v5::MqttOptions::new(client_id, host, endpoint.port);
    options.set_keep_alive(KEEP_ALIVE);
    options.set_clean_start(session == Session::Anew);
    let expiry = u32::try_from(SESSION_EXPIRY.as_secs()).unwrap_or(u32::MAX);
    options.set_session_expiry_interval(Some(expiry));
    options.set_outgoing_inflight_upper_limit(IN_FLIGHT);
    options.set_max_packet_size(u32::try_from(max_incoming(config)).ok());
    let will = LastWill5::new(available_topic, "offline", QoS5::AtLeastOnce, true, None);
    options.set_last_will(will);
    options.set_transport(transport);
    options.set_network_options(network);
    if let Some((user, password)) = login {
        options.set_credentials(user, password);
    }
    Ok(Options::V5(Box::new(options)))
}

fn rustls(config: &config::Mqtt) -> Result<TlsConfiguration, LinkError> {
    Ok(TlsConfiguration::Rustls(Arc::new(tls(config)?)))
}

fn tls(config: &config::Mqtt) -> Result<ClientConfig, LinkError> {
    let mut roots = RootCertStore::empty();
    let (key, path) = match set(&config.ca_file) {
        Some(path) => ("mqtt.ca_file", path),
        None => ("system certificates", Path::new(SYSTEM_CERTIFICATES)),
    };
    // A system's list may hold a certificate this library does not know; the rest still count.
    let (added, _) = roots.add_parsable_certificates(certificates(key, path)?);
    if added == 0 {
        return Err(match set(&config.ca_file) {
            Some(path) => file_error("mqtt.ca_file", path, "no certificate in it"),
            None => LinkError::NoCertificates,
        });
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| LinkError::ClientCertificate(e.to_string()))?
        .with_root_certificates(roots);
    let Some(cert_path) = set(&config.client_cert_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates("mqtt.client_cert_file", cert_path)?;
    let key_path = &config.client_key_file;
    let key = PrivateKeyDer::from_pem_file(key_path)
        .map_err(|e| file_error("mqtt.client_key_file", key_path, e))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|e| LinkError::ClientCertificate(e.to_string()))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, LinkError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| file_error(key, path, e))
}

fn set(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

fn read(key: &'static str, path: &Path) -> Result<String, LinkError> {
    std::fs::read_to_string(path).map_err(|e| file_error(key, path, e))
}

fn file_error(key: &'static str, path: &Path, reason: impl ToString) -> LinkError {
    LinkError::File { key, path: path.into(), reason: reason.to_string() }
}

/// Why a connection ended, in words of no version.
#[derive(Debug)]
pub(super) enum Ended {
    Silent,
    /// CONNACK with a code that speaks of the credentials, or with another one.
    BadLogin,
    Refused(String),
    Tls(String),
    Io(std::io::Error),
    /// DISCONNECT by a version 5 broker: our client id connected elsewhere.
    TakenOver,
    /// By a message of so many bytes, which are more than we take.
    TooLarge(usize),
    Other(String),
}

/// How far a connection had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The broker had not yet said yes.
    Asking,
    Connected,
}

/// What ended the connection, in words that say what to do.
pub(super) fn explain(ended: Ended, endpoint: &Endpoint, stage: Stage) -> LinkError {
    let broker = endpoint.to_string();
    let broken = |reason: String| {
        let broker = broker.clone();
        match stage {
            Stage::Asking if !endpoint.tls && endpoint.path.is_none() => {
                LinkError::NoMqtt { broker, reason }
            }
            _ => LinkError::Broken { broker, reason },
        }
    };
    match ended {
        Ended::Silent => LinkError::Silent(broker),
        Ended::BadLogin => LinkError::Credentials(broker),
        Ended::Refused(reason) => LinkError::Refused { broker, reason },
        Ended::Tls(reason) => tls_fault(broker, reason),
        Ended::TakenOver => {
            let reason = "another client connected with this node's name".into();
            LinkError::Broken { broker, reason }
        }
        Ended::Io(e) => match e.kind() {
            ErrorKind::ConnectionRefused => LinkError::NobodyThere(broker),
            ErrorKind::TimedOut => LinkError::Silent(broker),
            // rustls reports its own faults inside of these two.
            ErrorKind::InvalidData | ErrorKind::InvalidInput if endpoint.tls => {
                tls_fault(broker, e.to_string())
            }
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof => broken(e.to_string()),
            _ => LinkError::Unreachable { broker, reason: e.to_string() },
        },
        Ended::TooLarge(bytes) if stage == Stage::Connected => {
            LinkError::TooLarge { broker, bytes }
        }
        // What somebody who speaks something else says looks like anything.
        Ended::TooLarge(_) => broken("it answers in another protocol".into()),
        Ended::Other(reason) => broken(reason.chars().take(200).collect()),
    }
}

fn tls_fault(broker: String, reason: String) -> LinkError {
    // By the names that rustls gives to alerts and faults.
    let says = |word: &str| reason.contains(word);
    if says("CertificateRequired") {
        LinkError::CertificateWanted(broker)
    } else if says("fatal alert") && (says("Certificate") || says("UnknownCA")) {
        LinkError::CertificateRefused { broker, reason }
    } else if ["InvalidContentType", "corrupt message", "reset", "eof", "closed"]
        .into_iter()
        .any(says)
    {
        LinkError::NoTls { broker, reason }
    } else {
        LinkError::Tls { broker, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (url, host, port, tls) in [
            ("mqtt://broker", "broker", 1883, false),
            ("mqtt://broker:1884/", "broker", 1884, false),
            ("mqtts://broker.lan", "broker.lan", 8883, true),
            ("mqtt://[::1]", "[::1]", 1883, false),
            ("mqtt://[::1]:99", "[::1]", 99, false),
            ("ws://broker:9001", "broker", 9001, false),
            ("wss://broker/a/b", "broker", 443, true),
        ] {
            let path = match url.split("://").next() {
                Some("ws") => Some("/mqtt".into()),
                Some("wss") => Some("/a/b".into()),
                _ => None,
            };
            let expected = Endpoint { host: host.into(), port, tls, path };
            assert_eq!(Endpoint::parse(url).unwrap(), expected, "{url}");
        }
        for bad in [
            "",
            "broker",
            "broker:1883",
            "http://x",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://a:b",
            "mqtt://a:0",
            "mqtt://a:70000",
            "mqtt://a/b",
            "mqtt://::1",
            "mqtt://a:1:2",
            "mqtts://a b",
            "mqtt://[nonsense]",
            "ws://h/#",
            "ws://h/a b",
        ] {
            assert!(matches!(Endpoint::parse(bad), Err(LinkError::BadUrl(_))), "{bad}");
        }
        let error = Endpoint::parse("mqtt://me:secret@host").unwrap_err();
        assert!(!error.to_string().contains("secret"));
        let with = |broker: &str| config::Mqtt { broker: broker.into(), ..Default::default() };
        assert_eq!(faults(&with("")), []);
        assert_eq!(faults(&with("mqtts://broker.lan")), []);
        for bad in ["mqtt://me:secret@host", "mqtt://host:99999", "broker"] {
            let found = faults(&with(bad));
            assert!(
                matches!(&found[..], [("mqtt.broker", m)] if !m.contains("secret")),
                "{found:?}"
            );
        }
        // There, and no certificate.
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = config::Mqtt { ca_file: file.path().into(), ..with("mqtts://h") };
        assert!(matches!(&faults(&config)[..], [("mqtt.ca_file", _)]), "{:?}", faults(&config));
    }

    #[test]
    fn missing_files_are_named() {
        let endpoint = Endpoint::parse("mqtts://h").unwrap();
        let mut config = config::Mqtt {
            broker: "mqtts://h".into(),
            username: "me".into(),
            password_file: "/nowhere/password".into(),
            ..config::Mqtt::default()
        };
        let error =
            options(&config, &endpoint, false, "id", "t", Session::GoesOn).unwrap_err().to_string();
        assert!(error.contains("mqtt.password_file") && error.contains("/nowhere/password"));
        config.username.clear();
        config.ca_file = "/nowhere/ca".into();
        let error =
            options(&config, &endpoint, false, "id", "t", Session::GoesOn).unwrap_err().to_string();
        assert!(error.contains("mqtt.ca_file"), "{error}");
        let empty = tempfile::NamedTempFile::new().unwrap();
        config.ca_file = empty.path().into();
        assert!(options(&config, &endpoint, false, "id", "t", Session::GoesOn).is_err());
    }
}
