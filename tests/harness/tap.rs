//! A TCP relay that counts connections and the bytes that clients send.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
}

pub struct Tap {
    address: SocketAddr,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    /// Listens on `address` and relays everything to `behind`.
    pub fn start(address: SocketAddr, behind: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let thread = thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                shared.connections.fetch_add(1, Ordering::SeqCst);
                if let Ok(server) = TcpStream::connect(behind) {
                    pass(&client, &server, &shared);
                }
            }
        });
        Self { address, counts, thread: Some(thread) }
    }

    /// Connections accepted, and bytes that clients sent on them.
    pub fn counted(&self) -> (u64, u64) {
        let counts = &self.counts;
        (counts.connections.load(Ordering::SeqCst), counts.bytes.load(Ordering::SeqCst))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.counts.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn pass(client: &TcpStream, server: &TcpStream, counts: &Arc<Counts>) {
    let clone = |stream: &TcpStream| stream.try_clone().unwrap();
    let (from_client, to_server) = (clone(client), clone(server));
    let counts = Arc::clone(counts);
    thread::spawn(move || {
        copy(from_client, to_server, |bytes| {
            counts.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        })
    });
    let (from_server, to_client) = (clone(server), clone(client));
    thread::spawn(move || copy(from_server, to_client, |_| {}));
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut count: impl FnMut(usize)) -> io::Result<()> {
    let mut buffer = vec![0; 65536];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return to.shutdown(Shutdown::Write);
        }
        count(read);
        to.write_all(&buffer[..read])?;
    }
}
