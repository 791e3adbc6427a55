//! temp
use super::tunnel::{Open, aborted};
use super::watch::Watch;
use super::way::Flow;
use super::{Closing, Relay, Traffic};
use crate::hello::{Guard, Hello, Onward, Output};
use crate::policy::{Ending, Side, Stop};
use std::future::Future;
use std::pin::pin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

impl Relay {
    /// temp
    pub async fn run(
        &self,
        mut client: TcpStream,
        mut upstream: TcpStream,
        hello: Hello,
        _idle: std::time::Duration,
        traffic: &Traffic,
        stop: impl Future<Output = Stop>,
    ) -> (Result<Ending, Stop>, Closing<TcpStream>) {
        let mut stop = pin!(stop);
        let mut guard = Guard::new(hello.facts);
        let opened = async {
            upstream.write_all(&hello.raw).await.map_err(|_| aborted(Side::Upstream))?;
            traffic.up.copied(hello.raw.len());
            let (mut a, mut b) = (vec![0; 16384], vec![0; 16384]);
            let mut output = Output::default();
            loop {
                if let Some(onward) = guard.onward() { return Ok(onward); }
                let verdict = tokio::select! {
                    read = client.read(&mut a), if guard.wants_client() => match read { Ok(0) | Err(_) => return Err(aborted(Side::Client)), Ok(n) => guard.client(&a[..n], &mut output) },
                    read = upstream.read(&mut b) => match read { Ok(0) | Err(_) => return Err(aborted(Side::Upstream)), Ok(n) => guard.server(&b[..n], &mut output) },
                    stop = stop.as_mut() => return Err(stop),
                };
                upstream.write_all(&output.to_server).await.map_err(|_| aborted(Side::Upstream))?;
                traffic.up.copied(output.to_server.len());
                client.write_all(&output.to_client).await.map_err(|_| aborted(Side::Client))?;
                traffic.down.copied(output.to_client.len());
                output.to_client.clear(); output.to_server.clear();
                if let Err(cut) = verdict { return Err(cut.reason().into()); }
            }
        }.await;
        let onward = match opened {
            Ok(onward) => onward,
            Err(stop) => {
                super::socket::reset(upstream);
                let closing = if guard.served() {
                    Closing::in_order(client)
                } else {
                    Closing::with_alert(client, &stop)
                };
                return (Err(stop), closing);
            }
        };
        let watch = match onward {
            Onward::Free => None,
            Onward::Records(records) => Some(Box::new(Watch::new(records))),
        };
        let open = Open { upload: Flow::Open, watch };
        let end = self.splice_both(&client, &upstream, open, traffic, stop).await;
        let closing = match &end {
            Ok(_) => Closing::done(),
            Err(_) => {
                super::socket::reset(upstream);
                Closing::in_order(client)
            }
        };
        (end, closing)
    }
}
