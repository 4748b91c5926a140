//! libsrt, opened at run time: a listener, its callers, and what they send. All that is unsafe about it is here; what
//! callers want and say is not.
//!
//! Functions, options and numbers after libsrt's own header `srt.h`, which kept them from 1.4 on.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libc::{sockaddr, sockaddr_storage, socklen_t};
use socket2::{SockAddr, SockAddrStorage};

/// As distributions call it; the one that GStreamer's plugin links comes first, so that it is there once only.
const NAMES: [&str; 4] =
    ["libsrt-gnutls.so.1.5", "libsrt.so.1.5", "libsrt-openssl.so.1.5", "libsrt.so.1.4"];

type Socket = c_int;
const ERROR: c_int = -1;
type Hook =
    unsafe extern "C" fn(*mut c_void, Socket, c_int, *const sockaddr, *const c_char) -> c_int;

/// SRT_SOCKOPT.
const RCVSYN: c_int = 2;
const RCVTIMEO: c_int = 14;
const PASSPHRASE: c_int = 26;
const RCVLATENCY: c_int = 43;
const STREAMID: c_int = 46;
const IPV6ONLY: c_int = 54;
/// SRT_EPOLL_IN, SRT_EPOLL_ERR.
const READABLE: c_int = 1;
const BROKEN: c_int = 8;
/// Of syslog: worse than an error, which a caller can cause at will. What is worth telling is told here.
const LOG_CRITICAL: c_int = 2;
/// SRT_ETIMEOUT and SRT_EASYNCRCV.
const TIMEOUTS: [c_int; 2] = [6003, 6002];
/// Longest message in live mode (SRT_LIVE_MAX_PLSIZE).
pub(super) const MAX_MESSAGE_BYTES: usize = 1456;
const MAX_STREAM_ID_BYTES: usize = 512;

macro_rules! functions {
    ($($name:ident: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// The functions that are used.
        struct Functions {
            $($name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
            /// Closed never: libsrt leaves threads behind.
            _library: libloading::Library,
        }

        impl Functions {
            fn read(library: libloading::Library) -> Result<Self, libloading::Error> {
                // SAFETY: the types are those of srt.h, and the pointers live as long as the library beside them.
                unsafe {
                    $(let $name = *library.get(concat!(stringify!($name), "\0").as_bytes())?;)*
                    Ok(Self { $($name,)* _library: library })
                }
            }
        }
    };
}

functions! {
    srt_startup: fn() -> c_int;
    srt_setloglevel: fn(c_int);
    srt_create_socket: fn() -> Socket;
    srt_bind: fn(Socket, *const sockaddr, c_int) -> c_int;
    srt_listen: fn(Socket, c_int) -> c_int;
    srt_listen_callback: fn(Socket, Hook, *mut c_void) -> c_int;
    srt_accept: fn(Socket, *mut sockaddr, *mut c_int) -> Socket;
    srt_getsockname: fn(Socket, *mut sockaddr, *mut c_int) -> c_int;
    srt_getsockflag: fn(Socket, c_int, *mut c_void, *mut c_int) -> c_int;
    srt_setsockflag: fn(Socket, c_int, *const c_void, c_int) -> c_int;
    srt_setrejectreason: fn(Socket, c_int) -> c_int;
    srt_recv: fn(Socket, *mut c_char, c_int) -> c_int;
    srt_close: fn(Socket) -> c_int;
    srt_getlasterror: fn(*mut c_int) -> c_int;
    srt_getlasterror_str: fn() -> *const c_char;
    srt_epoll_create: fn() -> c_int;
    srt_epoll_add_usock: fn(c_int, Socket, *const c_int) -> c_int;
    srt_epoll_wait: fn(
        c_int, *mut Socket, *mut c_int, *mut Socket, *mut c_int, i64,
        *mut c_int, *mut c_int, *mut c_int, *mut c_int
    ) -> c_int;
    srt_epoll_release: fn(c_int) -> c_int;
}

/// libsrt, ready for use.
struct Srt(Functions);

/// What libsrt says went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SrtError(String);

impl SrtError {
    pub(super) fn thread(error: io::Error) -> Self {
        Self(format!("no thread: {error}"))
    }
}

/// What a caller is turned away with; numbers of SRT's access control guidelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reject {
    BadRequest = 1400,
    Unauthorized = 1401,
    Overload = 1402,
    BadMode = 1405,
    Conflict = 1409,
}

/// Judges a caller by its address and stream id, before it is let in. Called on a thread of libsrt's.
pub(super) trait Judge: Send + Sync {
    fn judge(&self, peer: SocketAddr, stream_id: &[u8]) -> Result<(), Reject>;
}

/// How a listener is set up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup<'a> {
    pub(super) listen: SocketAddr,
    /// Empty: no encryption is asked for.
    pub(super) passphrase: &'a str,
    pub(super) latency: Duration,
    /// How often a wait looks up.
    pub(super) tick: Duration,
}

/// A bound socket, not yet listening.
#[derive(Debug)]
pub(super) struct Bound(Owned);

#[derive(Debug)]
pub(super) struct Listener {
    socket: Owned,
    poll: Poll,
}

/// One who was let in.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Owned,
    pub(super) peer: SocketAddr,
    pub(super) stream_id: Vec<u8>,
}

/// What came of waiting for a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Message(usize),
    Nothing,
    /// Closed, or not heard of for libsrt's five seconds.
    Gone,
}

/// Closes its socket.
struct Owned {
    srt: &'static Srt,
    socket: Socket,
}

struct Poll {
    srt: &'static Srt,
    id: c_int,
    tick: Duration,
}

impl std::fmt::Debug for Owned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Owned").field(&self.socket).finish()
    }
}

impl std::fmt::Debug for Poll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Poll").field(&self.id).finish()
    }
}

/// Opens libsrt, once in a process.
fn library() -> Result<&'static Srt, SrtError> {
    static SRT: OnceLock<Result<Srt, String>> = OnceLock::new();
    SRT.get_or_init(open).as_ref().map_err(|e| SrtError(e.clone()))
}

fn open() -> Result<Srt, String> {
    let mut first = None;
    for name in NAMES {
        // SAFETY: libsrt's initialisers need nothing from us.
        match unsafe { libloading::Library::new(name) } {
            Ok(library) => {
                let functions = Functions::read(library).map_err(|error| {
                    format!("{name} is no libsrt of version 1.4 or later: {error}")
                })?;
                // SAFETY: as declared; called once, before anything else of libsrt's.
                if unsafe { (functions.srt_startup)() } == ERROR {
                    return Err(format!("{name} does not start"));
                }
                // SAFETY: as declared.
                unsafe { (functions.srt_setloglevel)(LOG_CRITICAL) };
                tracing::debug!(name, "libsrt");
                return Ok(Srt(functions));
            }
            Err(error) => first = first.or(Some(error.to_string())),
        }
    }
    let first = first.unwrap_or_default();
    Err(format!("no libsrt here: install libsrt1.5-gnutls (Debian, Ubuntu) or the like ({first})"))
}

impl Srt {
    /// The error of the last call on this thread.
    fn error(&self) -> SrtError {
        // SAFETY: as declared; the text is of this thread and copied at once.
        let text = unsafe { (self.0.srt_getlasterror_str)() };
        if text.is_null() {
            return SrtError("unknown".into());
        }
        // SAFETY: tested for null just now, and a C string as srt.h has it.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        SrtError(text.trim_end_matches(['.', ' ']).to_owned())
    }

    fn check(&self, result: c_int) -> Result<c_int, SrtError> {
        if result == ERROR { Err(self.error()) } else { Ok(result) }
    }
}

impl Owned {
    fn set(&self, option: c_int, value: &[u8]) -> Result<(), SrtError> {
        // SAFETY: the pointer is valid for the length given, and libsrt copies the value.
        let result = unsafe {
            let (at, length) = (value.as_ptr().cast(), value.len() as c_int);
            (self.srt.0.srt_setsockflag)(self.socket, option, at, length)
        };
        self.srt.check(result).map(drop)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: as declared; a socket that is closed already only gives an error.
        unsafe { (self.srt.0.srt_close)(self.socket) };
    }
}

impl Bound {
    /// Takes the address; nobody is answered yet.
    pub(super) fn new(setup: &Setup<'_>) -> Result<Self, SrtError> {
        let srt = library()?;
        // SAFETY: as declared.
        let socket = srt.check(unsafe { (srt.0.srt_create_socket)() })?;
        let owned = Owned { srt, socket };
        let ms = |time: Duration| c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX);
        owned.set(RCVLATENCY, &ms(setup.latency).to_ne_bytes())?;
        // A caller that is gone again before it is taken must not hold the others up.
        owned.set(RCVSYN, &0_i32.to_ne_bytes())?;
        owned.set(RCVTIMEO, &ms(setup.tick).to_ne_bytes())?;
        if !setup.passphrase.is_empty() {
            owned.set(PASSPHRASE, setup.passphrase.as_bytes())?;
        }
        if setup.listen.ip().is_unspecified() && setup.listen.is_ipv6() {
            owned.set(IPV6ONLY, &0_i32.to_ne_bytes())?;
        }
        let address = SockAddr::from(setup.listen);
        // SAFETY: the address lives over the call and has the length that it says.
        let bound =
            unsafe { (srt.0.srt_bind)(socket, address.as_ptr().cast(), address.len() as c_int) };
        srt.check(bound)?;
        Ok(Self(owned))
    }

    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        let Owned { srt, socket } = self.0;
        // SAFETY: storage and length are valid for writes, and larger than any address.
        let read = |at, length| unsafe { (srt.0.srt_getsockname)(socket, at, length) };
        address_of(read).ok().and_then(|(_, address)| address)
    }

    /// Begins to answer; `judge` decides who comes in.
    pub(super) fn listen(
        self,
        judge: Arc<dyn Judge>,
        backlog: usize,
        tick: Duration,
    ) -> Result<Listener, SrtError> {
        let Owned { srt, socket } = self.0;
        // Kept for ever: a thread of libsrt's may be in it when the listener is closed.
        let opaque: &'static mut Arc<dyn Judge> = Box::leak(Box::new(judge));
        // SAFETY: the hook has the type of srt.h, and what it is given is never freed.
        let hooked =
            unsafe { (srt.0.srt_listen_callback)(socket, hook, std::ptr::from_mut(opaque).cast()) };
        srt.check(hooked)?;
        let backlog = c_int::try_from(backlog).unwrap_or(c_int::MAX);
        // SAFETY: as declared.
        srt.check(unsafe { (srt.0.srt_listen)(socket, backlog) })?;
        // SAFETY: as declared.
        let id = srt.check(unsafe { (srt.0.srt_epoll_create)() })?;
        let poll = Poll { srt, id, tick };
        // SAFETY: the events live over the call.
        let added = unsafe { (srt.0.srt_epoll_add_usock)(id, socket, &(READABLE | BROKEN)) };
        srt.check(added)?;
        Ok(Listener { socket: self.0, poll })
    }
}

/// What libsrt calls for each caller that wants in.
unsafe extern "C" fn hook(
    opaque: *mut c_void,
    socket: Socket,
    _version: c_int,
    peer: *const sockaddr,
    stream_id: *const c_char,
) -> c_int {
    // A panic must not unwind into C++.
    let judged = catch_unwind(AssertUnwindSafe(|| {
        if opaque.is_null() || peer.is_null() || stream_id.is_null() {
            return Err(Reject::BadRequest);
        }
        // SAFETY: it is what `listen` leaked.
        let judge = unsafe { &*opaque.cast::<Arc<dyn Judge>>() };
        // SAFETY: libsrt gives an address of the family it says.
        let peer = unsafe { address(peer) }.ok_or(Reject::BadRequest)?;
        // SAFETY: a C string that lives over this call.
        judge.judge(peer, unsafe { CStr::from_ptr(stream_id) }.to_bytes())
    }));
    match judged {
        Ok(Ok(())) => 0,
        refused => {
            let reject = refused.ok().and_then(Result::err).unwrap_or(Reject::BadRequest);
            if let Ok(srt) = library() {
                // SAFETY: as declared; the socket is the one under judgement.
                unsafe { (srt.0.srt_setrejectreason)(socket, reject as c_int) };
            }
            ERROR
        }
    }
}

/// # Safety
/// `at` points to an address as large as its family says.
unsafe fn address(at: *const sockaddr) -> Option<SocketAddr> {
    // SAFETY: every address begins with its family.
    let length = match c_int::from(unsafe { (*at).sa_family }) {
        libc::AF_INET => size_of::<libc::sockaddr_in>(),
        libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
        _ => return None,
    };
    let copy = |to: *mut sockaddr, size: *mut c_int| {
        // SAFETY: both are valid for `length`, which is less than a storage's.
        unsafe {
            std::ptr::copy_nonoverlapping(at.cast::<u8>(), to.cast::<u8>(), length);
            *size = length as c_int;
        }
        0
    };
    address_of(copy).ok()?.1
}

/// Gives `read` room for an address, and what it returned with the address that it wrote.
fn address_of(
    read: impl FnOnce(*mut sockaddr, *mut c_int) -> c_int,
) -> io::Result<(c_int, Option<SocketAddr>)> {
    let mut size = size_of::<sockaddr_storage>() as c_int;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a storage is a sockaddr_storage; zeroes are one, and whatever is read into it is.
    let at: *mut sockaddr_storage = unsafe { storage.view_as::<sockaddr_storage>() };
    let result = read(at.cast(), &mut size);
    if result == ERROR {
        return Err(io::ErrorKind::Other.into());
    }
    let size = socklen_t::try_from(size).unwrap_or(0).min(storage.size_of());
    // SAFETY: the storage was zeroed and `read` wrote an address of this size into it.
    let address = unsafe { SockAddr::new(storage, size) };
    Ok((result, address.as_socket()))
}

impl Listener {
    /// The next caller that came in; `None` when there was none within a tick.
    pub(super) fn accept(&self) -> Result<Option<Connection>, SrtError> {
        if !self.poll.wait()? {
            return Ok(None);
        }
        let Owned { srt, socket } = self.socket;
        // SAFETY: storage and length are valid for writes, and larger than any address.
        let read = |at, length| unsafe { (srt.0.srt_accept)(socket, at, length) };
        let (socket, peer) = match address_of(read) {
            Ok(accepted) => accepted,
            Err(_) if srt.timed_out() => return Ok(None),
            Err(_) => return Err(srt.error()),
        };
        let socket = Owned { srt, socket };
        socket.set(RCVSYN, &1_i32.to_ne_bytes())?;
        let peer = peer.ok_or_else(|| SrtError("a caller without an address".into()))?;
        let mut stream_id = vec![0; MAX_STREAM_ID_BYTES + 1];
        let mut length = stream_id.len() as c_int;
        // SAFETY: the buffer is valid for the length given.
        let got = unsafe {
            (srt.0.srt_getsockflag)(
                socket.socket,
                STREAMID,
                stream_id.as_mut_ptr().cast(),
                &mut length,
            )
        };
        srt.check(got)?;
        stream_id.truncate(usize::try_from(length).unwrap_or(0));
        Ok(Some(Connection { socket, peer, stream_id }))
    }
}

impl Poll {
    /// Whether something happened within a tick.
    fn wait(&self) -> Result<bool, SrtError> {
        let (mut ready, mut count) = ([0; 1], 1);
        let null = std::ptr::null_mut;
        // SAFETY: room for one socket, as said; what is not asked for may be null.
        let n = unsafe {
            (self.srt.0.srt_epoll_wait)(
                self.id,
                ready.as_mut_ptr(),
                &mut count,
                null(),
                null(),
                self.tick.as_millis() as i64,
                null(),
                null(),
                null(),
                null(),
            )
        };
        match n {
            ERROR if self.srt.timed_out() => Ok(false),
            ERROR => Err(self.srt.error()),
            _ => Ok(true),
        }
    }
}

impl Srt {
    fn timed_out(&self) -> bool {
        // SAFETY: null is allowed for what is not asked.
        TIMEOUTS.contains(&unsafe { (self.0.srt_getlasterror)(std::ptr::null_mut()) })
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        // SAFETY: as declared.
        unsafe { (self.srt.0.srt_epoll_release)(self.id) };
    }
}

impl Connection {
    /// Waits at most a tick for the next message.
    pub(super) fn receive(&self, buffer: &mut [u8; MAX_MESSAGE_BYTES]) -> Received {
        let Owned { srt, socket } = self.socket;
        let (at, length) = (buffer.as_mut_ptr().cast(), buffer.len() as c_int);
        // SAFETY: the buffer is valid for the length given.
        let n = unsafe { (srt.0.srt_recv)(socket, at, length) };
        match usize::try_from(n) {
            Ok(0) => Received::Gone,
            Ok(n) => Received::Message(n.min(buffer.len())),
            Err(_) if srt.timed_out() => Received::Nothing,
            Err(_) => Received::Gone,
        }
    }
}
