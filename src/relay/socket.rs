//! System calls on sockets: readiness without tokio's cache, the receive low-water mark, and the
//! free space in a send buffer. No decisions.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::panic::catch_unwind;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use rustix::pipe::SpliceFlags;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;

mod option {
    use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// Number of queued bytes from which a socket counts as readable (socket(7)).
        LowWater,
        Both,
        libc::SOL_SOCKET,
        libc::SO_RCVLOWAT,
        i32
    );
    sockopt_impl!(
        /// Maximum receive window, in bytes (tcp(7)).
        WindowClamp,
        Both,
        libc::IPPROTO_TCP,
        libc::TCP_WINDOW_CLAMP,
        i32
    );
    sockopt_impl!(
        /// What the buffers of a socket hold, in the order of `SK_MEMINFO_*` in linux/sock_diag.h.
        MemoryInfo,
        GetOnly,
        libc::SOL_SOCKET,
        libc::SO_MEMINFO,
        [u32; 9]
    );
}

/// TCP keep-alive time and interval: shorter than the four minutes after which Azure's load
/// balancers and NAT gateways drop idle connections.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// Enables TCP keep-alive. It costs four system calls, which short tunnels do not need. Errors are
/// ignored.
pub(super) fn keep_alive(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE);
}

/// Runs `call`, and clears tokio's readiness if it returned `WouldBlock`.
///
/// `TcpStream::try_io` alone returns `WouldBlock` from its cache without a system call, and the
/// cache does not know about bytes below the low-water mark.
pub(super) fn at_once<R>(
    stream: &TcpStream,
    interest: Interest,
    call: impl FnOnce() -> rustix::io::Result<R>,
) -> io::Result<R> {
    let mut call = Some(call);
    let answer = stream.try_io(interest, || match call.take() {
        Some(call) => call().map_err(io::Error::from),
        None => Err(io::ErrorKind::WouldBlock.into()),
    });
    match call {
        Some(call) => call().map_err(io::Error::from),
        None => answer,
    }
}

/// Returns the number of bytes that can be read.
pub(super) fn queued(from: &TcpStream) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(from)?)
}

/// Sets the number of queued bytes from which `stream` is readable. FIN and errors always count.
///
/// The kernel caps it at half the receive buffer limit (`tcp_set_rcvlowat`), and signals at once if
/// enough bytes are queued. It is only a hint, so errors are harmless.
pub(super) fn set_low_water(stream: &TcpStream, bytes: i32) {
    let _ = nix::sys::socket::setsockopt(stream, option::LowWater, &bytes);
}

/// Returns the receive low-water mark of `stream`.
#[cfg(test)]
pub(super) fn low_water(stream: &TcpStream) -> i32 {
    nix::sys::socket::getsockopt(stream, option::LowWater).unwrap()
}

/// Limits the unsent bytes that are queued for `stream`; 0 removes the limit. Bytes that were sent
/// and are not acknowledged do not count. Errors are ignored.
pub(super) fn limit_unsent(stream: &TcpStream, bytes: u32) {
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(bytes);
}

/// Limits the receive window of `stream`, in bytes. Bytes that were offered before can still arrive.
/// Errors are ignored.
pub(super) fn limit_window(stream: &TcpStream, bytes: u32) {
    let _ = nix::sys::socket::setsockopt(stream, option::WindowClamp, &bytes.cast_signed());
}

/// The kernel memory of a socket, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct HeldMemory {
    /// All that it holds.
    pub(super) held: u64,
    /// What is queued for its peer.
    pub(super) queued: u64,
    /// The most that can be queued for its peer.
    queue: u64,
}

/// Returns the kernel memory of `stream`; zero where the kernel does not say (gVisor, qemu-user).
pub(super) fn memory(stream: &TcpStream) -> HeldMemory {
    memory_info(stream).unwrap_or_default()
}

fn memory_info(stream: &TcpStream) -> Option<HeldMemory> {
    // qemu-user answers with fewer bytes than were asked for, and nix asserts that no kernel does.
    let asked = catch_unwind(|| nix::sys::socket::getsockopt(stream, option::MemoryInfo));
    let Ok(Ok([received, _, _, queue, reserved, queued, ..])) = asked else { return None };
    let held = u64::from(received) + u64::from(reserved) + u64::from(queued);
    Some(HeldMemory { held, queued: u64::from(queued), queue: u64::from(queue) })
}

/// Returns the bytes of kernel memory that `stream` holds.
pub fn held(stream: &TcpStream) -> u64 {
    memory(stream).held
}

/// Returns how many bytes `stream` accepts, or `WouldBlock` if it is not writable now.
///
/// A TCP socket is writable while the free part of its send buffer is at least half of what is
/// queued (`sk_stream_is_writeable`), thus at least a third of the whole. Each queued buffer also
/// counts its header, so a quarter of the free part is left to these.
pub(super) fn room(stream: &TcpStream) -> io::Result<usize> {
    if let Some(HeldMemory { queued, queue, .. }) = memory_info(stream)
        && let Some(free) = queue.checked_sub(queued)
        && free >= queued / 2
        && free > 0
    {
        return Ok(usize::try_from(free / 4 * 3).unwrap_or(usize::MAX));
    }
    // The kernel signals that the socket is writable again only after it was asked.
    at_once(stream, Interest::WRITABLE, || {
        let mut polled = [PollFd::new(stream, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut polled, Some(&now))? == 0 {
            return Err(rustix::io::Errno::AGAIN);
        }
        Ok(rustix::net::sockopt::socket_send_buffer_size(stream)? / 3)
    })
}

/// Reads what is there into `buffer`; nothing is the end.
pub(super) fn read<'a>(
    stream: &TcpStream,
    buffer: &'a mut [MaybeUninit<u8>],
) -> io::Result<&'a mut [u8]> {
    let room = buffer.len();
    receive(stream, room, || {
        let ((filled, _), _) = rustix::net::recv(stream, buffer, RecvFlags::DONTWAIT)?;
        Ok((filled.len(), filled))
    })
}

/// Variant of [`read`] that returns the number of bytes.
pub(super) fn read_into(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let room = buffer.len();
    receive(stream, room, || {
        let (count, _) = rustix::net::recv(stream, buffer, RecvFlags::DONTWAIT)?;
        Ok((count, count))
    })
}

/// Runs `call`, which reads and returns how many of at most `room` bytes.
///
/// When it leaves room in the buffer then the source is dry, as with epoll(7), and tokio forgets the
/// readiness just as it would after `WouldBlock`: no second call has to ask.
fn receive<R>(
    stream: &TcpStream,
    room: usize,
    call: impl FnOnce() -> rustix::io::Result<(usize, R)>,
) -> io::Result<R> {
    let mut call = Some(call);
    let mut answer = None;
    let _ = stream.try_io(Interest::READABLE, || {
        let Some(call) = call.take() else { return Ok(()) };
        match answer.insert(call()) {
            Ok((count, _)) if *count == 0 || *count == room => Ok(()),
            Ok(_) => Err(io::ErrorKind::WouldBlock.into()),
            Err(rustix::io::Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
            Err(_) => Ok(()),
        }
    });
    let answer = match (answer, call) {
        (Some(answer), _) => answer,
        (None, Some(call)) => call(),
        (None, None) => Err(rustix::io::Errno::AGAIN),
    };
    answer.map(|(_, answer)| answer).map_err(io::Error::from)
}

/// How many bytes wait at least, of one that is asked for; none is the end.
pub(super) fn peek(stream: &TcpStream) -> io::Result<usize> {
    at_once(stream, Interest::READABLE, || {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let (waiting, _) = rustix::net::recv(stream, &mut [0_u8], flags)?;
        Ok(waiting)
    })
}

/// Whether nothing waits to be read from `stream`.
pub(super) fn is_dry(stream: &TcpStream) -> bool {
    rustix::io::ioctl_fionread(stream).is_ok_and(|waiting| waiting == 0)
}

/// Writes what fits of `bytes`.
pub(super) fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    at_once(stream, Interest::WRITABLE, || rustix::net::send(stream, bytes, flags))
}

/// Returns whether nothing waits to be read from `stream`. If so, tokio forgets the readiness, as
/// after `WouldBlock`: the kernel signals the next byte.
pub(super) fn has_emptied(stream: &TcpStream) -> bool {
    let waiting =
        at_once(stream, Interest::READABLE, || match rustix::io::ioctl_fionread(stream)? {
            0 => Err(rustix::io::Errno::AGAIN),
            waiting => Ok(waiting),
        });
    waiting.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Moves at most `length` bytes between a pipe and `stream`, without copying them.
pub(super) fn splice(
    (stream, interest): (&TcpStream, Interest),
    from: impl AsFd,
    to: impl AsFd,
    length: usize,
) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    at_once(stream, interest, || rustix::pipe::splice(from, None, to, None, length, flags))
}

/// Says to the peer of `stream` that no more will come. A peer that is gone needs no telling.
pub(super) fn finish(stream: &TcpStream) -> io::Result<()> {
    match rustix::net::shutdown(stream, Shutdown::Write) {
        Err(rustix::io::Errno::NOTCONN) => Ok(()),
        answer => answer.map_err(io::Error::from),
    }
}

/// Makes `stream` close with a reset, so that its peer does not take the earlier bytes for complete,
/// and the kernel frees what is queued for it.
pub(super) fn reset_on_close(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}
