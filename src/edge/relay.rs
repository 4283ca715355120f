//! Bytes from socket to socket.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tracing::debug;

const BUFFER: usize = 32 << 10;
/// A side that is gone without a word is missed after this and as many probes as the kernel sends.
const QUIET: Duration = Duration::from_secs(60);

/// Carries bytes both ways until both sides have ended. When one side breaks, the other is reset.
pub(super) async fn relay(mut one: TcpStream, mut other: TcpStream) {
    for side in [&one, &other] {
        if let Err(error) = prepare(side) {
            debug!(%error, "connection without bounds");
        }
    }
    if let Err(error) = copy_bidirectional_with_sizes(&mut one, &mut other, BUFFER, BUFFER).await {
        debug!(%error, "connection broke");
        reset(&one);
        reset(&other);
    }
}

fn prepare(side: &TcpStream) -> io::Result<()> {
    side.set_nodelay(true)?;
    sockopt::set_socket_keepalive(side, true)?;
    sockopt::set_tcp_keepidle(side, QUIET)?;
    sockopt::set_tcp_keepintvl(side, QUIET / 4)?;
    Ok(())
}

/// Makes the end of a connection a reset.
pub(super) fn reset(stream: &TcpStream) {
    if let Err(error) = sockopt::set_socket_linger(stream, Some(Duration::ZERO)) {
        debug!(%error, "connection not reset");
    }
}
