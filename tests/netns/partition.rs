//! A TCP proxy that can cut a client off from its server, as a network partition does.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Partition {
    pub address: SocketAddr,
    connected: watch::Sender<bool>,
}

impl Partition {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let connected = watch::Sender::new(true);
        let state = connected.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *state.borrow() {
                    tokio::spawn(pass(client, server, state.clone()));
                }
            }
        });
        Self { address, connected }
    }

    /// Ends every connection and refuses new ones.
    pub fn cut(&self) {
        self.connected.send_replace(false);
    }

    pub fn heal(&self) {
        self.connected.send_replace(true);
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr, mut connected: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = connected.wait_for(|connected| !connected) => {}
    }
}
