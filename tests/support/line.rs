//! A line between two programs that a test can hold up, as a bad Wi-Fi does, or lose, as a network that is gone does. It
//! changes no byte and keeps few.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// What the kernel may hold on the way, bytes; left alone it would take seconds of video.
const BUFFER: usize = 32 << 10;

pub struct Line {
    pub port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    held: AtomicBool,
    dark: AtomicBool,
    /// Grows with every loss: the connections of before it carry nothing any more.
    age: AtomicU32,
}

impl Line {
    /// Carries what comes in at `port` to `to`, until the test ends.
    pub fn to(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                wait_while(&shared.dark);
                let Some(far) = connect(to) else { continue };
                let (near_back, far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let (here, there) = (Arc::clone(&shared), Arc::clone(&shared));
                let age = shared.age.load(Ordering::Relaxed);
                std::thread::spawn(move || carry(far_back, near_back, &here, age, Way::Back));
                std::thread::spawn(move || carry(near, far, &there, age, Way::Out));
            }
        });
        Self { port, state }
    }

    /// Takes nothing from the far end for so long.
    pub fn hold(&self, length: Duration) {
        self.state.held.store(true, Ordering::Relaxed);
        std::thread::sleep(length);
        self.state.held.store(false, Ordering::Relaxed);
    }

    /// Carries nothing for so long. The connections there are stay open at both ends and never carry anything again.
    pub fn lose(&self, length: Duration) {
        self.state.dark.store(true, Ordering::Relaxed);
        self.state.age.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(length);
        self.state.dark.store(false, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Out,
    Back,
}

fn wait_while(flag: &AtomicBool) {
    while flag.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn connect(to: u16) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    // Before connecting: it bounds the window that is offered.
    socket.set_recv_buffer_size(BUFFER).ok()?;
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, to)).into()).ok()?;
    Some(socket.into())
}

fn carry(mut from: TcpStream, mut to: TcpStream, line: &State, age: u32, way: Way) {
    let mut buffer = [0; BUFFER];
    loop {
        if way == Way::Back {
            wait_while(&line.held);
        }
        let read = from.read(&mut buffer);
        if line.age.load(Ordering::Relaxed) != age {
            // Until the test ends, which ends this thread.
            loop {
                std::thread::park();
            }
        }
        match read {
            Ok(n @ 1..) if to.write_all(&buffer[..n]).is_ok() => {}
            _ => break,
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
