//! A line between two programs that a test can hold up, as a bad Wi-Fi does. It changes no byte and keeps few.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// What the kernel may hold on the way, bytes; left alone it would take seconds of video.
const BUFFER: usize = 32 << 10;

pub struct Line {
    pub port: u16,
    held: Arc<AtomicBool>,
}

impl Line {
    /// Carries what comes in at `port` to `to`, until the test ends.
    pub fn to(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let held = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&held);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Some(far) = connect(to) else { continue };
                let (near_back, far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let held = Arc::clone(&shared);
                std::thread::spawn(move || carry(far_back, near_back, &held));
                std::thread::spawn(move || carry(near, far, &AtomicBool::new(false)));
            }
        });
        Self { port, held }
    }

    /// Takes nothing from the far end for so long.
    pub fn hold(&self, length: Duration) {
        self.held.store(true, Ordering::Relaxed);
        std::thread::sleep(length);
        self.held.store(false, Ordering::Relaxed);
    }
}

fn connect(to: u16) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    // Before connecting: it bounds the window that is offered.
    socket.set_recv_buffer_size(BUFFER).ok()?;
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, to)).into()).ok()?;
    Some(socket.into())
}

fn carry(mut from: TcpStream, mut to: TcpStream, held: &AtomicBool) {
    let mut buffer = [0; BUFFER];
    loop {
        while held.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        match from.read(&mut buffer) {
            Ok(n @ 1..) if to.write_all(&buffer[..n]).is_ok() => {}
            _ => break,
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
