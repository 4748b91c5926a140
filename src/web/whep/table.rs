//! Which session a datagram is for: known viewers by their address, new ones by the name in their STUN check (pure).

use std::collections::HashMap;
use std::net::SocketAddr;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::media::StreamId;

/// What came by UDP, and from where.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) source: SocketAddr,
    pub(super) data: Vec<u8>,
}

/// The sessions there are, by every name they are called.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By the name in the session's URL.
    sessions: HashMap<String, Entry>,
    /// By our half of the STUN user name.
    ufrags: HashMap<String, mpsc::Sender<Datagram>>,
    sources: HashMap<SocketAddr, mpsc::Sender<Datagram>>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) stream: StreamId,
    pub(super) ufrag: String,
    /// The viewer's half of the STUN user name.
    pub(super) remote_ufrag: String,
    /// Ends the session.
    pub(super) end: CancellationToken,
}

/// Addresses one viewer may come from: it tries each pair of its own and our candidates.
const MAX_SOURCES: usize = 16;

impl Table {
    /// Makes a session known. It is forgotten when the returned place is dropped.
    pub(super) fn enter(
        self: &std::sync::Arc<Self>,
        id: String,
        entry: Entry,
        inbox: mpsc::Sender<Datagram>,
    ) -> Known {
        let known = Known {
            table: std::sync::Arc::clone(self),
            id: id.clone(),
            ufrag: entry.ufrag.clone(),
            inbox: inbox.downgrade(),
            sources: Vec::new(),
        };
        let mut inner = self.0.lock();
        inner.ufrags.insert(entry.ufrag.clone(), inbox);
        inner.sessions.insert(id, entry);
        known
    }

    pub(super) fn get(&self, id: &str, stream: &StreamId) -> Option<Entry> {
        self.0.lock().sessions.get(id).filter(|entry| entry.stream == *stream).cloned()
    }

    /// The inbox of the session that a datagram is for.
    pub(super) fn find(&self, source: SocketAddr, data: &[u8]) -> Option<mpsc::Sender<Datagram>> {
        let inner = self.0.lock();
        match stun_ufrag(data) {
            // A browser may use an old port for a new session: the name says more than the address.
            Some(ufrag) => inner.ufrags.get(ufrag).cloned(),
            None => inner.sources.get(&source).cloned(),
        }
    }
}

/// A session's place in the [`Table`].
#[derive(Debug)]
pub(super) struct Known {
    table: std::sync::Arc<Table>,
    id: String,
    ufrag: String,
    // Weak, so that the table alone keeps the inbox open.
    inbox: mpsc::WeakSender<Datagram>,
    sources: Vec<SocketAddr>,
}

impl Known {
    /// A check from this address had the right password: what else comes from there is for this session.
    pub(super) fn proved(&mut self, source: SocketAddr) {
        if self.sources.contains(&source) || self.sources.len() >= MAX_SOURCES {
            return;
        }
        let Some(inbox) = self.inbox.upgrade() else { return };
        self.table.0.lock().sources.insert(source, inbox);
        self.sources.push(source);
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        let mut inner = self.table.0.lock();
        inner.sessions.remove(&self.id);
        let own = inner.ufrags.remove(&self.ufrag);
        for source in &self.sources {
            // Unless a newer session took the address over.
            let theirs = inner.sources.get(source);
            if theirs.zip(own.as_ref()).is_some_and(|(theirs, own)| theirs.same_channel(own)) {
                inner.sources.remove(source);
            }
        }
    }
}

/// The receiver's half of the user name in a STUN Binding request (RFC 8489 5 and 14.3, RFC 8445 7.2.2).
fn stun_ufrag(data: &[u8]) -> Option<&str> {
    const BINDING_REQUEST: [u8; 2] = [0, 1];
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
    const USERNAME: u16 = 6;
    let (header, mut attributes) = data.split_first_chunk::<20>()?;
    if header[..2] != BINDING_REQUEST || header[4..8] != COOKIE {
        return None;
    }
    loop {
        let ([k0, k1, l0, l1], rest) = attributes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let (value, rest) = rest.split_at_checked(length)?;
        if u16::from_be_bytes([*k0, *k1]) == USERNAME {
            return std::str::from_utf8(value).ok()?.split(':').next();
        }
        // Attributes end on a multiple of four.
        attributes = rest.get(length.wrapping_neg() % 4..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn check(name: &str) -> Vec<u8> {
        let mut data = vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
        data.extend_from_slice(&[7; 12]);
        // PRIORITY-like attribute of three bytes and its padding first.
        data.extend_from_slice(&[0, 0x24, 0, 3, 1, 2, 3, 0]);
        data.extend_from_slice(&[0, 6, 0, name.len() as u8]);
        data.extend_from_slice(name.as_bytes());
        data
    }

    #[test]
    fn a_check_names_its_receiver() {
        assert_eq!(stun_ufrag(&check("ours:theirs")), Some("ours"));
        assert_eq!(stun_ufrag(&check("ours")), Some("ours"));
        let mut answer = check("ours:theirs");
        answer[0] = 1;
        assert_eq!(stun_ufrag(&answer), None);
    }

    #[tokio::test]
    async fn sessions_are_found_and_forgotten() {
        let table = Arc::<Table>::default();
        let stream = StreamId::new("s").unwrap();
        let enter = |ufrag: &str| {
            let entry = Entry {
                stream: stream.clone(),
                ufrag: ufrag.into(),
                remote_ufrag: "b".into(),
                end: CancellationToken::new(),
            };
            let (to, from) = mpsc::channel(1);
            (table.enter(format!("id-{ufrag}"), entry, to), from)
        };
        let source = "192.0.2.1:5".parse().unwrap();
        let (mut old, mut old_inbox) = enter("old");
        assert!(table.find(source, &check("old:b")).is_some());
        assert!(table.find(source, b"\x16dtls").is_none());
        old.proved(source);
        assert!(table.find(source, b"\x16dtls").is_some());
        let (mut new, _new_inbox) = enter("new");
        new.proved(source);
        drop(old);
        assert!(old_inbox.recv().await.is_none());
        assert!(table.find(source, &check("old:b")).is_none());
        assert!(table.find(source, b"\x16dtls").is_some(), "the newer session's");
        assert!(table.get("id-new", &stream).is_some());
        assert!(table.get("id-new", &StreamId::new("t").unwrap()).is_none());
        drop(new);
        assert!(table.find(source, b"\x16dtls").is_none());
    }

    proptest! {
        #[test]
        fn any_datagram_is_looked_at(data in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = stun_ufrag(&data);
            let _ = stun_ufrag(&[&check("")[..20], &data].concat());
        }
    }
}
