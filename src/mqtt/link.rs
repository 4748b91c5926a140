//! How the broker is reached: address, credentials, TLS and last will made into the client's options, and what goes
//! wrong there made into words. It connects nothing.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{
    ConnectReturnCode, ConnectionError, LastWill, MqttOptions, QoS, TlsConfiguration, Transport,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config;

/// Where Debian, Yocto and their kin keep the certificates they trust.
pub(crate) const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Why there is no connection to the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("mqtt.broker {0:?} is not mqtt://host:port or mqtts://host:port")]
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
    #[error("the connection to {broker} broke: {reason}")]
    Broken { broker: String, reason: String },
}

/// Where the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

impl Endpoint {
    pub(super) fn own(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port(), tls: false }
    }

    pub(super) fn parse(url: &str) -> Result<Self, LinkError> {
        // What stands before an @ is never shown.
        if url.contains('@') {
            return Err(LinkError::UrlWithPassword);
        }
        let bad = || LinkError::BadUrl(url.chars().take(200).collect());
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        let (tls, default_port) = match scheme {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return Err(bad()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // An IPv6 address keeps its brackets: the resolver takes it so.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| bad())?),
            _ => (rest, default_port),
        };
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty()
            || port == 0
            || host.contains(['/', '?', '#', ' '])
            || (host.contains(':') && !bracketed)
        {
            return Err(bad());
        }
        Ok(Self { host: host.into(), port, tls })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The client's options. Files are read each time, so that a mended one is taken at the next attempt.
pub(super) fn options(
    config: &config::Mqtt,
    endpoint: &Endpoint,
    client_id: &str,
    available_topic: &str,
) -> Result<MqttOptions, LinkError> {
    let mut options = MqttOptions::new(client_id, endpoint.host.clone(), endpoint.port);
    options.set_keep_alive(KEEP_ALIVE);
    options.set_clean_session(true);
    options.set_max_packet_size(1 << 20, 16 << 20);
    options.set_last_will(LastWill::new(available_topic, "offline", QoS::AtLeastOnce, true));
    if config.broker.is_empty() {
        return Ok(options);
    }
    if !config.username.is_empty() {
        let password = match set(&config.password_file) {
            Some(path) => read("mqtt.password_file", path)?.trim_end_matches(['\r', '\n']).into(),
            None => String::new(),
        };
        options.set_credentials(config.username.clone(), password);
    }
    if endpoint.tls {
        let tls = TlsConfiguration::Rustls(Arc::new(tls(config)?));
        options.set_transport(Transport::tls_with_config(tls));
    }
    Ok(options)
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

/// The client library's error in words that say what to do.
pub(super) fn explain(error: &ConnectionError, endpoint: &Endpoint) -> LinkError {
    let broker = endpoint.to_string();
    match error {
        ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => {
            LinkError::Silent(broker)
        }
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => LinkError::Credentials(broker),
        ConnectionError::ConnectionRefused(code) => {
            LinkError::Refused { broker, reason: format!("{code:?}") }
        }
        ConnectionError::Tls(e) => LinkError::Tls { broker, reason: e.to_string() },
        ConnectionError::Io(e) => match e.kind() {
            ErrorKind::ConnectionRefused => LinkError::NobodyThere(broker),
            ErrorKind::TimedOut => LinkError::Silent(broker),
            // rustls reports its own faults inside of these two.
            ErrorKind::InvalidData | ErrorKind::InvalidInput if endpoint.tls => {
                LinkError::Tls { broker, reason: e.to_string() }
            }
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof => LinkError::Broken { broker, reason: e.to_string() },
            _ => LinkError::Unreachable { broker, reason: e.to_string() },
        },
        other => LinkError::Broken { broker, reason: other.to_string() },
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
        ] {
            let expected = Endpoint { host: host.into(), port, tls };
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
        ] {
            assert!(matches!(Endpoint::parse(bad), Err(LinkError::BadUrl(_))), "{bad}");
        }
        let error = Endpoint::parse("mqtt://me:secret@host").unwrap_err();
        assert!(!error.to_string().contains("secret"));
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
        let error = options(&config, &endpoint, "id", "t").unwrap_err().to_string();
        assert!(error.contains("mqtt.password_file") && error.contains("/nowhere/password"));
        config.username.clear();
        config.ca_file = "/nowhere/ca".into();
        let error = options(&config, &endpoint, "id", "t").unwrap_err().to_string();
        assert!(error.contains("mqtt.ca_file"), "{error}");
        let empty = tempfile::NamedTempFile::new().unwrap();
        config.ca_file = empty.path().into();
        assert!(options(&config, &endpoint, "id", "t").is_err());
    }
}
