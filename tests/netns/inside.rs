//! Work inside a Pod's namespaces: sockets of this very process, and commands.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::processes;

/// How long one exchange of packets may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A Pod seen from within.
pub struct Inside {
    net: File,
    /// A process of the Pod.
    pub pid: u32,
    pub ip: IpAddr,
}

/// What whoami says of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub pod: String,
    pub node: String,
    /// Whom the Pod saw.
    pub client: IpAddr,
    /// The address that the Pod was reached by.
    pub server: IpAddr,
}

impl Inside {
    /// The Pod with the address `ip` among the processes below `vipyard`.
    pub fn of(vipyard: u32, ip: &str) -> Self {
        let has_address = |pid: &u32| {
            // The local table lists the addresses of the process's own network namespace.
            let table = fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap_or_default();
            let lines: Vec<&str> = table.lines().map(str::trim).collect();
            lines.windows(2).any(|pair| pair[0] == format!("|-- {ip}") && pair[1] == "/32 host LOCAL")
        };
        let pid = processes::below(vipyard).into_iter().map(|process| process.pid).find(has_address);
        let pid = pid.unwrap_or_else(|| panic!("no process has the address {ip}"));
        let net = File::open(format!("/proc/{pid}/ns/net")).expect("the Pod's network namespace");
        Self { net, pid, ip: ip.parse().expect("an address") }
    }

    /// The namespace that the scenario is in, where its clusters are started: the host, to them. `ip` is its address
    /// inside of the cluster.
    pub fn host(ip: &str) -> Self {
        let net = File::open("/proc/thread-self/ns/net").expect("the scenario's network namespace");
        Self { net, pid: std::process::id(), ip: ip.parse().expect("an address") }
    }

    /// Runs `f` on a thread in the Pod's network namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let worker = scope.spawn(|| self.run_here(f));
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }

    /// Runs `f` on this thread, which enters the Pod's network namespace for good.
    pub fn run_here<T>(&self, f: impl FnOnce() -> T) -> T {
        move_into_link_name_space(self.net.as_fd(), Some(LinkNameSpaceType::Network)).expect("the Pod lives");
        f()
    }

    /// Runs a shell command as a process of the Pod, with its files; returns exit code and output.
    pub async fn sh(&self, script: &str) -> (i32, String) {
        let mut command = tokio::process::Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid"]);
        command.args(["/bin/sh", "-c", script]).current_dir("/");
        let (code, out, err) = crate::cluster::run(command).await;
        (code, out + &err)
    }

    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&to, PATIENCE))
    }

    /// Asks whoami over HTTP, on a new connection.
    pub fn http(&self, to: SocketAddr) -> io::Result<Reply> {
        let text = self.run(|| http(to, "GET", "/json"))?;
        serde_json::from_str(&text).map(|value| Reply::of_json(&value)).map_err(io::Error::other)
    }

    pub fn post(&self, to: SocketAddr, path: &str) -> io::Result<String> {
        self.run(|| http(to, "POST", path))
    }

    /// Asks whoami over UDP from a new port; the answer must come from the address that was asked (C9).
    pub fn udp(&self, to: SocketAddr) -> io::Result<Reply> {
        self.run(|| {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(b"who", to)?;
            let mut buffer = [0; 2048];
            let (length, from) = socket.recv_from(&mut buffer)?;
            assert_eq!(from, to, "the answer's source");
            Ok(Reply::of_text(&String::from_utf8_lossy(&buffer[..length])))
        })
    }

    /// Sends a datagram on a connected socket and waits for an answer or an error.
    pub fn udp_connected(&self, to: SocketAddr) -> io::Result<usize> {
        self.run(|| {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            socket.send(b"who")?;
            socket.recv(&mut [0; 2048])
        })
    }
}

/// One exchange of HTTP/1.1 in the calling thread's namespace; the body of a 200.
pub fn http(to: SocketAddr, method: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(io::Error::new(ErrorKind::InvalidData, answer)),
    }
}

impl Reply {
    pub fn of_json(value: &Value) -> Self {
        let text = |field: &str| value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}")).to_owned();
        let ip = |field: &str| text(field).parse().expect("an address");
        Self { pod: text("pod"), node: text("node"), client: ip("clientAddress"), server: ip("serverAddress") }
    }

    /// Of lines such as `client: 10.244.1.2:4711`.
    pub fn of_text(answer: &str) -> Self {
        let field = |name: &str| {
            let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned()
        };
        let ip = |name: &str| field(name).parse::<SocketAddr>().expect("an address").ip();
        Self { pod: field("pod"), node: field("node"), client: ip("client"), server: ip("server") }
    }
}
