//! One connection to a relay's target: dials, shakes hands, publishes, and pushes units until either side ends. When to
//! try again is `push`'s business.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rand::RngCore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::client::{Client, Said};
use super::feed::{Announce, Feed};
use super::outbox::{Framing, Outbox, PourError};
use super::push::RelayCounters;
use super::target::Target;
use crate::ingest::dechunk::{DechunkError, Dechunker, Limits, Message, kind, write_message};
use crate::media::Stream;
use crate::media::ring::Gathered;
use crate::mqtt::SYSTEM_CERTIFICATES;

/// From dialling to the server's word that it publishes.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A target that takes nothing for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// What may wait in the kernel, bytes: little enough that a stalled target is noticed within seconds.
const SEND_BUFFER: u32 = 256 << 10;
/// A publisher that is away for so long: the target is told goodbye before it calls the silence a failure.
const AWAY: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 4 << 10;
const HANDSHAKE_BYTES: usize = 1536;
/// A server says little.
const FROM_SERVER: Limits =
    Limits { max_message_bytes: 64 << 10, max_chunk_streams: 16, max_partial_bytes: 128 << 10 };

/// Why a push ended before its stream did.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("TLS failed: {0}; check the host name, or set the relay's ca_file")]
    Tls(io::Error),
    #[error("cannot read certificates from {path}: {reason}; set the relay's ca_file")]
    Certificates { path: PathBuf, reason: String },
    #[error("{0}")]
    Name(#[from] InvalidDnsNameError),
    #[error("does not speak RTMP")]
    NotRtmp,
    #[error("did not begin within {BEGIN_TIMEOUT:?}")]
    Silent,
    #[error("refused: {0}")]
    Refused(String),
    #[error("took nothing for {0:?}")]
    Stalled(Duration),
    #[error("closed the connection")]
    Closed,
    #[error("sent what is not RTMP: {0}")]
    Chunk(#[from] DechunkError),
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
}

impl From<PourError> for LinkError {
    fn from(error: PourError) -> Self {
        match error {
            PourError::Stalled(patience) => Self::Stalled(patience),
            PourError::Io(error) => Self::Broken(error),
        }
    }
}

/// Pushes `stream` to `target` until the stream ends, its publisher stays away, or `stop` is cancelled. `live` is called once media may flow.
pub(super) async fn push(
    target: &Target,
    ca_file: &Path,
    stream: &Stream,
    counters: &RelayCounters,
    stop: &CancellationToken,
    live: impl FnOnce(),
) -> Result<(), LinkError> {
    let begin_by = Instant::now() + BEGIN_TIMEOUT;
    let socket = timeout_at(begin_by, dial(target)).await.map_err(|_| LinkError::Silent)?;
    let socket = socket.map_err(LinkError::Unreachable)?;
    if !target.tls {
        return Talk::new(socket, target).run(begin_by, stream, counters, stop, live).await;
    }
    let connector = TlsConnector::from(Arc::new(tls(ca_file)?));
    let name = match target.host.parse::<std::net::IpAddr>() {
        Ok(address) => ServerName::from(address),
        Err(_) => ServerName::try_from(target.host.clone())?,
    };
    let secured = timeout_at(begin_by, connector.connect(name, socket));
    let socket = secured.await.map_err(|_| LinkError::Silent)?.map_err(LinkError::Tls)?;
    Talk::new(socket, target).run(begin_by, stream, counters, stop, live).await
}

/// Tries each address of the host in turn.
async fn dial(target: &Target) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in tokio::net::lookup_host((target.host.as_str(), target.port)).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_send_buffer_size(SEND_BUFFER)?;
        match socket.connect(address).await {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Trusts the certificates in `ca_file`, or the system's when it is empty.
fn tls(ca_file: &Path) -> Result<ClientConfig, LinkError> {
    let given = !ca_file.as_os_str().is_empty();
    let path = if given { ca_file } else { Path::new(SYSTEM_CERTIFICATES) };
    let bad = |reason: String| LinkError::Certificates { path: path.into(), reason };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| bad(e.to_string()))?;
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(found).0 == 0 {
        return Err(bad("no certificate in it".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| bad(e.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// One conversation on an open connection.
struct Talk<S> {
    socket: S,
    client: Client,
    dechunker: Dechunker,
    input: BytesMut,
    output: Vec<u8>,
    chunk_size: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    fn new(socket: S, target: &Target) -> Self {
        let (client, connect) = Client::new(target.clone());
        let (dechunker, input) = (Dechunker::new(FROM_SERVER), BytesMut::new());
        let mut talk =
            Self { socket, client, dechunker, input, output: Vec::new(), chunk_size: 128 };
        talk.say(&connect);
        talk
    }

    async fn run(
        mut self,
        begin_by: Instant,
        stream: &Stream,
        counters: &RelayCounters,
        stop: &CancellationToken,
        live: impl FnOnce(),
    ) -> Result<(), LinkError> {
        let beginning = async {
            self.handshake().await?;
            self.until_live().await
        };
        let message_stream =
            timeout_at(begin_by, beginning).await.map_err(|_| LinkError::Silent)??;
        live();
        self.media(message_stream, stream, counters, stop).await?;
        for message in self.client.goodbye() {
            self.say(&message);
        }
        self.flush().await?;
        // Lets a secured connection say goodbye; nothing depends on it.
        let _ = timeout(Duration::from_secs(1), self.socket.shutdown()).await;
        Ok(())
    }

    /// The plain handshake (5.2), which every server takes.
    async fn handshake(&mut self) -> Result<(), LinkError> {
        let mut ours = vec![0; 1 + HANDSHAKE_BYTES];
        ours[0] = 3;
        rand::rng().fill_bytes(&mut ours[9..]);
        self.socket.write_all(&ours).await?;
        self.socket.flush().await?;
        let mut theirs = vec![0; 1 + 2 * HANDSHAKE_BYTES];
        self.socket.read_exact(&mut theirs).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => LinkError::NotRtmp,
            _ => error.into(),
        })?;
        if theirs[0] != 3 {
            return Err(LinkError::NotRtmp);
        }
        self.socket.write_all(&theirs[1..=HANDSHAKE_BYTES]).await?;
        Ok(())
    }

    /// Talks until media may flow; the message stream for it.
    async fn until_live(&mut self) -> Result<u32, LinkError> {
        self.flush().await?;
        loop {
            self.input.reserve(READ_BYTES);
            let n = self.socket.read_buf(&mut self.input).await?;
            if let Some(stream) = self.heard(n)? {
                return Ok(stream);
            }
            self.flush().await?;
        }
    }

    async fn media(
        &mut self,
        message_stream: u32,
        stream: &Stream,
        counters: &RelayCounters,
        stop: &CancellationToken,
    ) -> Result<(), LinkError> {
        self.flush().await?;
        let mut cursor = stream.ring.cursor();
        let mut feed = Feed::new(Announce::SetDataFrame, stream.ring.newest_audio());
        let mut outbox = Outbox::new(Framing::Rtmp { stream: message_stream });
        let mut newest = Instant::now();
        loop {
            let (mut taken, mut left_out) = (0, 0);
            let gathered = cursor.gather(|unit| {
                match feed.take(unit, &mut outbox) {
                    true => taken += 1,
                    false => left_out += 1,
                }
                if outbox.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            self.input.reserve(READ_BYTES);
            tokio::select! {
                gathered = gathered => match gathered {
                    Gathered::Units => {
                        newest = Instant::now();
                        counters.units_sent.add(taken);
                        counters.units_dropped.add(left_out);
                        outbox.pour(&mut self.socket, STALL_TIMEOUT).await?;
                        // Behind TLS what was written may still wait for its record to go out.
                        let flushed = timeout(STALL_TIMEOUT, self.socket.flush()).await;
                        flushed.map_err(|_| LinkError::Stalled(STALL_TIMEOUT))??;
                    }
                    Gathered::Lagged { skipped } => {
                        counters.lagged.inc();
                        counters.units_dropped.add(skipped);
                        feed.skipped();
                    }
                    Gathered::Ended => return Ok(()),
                },
                read = self.socket.read_buf(&mut self.input) => {
                    self.heard(read?)?;
                    self.flush().await?;
                }
                () = sleep_until(newest + AWAY) => {
                    if stream.is_online() {
                        newest = Instant::now();
                    } else {
                        return Ok(());
                    }
                }
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Takes `n` bytes that were read; the message stream once media may flow.
    fn heard(&mut self, n: usize) -> Result<Option<u32>, LinkError> {
        if n == 0 {
            return Err(LinkError::Closed);
        }
        let acknowledgement = self.client.received(n);
        acknowledgement.iter().for_each(|message| self.say(message));
        let mut live = None;
        while let Some(message) = self.dechunker.next(&mut self.input)? {
            for said in self.client.handle(&message) {
                match said {
                    Said::Send(message) => self.say(&message),
                    Said::ChunkSize(size) => self.chunk_size = size,
                    Said::Live { stream } => live = Some(stream),
                    Said::Refused(why) => return Err(LinkError::Refused(why)),
                }
            }
        }
        Ok(live)
    }

    fn say(&mut self, message: &Message) {
        let csid = match message.kind {
            kind::SET_CHUNK_SIZE..=kind::SET_PEER_BANDWIDTH => 2,
            _ => 3,
        };
        write_message(&mut self.output, csid, message, self.chunk_size);
    }

    async fn flush(&mut self) -> Result<(), LinkError> {
        let write = async {
            self.socket.write_all(&self.output).await?;
            self.socket.flush().await
        };
        timeout(STALL_TIMEOUT, write).await.map_err(|_| LinkError::Stalled(STALL_TIMEOUT))??;
        self.output.clear();
        Ok(())
    }
}
