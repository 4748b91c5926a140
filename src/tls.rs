//! A door that encrypts: its certificate and key, and the next connection at it or at the plain one beside it. What is said
//! inside is each door's own business.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::config;

pub struct TlsDoor {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for TlsDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TlsDoor").field(&self.listener).finish()
    }
}

/// Why such a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {file}: {reason}; give PEM in {key}")]
    File { key: String, file: String, reason: String },
    #[error("certificate and key do not go together: {0}")]
    Pair(#[from] rustls::Error),
    #[error("cannot listen: {0}")]
    Listen(#[from] io::Error),
}

impl TlsDoor {
    /// `section` is what the configuration calls this door, as "ingest.tls".
    pub async fn bind(section: &str, config: &config::Tls) -> Result<Self, TlsError> {
        let acceptor = acceptor(section, &config.certificate, &config.key)?;
        Ok(Self { listener: TcpListener::bind(config.listen).await?, acceptor })
    }

    pub fn listener(&self) -> &TcpListener {
        &self.listener
    }
}

/// The next connection at either door, and what it is to be encrypted with.
pub async fn accept(
    plain: &TcpListener,
    tls: Option<&TlsDoor>,
) -> io::Result<(TcpStream, SocketAddr, Option<TlsAcceptor>)> {
    let Some(tls) = tls else {
        let (socket, peer) = plain.accept().await?;
        return Ok((socket, peer, None));
    };
    tokio::select! {
        plain = plain.accept() => plain.map(|(socket, peer)| (socket, peer, None)),
        secured = tls.listener.accept() => {
            secured.map(|(socket, peer)| (socket, peer, Some(tls.acceptor.clone())))
        }
    }
}

/// Whether such a door could be opened with these files.
pub fn judge(section: &str, config: &config::Tls) -> Result<(), TlsError> {
    acceptor(section, &config.certificate, &config.key).map(drop)
}

fn acceptor(section: &str, certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let bad = |which: &str, file: &Path, reason: String| {
        let file = file.display().to_string();
        TlsError::File { key: format!("{section}.{which}"), file, reason }
    };
    let certificates = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| bad("certificate", certificate, e.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("certificate", certificate, "there is no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| bad("key", key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    Ok(TlsAcceptor::from(Arc::new(server)))
}
