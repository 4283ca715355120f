//! Names, as programs in Pods look them up.

pub mod clients;
pub mod forwarding;
pub mod host;
pub mod records;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tokio::net::UdpSocket;

use crate::inside::Inside;

/// The addresses that the C library finds for a name; empty when there is none.
pub async fn addresses(client: &Inside, database: &str, name: &str) -> BTreeSet<String> {
    let (code, out) = client.sh(&format!("getent {database} {name}")).await;
    // 2: not found.
    assert!([0, 2].contains(&code), "getent {database} {name}: {code} {out}");
    out.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

/// A resolver that gives every name this address, or knows no name at all.
async fn resolver_of(address: Option<[u8; 4]>) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    resolver_at(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"), address)
}

/// The same at a socket.
fn resolver_at(socket: UdpSocket, address: Option<[u8; 4]>) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let at = socket.local_addr().expect("its address");
    let task = tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            // Header and question as they came, without the OPT record; the answer points to the question.
            let name = buffer[12..length].iter().position(|byte| *byte == 0).expect("the name's end");
            let mut reply = buffer[..12 + name + 5].to_vec();
            let code = if address.is_some() { 0x80 } else { 0x83 };
            reply[2..12].copy_from_slice(&[0x81, code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
            if let Some(address) = address {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                reply.extend(address);
            }
            let _ = socket.send_to(&reply, client).await;
        }
    });
    (at, task)
}
