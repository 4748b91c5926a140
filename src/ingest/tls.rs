//! RTMPS: the certificate and key that connections are encrypted with. What is said inside is `connection`'s business.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::config;

/// The RTMPS door.
pub struct TlsDoor {
    pub(super) listener: TcpListener,
    pub(super) acceptor: TlsAcceptor,
}

impl std::fmt::Debug for TlsDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TlsDoor").field(&self.listener).finish()
    }
}

/// Why RTMPS cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {file}: {reason}; give PEM in {key}")]
    File { key: &'static str, file: String, reason: String },
    #[error("certificate and key do not go together: {0}")]
    Pair(#[from] rustls::Error),
    #[error("cannot listen: {0}")]
    Listen(#[from] io::Error),
}

impl TlsDoor {
    pub async fn bind(config: &config::Tls) -> Result<Self, TlsError> {
        let acceptor = acceptor(config)?;
        Ok(Self { listener: TcpListener::bind(config.listen).await?, acceptor })
    }

    pub fn listener(&self) -> &TcpListener {
        &self.listener
    }
}

fn acceptor(config: &config::Tls) -> Result<TlsAcceptor, TlsError> {
    let bad = |key, file: &Path, reason: String| {
        let file = file.display().to_string();
        TlsError::File { key, file, reason }
    };
    let certificates = CertificateDer::pem_file_iter(&config.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| bad("ingest.tls.certificate", &config.certificate, e.to_string()))?;
    if certificates.is_empty() {
        let reason = "there is no certificate in it".to_owned();
        return Err(bad("ingest.tls.certificate", &config.certificate, reason));
    }
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|e| bad("ingest.tls.key", &config.key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    Ok(TlsAcceptor::from(Arc::new(server)))
}
