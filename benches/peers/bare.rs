//! A relay that only splices: the physical limit. It checks and logs nothing. It has one
//! edge-triggered epoll per thread, and a pipe of 1 MiB for each direction with bytes in flight.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with};
use socket2::{Domain, Socket, Type};

/// Requested capacity of each pipe, in bytes.
const PIPE: usize = 1024 * 1024;

/// Maximum number of bytes that a direction moves in one turn.
const TURN: usize = 1024 * 1024;

/// The listener's key among the events.
const LISTENER: u64 = u64::MAX;

struct Pipe {
    source: OwnedFd,
    sink: OwnedFd,
    held: usize,
}

/// One direction.
#[derive(Default)]
struct Way {
    pipe: Option<Pipe>,
    ended: bool,
    passed: bool,
}

struct Tunnel {
    ends: [TcpStream; 2],
    ways: [Way; 2],
}

enum Moved {
    /// Moved the maximum of one turn.
    Turn,
    /// Moved everything that is currently possible.
    All,
}

/// `bare UPSTREAM`: prints its port and relays each connection to the upstream until it is killed.
pub fn run(upstream: SocketAddr) -> anyhow::Result<()> {
    super::process::raise_descriptors();
    let first = listen(0)?;
    let port = first.local_addr()?.as_socket().map_or(0, |address| address.port());
    let threads = std::thread::available_parallelism()?.get();
    let others = (1..threads).map(|_| listen(port)).collect::<io::Result<Vec<_>>>()?;
    println!("{port}");
    let spawned: Vec<_> = std::iter::once(first)
        .chain(others)
        .map(|listener| std::thread::spawn(move || serve(&listener, upstream)))
        .collect();
    for thread in spawned {
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the relay broke"))??;
    }
    Ok(())
}

fn listen(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn serve(listener: &Socket, upstream: SocketAddr) -> io::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut tunnels: Vec<Option<Tunnel>> = Vec::new();
    let mut free = Vec::new();
    let mut pipes = Vec::new();
    let mut again: VecDeque<usize> = VecDeque::new();
    let mut events = Vec::with_capacity(256);
    loop {
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let wait = (!again.is_empty()).then_some(&at_once);
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), wait) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let woken = events.iter().map(|event| event.data.u64());
        let due: Vec<u64> = woken.chain(again.drain(..).map(|index| index as u64)).collect();
        for index in due {
            if index == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    let Ok(tunnel) = begin(client, upstream) else { continue };
                    let index = free.pop().unwrap_or_else(|| {
                        tunnels.push(None);
                        tunnels.len() - 1
                    });
                    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP;
                    for end in &tunnel.ends {
                        let data = EventData::new_u64(index as u64);
                        epoll::add(&poll, end, data, flags | EventFlags::ET)?;
                    }
                    tunnels[index] = Some(tunnel);
                    again.push_back(index);
                }
                continue;
            }
            let index = index as usize;
            let Some(Some(tunnel)) = tunnels.get_mut(index) else { continue };
            match tunnel.advance(&mut pipes) {
                Ok(Moved::Turn) => again.push_back(index),
                Ok(Moved::All) if tunnel.ways.iter().all(|way| way.passed) => {
                    tunnels[index] = None;
                    free.push(index);
                }
                Ok(Moved::All) => {}
                Err(_) => {
                    tunnels[index] = None;
                    free.push(index);
                }
            }
        }
    }
}

fn begin(client: Socket, upstream: SocketAddr) -> io::Result<Tunnel> {
    let upstream = TcpStream::connect(upstream)?;
    let client = TcpStream::from(client);
    for end in [&client, &upstream] {
        end.set_nodelay(true)?;
        end.set_nonblocking(true)?;
    }
    Ok(Tunnel { ends: [client, upstream], ways: Default::default() })
}

impl Tunnel {
    fn advance(&mut self, pipes: &mut Vec<Pipe>) -> io::Result<Moved> {
        let Self { ends: [client, upstream], ways: [up, down] } = self;
        let up = up.advance(client, upstream, pipes)?;
        let down = down.advance(upstream, client, pipes)?;
        Ok(if matches!((up, down), (Moved::All, Moved::All)) { Moved::All } else { Moved::Turn })
    }
}

impl Way {
    fn advance(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        pipes: &mut Vec<Pipe>,
    ) -> io::Result<Moved> {
        let mut budget = TURN;
        while !self.ended || self.pipe.is_some() {
            if budget == 0 {
                return Ok(Moved::Turn);
            }
            let mut pipe = match self.pipe.take().or_else(|| pipes.pop()) {
                Some(pipe) => pipe,
                None => Pipe::new()?,
            };
            if pipe.held == 0 {
                match splice(from, &pipe.sink, PIPE) {
                    Ok(0) => self.ended = true,
                    Ok(count) => pipe.held = count,
                    Err(error) => {
                        pipes.push(pipe);
                        return if error.kind() == io::ErrorKind::WouldBlock {
                            Ok(Moved::All)
                        } else {
                            Err(error)
                        };
                    }
                }
            }
            while pipe.held > 0 {
                match splice(&pipe.source, to, pipe.held) {
                    Ok(count) => {
                        pipe.held = pipe.held.saturating_sub(count);
                        budget = budget.saturating_sub(count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.pipe = Some(pipe);
                        return Ok(Moved::All);
                    }
                    Err(error) => return Err(error),
                }
            }
            pipes.push(pipe);
        }
        if !self.passed {
            self.passed = true;
            // The peer may be gone already.
            let _ = to.shutdown(Shutdown::Write);
        }
        Ok(Moved::All)
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (source, sink) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Over the user's quota, the pipe keeps the kernel's default size.
        let _ = fcntl_setpipe_size(&sink, PIPE);
        Ok(Self { source, sink, held: 0 })
    }
}

fn splice(
    from: impl std::os::fd::AsFd,
    to: impl std::os::fd::AsFd,
    length: usize,
) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(rustix::pipe::splice(from, None, to, None, length, flags)?)
}
