//! What is asked of a socket agrees with what it then does.

use std::io;
use std::mem::MaybeUninit;

use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_socket_accepts_what_it_has_room_for() {
    let (to, mut peer) = pair().await;
    to.writable().await.unwrap();
    let mut sent = 0;
    loop {
        let room = match socket::room(&to) {
            Ok(room) => room,
            Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        };
        assert!(room > 0, "{sent}");
        assert_eq!(socket::write(&to, &vec![1; room]).unwrap(), room, "{sent}");
        sent += room;
    }
    let mut buffer = vec![0; sent];
    peer.read_exact(&mut buffer).await.unwrap();
    timeout(PATIENCE, to.writable()).await.expect("it signals that it has room again").unwrap();
    assert!(socket::room(&to).unwrap() > 0);
}

#[tokio::test]
async fn an_emptied_socket_signals_the_next_byte_and_the_end() {
    let (mut peer, from) = pair().await;
    peer.write_all(b"some").await.unwrap();
    from.readable().await.unwrap();
    assert!(!socket::has_emptied(&from));
    let mut buffer = [MaybeUninit::uninit(); 4];
    assert_eq!(socket::read(&from, &mut buffer).unwrap(), b"some");
    assert!(socket::has_emptied(&from));
    for bytes in [b"more".as_slice(), b""] {
        match bytes {
            [] => peer.shutdown().await.unwrap(),
            more => peer.write_all(more).await.unwrap(),
        }
        timeout(PATIENCE, from.readable()).await.expect("it signals").unwrap();
        let mut buffer = [MaybeUninit::uninit(); 4];
        assert_eq!(socket::read(&from, &mut buffer).unwrap(), bytes);
        assert!(socket::has_emptied(&from));
    }
    timeout(PATIENCE, from.readable()).await.expect("the end is signalled for good").unwrap();
}
