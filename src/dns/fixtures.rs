//! Objects and counterparts for the tests of this part.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record, RecordType};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use super::records::Records;
use super::wire::Transport;

pub(super) fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("a well-formed object")
}

pub(super) fn namespace(name: &str) -> Namespace {
    object(json!({"metadata": {"name": name}}))
}

/// A Service in `default`.
pub(super) fn service(name: &str, spec: Value) -> Service {
    object(json!({"metadata": {"name": name, "namespace": "default", "resourceVersion": "7"}, "spec": spec}))
}

/// A slice in `default`; the family is that of the first address.
pub(super) fn slice(name: &str, service: &str, ports: Value, endpoints: Value) -> EndpointSlice {
    let v6 = endpoints[0]["addresses"][0].as_str().is_some_and(|address| address.contains(':'));
    object(json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": ports,
        "endpoints": endpoints,
    }))
}

pub(super) fn pod(name: &str, ips: &[&str]) -> Pod {
    let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    object(json!({"metadata": {"name": name, "namespace": "default"}, "status": {"phase": "Running", "podIPs": ips}}))
}

/// A cluster with one Service of each sort.
pub(super) fn records() -> Records {
    let mut records = Records::default();
    records.complete = true;
    for name in ["default", "empty", "kube-system"] {
        records.set_namespace(&namespace(name));
    }
    records.note_revision(42);
    let http =
        json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "dns", "protocol": "UDP", "port": 53}]);
    records.set_service(&service(
        "web",
        json!({"type": "ClusterIP", "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1", "fd00:10:96::101"], "ports": http}),
    ));
    records.set_slice(&slice(
        "web-x",
        "web",
        json!([{"name": "http", "port": 8080, "protocol": "TCP"}]),
        json!([{"addresses": ["10.244.1.5"], "conditions": {"ready": true}}]),
    ));
    records.set_service(&service("9lives", json!({"clusterIP": "10.96.1.2", "ports": [{"port": 80}]})));
    records.set_service(&service("db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})));
    let sql = json!([{"name": "sql", "port": 5433, "protocol": "TCP"}]);
    records.set_slice(&slice(
        "db-4",
        "db",
        sql.clone(),
        json!([
            {"addresses": ["10.244.1.5"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.244.2.6"], "conditions": {}},
            {"addresses": ["10.244.3.7"], "hostname": "db-2", "conditions": {"ready": false}},
        ]),
    ));
    records.set_slice(&slice(
        "db-6",
        "db",
        sql,
        json!([{"addresses": ["fd00:10:244:1::5"], "hostname": "db-0"}, {"addresses": ["fd00:10:244:2::6"]}]),
    ));
    records.set_service(&service("lonely", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})));
    for (name, target) in [
        ("alias", "web.default.svc.cluster.local."),
        ("alias-v4", "9lives.default.svc.cluster.local"),
        ("away", "API.Example.com"),
        ("broken", "none.default.svc.cluster.local"),
        ("loop-a", "loop-b.default.svc.cluster.local"),
        ("loop-b", "loop-a.default.svc.cluster.local"),
    ] {
        records.set_service(&service(name, json!({"type": "ExternalName", "externalName": target})));
    }
    records.change_pod(None, Some(&pod("web-1", &["10.244.1.5", "fd00:10:244:1::5"])));
    records
}

/// A resolver on loopback that says what it is told to.
pub(super) struct FakeUpstream {
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl FakeUpstream {
    pub async fn start(say: impl Fn(&Message, Transport) -> Option<Message> + Send + Sync + 'static) -> Self {
        // The same port for both; another test may have taken the TCP one.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("an address")).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("an address");
        let (say, asked) = (Arc::new(say), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        let (say_udp, asked_udp) = (Arc::clone(&say), Arc::clone(&asked));
        tasks.spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
                let message = Message::from_vec(&buffer[..length]).expect("a good question");
                // The forwarder's search for loops, of which this is none.
                if message.queries[0].query_type() == RecordType::HINFO {
                    continue;
                }
                asked_udp.fetch_add(1, Relaxed);
                if let Some(reply) = say_udp(&message, Transport::Udp) {
                    let _ = udp.send_to(&reply.to_vec().expect("a good reply"), client).await;
                }
            }
        });
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut bytes = vec![0; stream.read_u16().await.unwrap_or(0).into()];
                if stream.read_exact(&mut bytes).await.is_err() {
                    continue;
                }
                let message = Message::from_vec(&bytes).expect("a good question");
                if let Some(reply) = say(&message, Transport::Tcp) {
                    let reply = reply.to_vec().expect("a good reply");
                    let length = u16::try_from(reply.len()).expect("a short reply");
                    let _ = stream.write_all(&[&length.to_be_bytes(), reply.as_slice()].concat()).await;
                }
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    /// The datagrams that have come.
    pub fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

/// A reply that gives the name asked for these addresses.
pub(super) fn reply_with(asked: &Message, addresses: &[[u8; 4]]) -> Message {
    let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
    reply.add_queries(asked.queries.iter().cloned());
    for address in addresses {
        let data = RData::A(Ipv4Addr::from(*address).into());
        reply.add_answer(Record::from_rdata(asked.queries[0].name().clone(), 300, data));
    }
    reply
}
