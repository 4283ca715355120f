//! A look-up as a program in a Pod makes it, shown step by step: which names the search path makes of the one that was given,
//! what each was answered, by whom, and which objects the answer rests on.
//!
//! The walk is glibc's (`res_search`): a name with a final dot is asked as it is; one with at least `ndots` dots is tried
//! as it is first, any other one last; the walk goes on after "no such name", "no such data" and failures, and ends with
//! the first answer. musl's walk differs in that "no such data" and failures end it. Each step gets the very bytes that
//! a Pod gets; no event and no metric tells of it.

use std::net::IpAddr;
use std::time::Instant;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use k8s_openapi::api::core::v1::ObjectReference;
use serde::Serialize;

use super::Dns;
use super::answer::Cause;
use super::events::code_name;
use super::records::{Records, ServiceKind};
use super::wire::{full_name, to_text};
use super::zone::{Place, Reverse, Zone};

/// The most searches that `ndots` can ask for, as in glibc.
const MOST_DOTS: usize = 15;

/// How a program's resolver is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Path {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    /// As in resolv.conf: `ndots:5`.
    pub options: Vec<String>,
}

/// The whole walk.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lookup {
    pub name: String,
    pub types: Vec<String>,
    pub path: Path,
    pub found: bool,
    pub steps: Vec<Step>,
    /// What the program should know: that it does not ask cluster DNS at all, say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A name that was asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// With its final dot.
    pub name: String,
    /// The search domain that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
    pub answers: Vec<Outcome>,
}

/// What was said about one type.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    #[serde(rename = "type")]
    pub record_type: String,
    pub code: String,
    /// As in a zone file.
    pub records: Vec<String>,
    pub source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// The objects that the answer rests on.
    pub objects: Vec<ObjectReference>,
    /// Why there is no answer, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    pub seconds: f64,
    #[serde(skip)]
    found: bool,
}

/// What cannot be looked up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadQuestion {
    #[error("{0:?} is no type of records: A, AAAA, SRV, PTR, CNAME, TXT, MX and such are")]
    Type(String),
    #[error(
        "{0:?} is no name: labels have 1 to 63 bytes, a name has no more than 253, and nothing else between the dots"
    )]
    Name(String),
}

/// What is to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    name: String,
    types: Vec<RecordType>,
}

impl Question {
    /// Without types, both kinds of addresses are looked up, as `getaddrinfo` does; of an address, its name.
    ///
    /// # Errors
    /// When it is no name, or no type.
    pub fn new(name: &str, types: &[&str]) -> Result<Self, BadQuestion> {
        let known = |text: &&str| {
            let found = text.to_ascii_uppercase().parse::<RecordType>().ok();
            found.ok_or_else(|| BadQuestion::Type((*text).to_owned()))
        };
        let mut types = types.iter().map(known).collect::<Result<Vec<_>, _>>()?;
        let mut name = name.to_owned();
        if let Ok(address) = name.parse::<IpAddr>()
            && (types.is_empty() || types == [RecordType::PTR])
        {
            name = Name::from(address).to_ascii();
            types = vec![RecordType::PTR];
        }
        if types.is_empty() {
            types = vec![RecordType::A, RecordType::AAAA];
        }
        if full_name(&name).is_none() {
            return Err(BadQuestion::Name(name));
        }
        Ok(Self { name, types })
    }
}

impl Path {
    fn ndots(&self) -> usize {
        let value = self.options.iter().rev().find_map(|option| option.strip_prefix("ndots:")?.parse().ok());
        value.unwrap_or(1).min(MOST_DOTS)
    }

    /// Whether the cluster's DNS is among those that are asked.
    pub(crate) fn asks(&self, zone: &Zone) -> bool {
        let mut addresses = self.nameservers.iter().filter_map(|server| server.parse().ok());
        addresses.any(|server: IpAddr| zone.addresses().contains(&server))
    }

    /// The names to ask for in order, each with the search domain that makes it.
    pub(crate) fn names(&self, name: &str) -> Vec<(String, Option<String>)> {
        if name.ends_with('.') {
            return vec![(name.to_owned(), None)];
        }
        let searched = self.searches.iter().map(|domain| {
            let domain = domain.trim_matches('.');
            let dot = if domain.is_empty() { "" } else { "." };
            (format!("{name}.{domain}{dot}"), Some(domain.to_owned()))
        });
        let plain = [(format!("{name}."), None)];
        if name.matches('.').count() >= self.ndots() {
            plain.into_iter().chain(searched).collect()
        } else {
            searched.chain(plain).collect()
        }
    }
}

impl Dns {
    /// Walks the search path until there is an answer.
    pub async fn look_up(&self, question: &Question, path: Path) -> Lookup {
        let mut lookup = Lookup {
            name: question.name.clone(),
            types: question.types.iter().map(ToString::to_string).collect(),
            found: false,
            steps: Vec::new(),
            notes: Vec::new(),
            path,
        };
        if !lookup.path.asks(&self.zone) {
            lookup.notes.push(format!(
                "cluster DNS is not asked: the nameservers are {} (dnsPolicy Default or None)",
                lookup.path.nameservers.join(", ")
            ));
            return lookup;
        }
        for (name, search) in lookup.path.names(&question.name) {
            let mut step = Step { name, search, answers: Vec::new() };
            for record_type in &question.types {
                let outcome = self.ask(&step.name, *record_type).await;
                lookup.found |= outcome.found;
                step.answers.push(outcome);
            }
            lookup.steps.push(step);
            if lookup.found {
                break;
            }
        }
        lookup
    }

    async fn ask(&self, name: &str, record_type: RecordType) -> Outcome {
        let start = Instant::now();
        let mut outcome = Outcome {
            record_type: record_type.to_string(),
            code: String::new(),
            records: Vec::new(),
            source: super::events::Source::Nobody.name(),
            upstream: None,
            objects: Vec::new(),
            message: None,
            seconds: 0.0,
            found: false,
        };
        let Some(name) = full_name(name) else {
            outcome.message = Some("the name is too long to be asked for".to_owned());
            return outcome;
        };
        let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name.clone(), record_type));
        message.set_edns(Edns::new());
        let reply = match message.to_vec() {
            Ok(bytes) => self.responder.look_up(&bytes).await,
            Err(_) => None,
        };
        outcome.seconds = start.elapsed().as_secs_f64();
        let Some((bytes, facts)) = reply else { return outcome };
        let Ok(reply) = Message::from_vec(&bytes) else { return outcome };
        outcome.code = code_name(reply.metadata.response_code);
        outcome.records = reply.answers.iter().map(ToString::to_string).collect();
        outcome.source = facts.source.name();
        outcome.upstream = facts.source.upstream().map(|upstream| upstream.to_string());
        outcome.objects = facts.causes.iter().filter_map(Cause::reference).collect();
        let code = reply.metadata.response_code;
        outcome.found = code == ResponseCode::NoError && has_data(&reply.answers, record_type);
        outcome.message = facts.why.clone();
        if !outcome.found && outcome.message.is_none() {
            outcome.message = why_not(&self.zone, &self.index.load(), &to_text(&name), code);
        }
        outcome
    }
}

/// Whether there is more than aliases that lead nowhere.
fn has_data(answers: &[Record], record_type: RecordType) -> bool {
    answers.iter().any(|record| record.record_type() == record_type || record_type == RecordType::ANY)
}

/// What is missing, for a person who wonders.
fn why_not(zone: &Zone, records: &Records, name: &str, code: ResponseCode) -> Option<String> {
    let denied = code == ResponseCode::NXDomain;
    let rest = match zone.place(name) {
        Place::Domain(rest) => rest,
        Place::Reverse { what: Reverse::Address(address), .. } if denied => {
            return Some(format!("{address} is the address of no Service and of no ready endpoint"));
        }
        Place::Reverse { .. } => return None,
        Place::Outside if denied => return Some("the upstream knows no such name".to_owned()),
        Place::Outside => {
            return (code == ResponseCode::NoError)
                .then(|| "the upstream knows the name without such a record".to_owned());
        }
    };
    let labels: Vec<&str> = rest.split('.').collect();
    let (kind, labels) = labels.split_last()?;
    if !matches!(*kind, "svc" | "pod") {
        return denied.then(|| format!("names of the cluster end in svc.{0} or pod.{0}", zone.domain()));
    }
    let (namespace, labels) = labels.split_last()?;
    if !records.namespaces.contains_key(*namespace) {
        return Some(format!("there is no Namespace {namespace}"));
    }
    let (service, front) = labels.split_last()?;
    if *kind == "pod" {
        return denied.then(|| format!("no Pod of Namespace {namespace} has the address that {service} stands for"));
    }
    let Some(entry) = records.services.get(format!("{service}.{namespace}").as_str()) else {
        return Some(format!("there is no Service {service} in Namespace {namespace}"));
    };
    let missing = match (denied, front, &entry.kind) {
        (_, _, ServiceKind::External(target)) => format!("leads to {target}, which has no such record"),
        (true, [host], _) if !host.starts_with('_') => format!("has no ready endpoint with the name {host}"),
        (true, _, _) => format!("has no port {}", front.join(".")),
        (false, _, ServiceKind::Headless) => "has no ready endpoint with such a record".to_owned(),
        (false, _, ServiceKind::Vips { v4: None, v6: None }) => "has no address yet".to_owned(),
        (false, _, ServiceKind::Vips { .. }) => "has no record of this type".to_owned(),
    };
    Some(format!("Service {namespace}/{service} {missing}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Network;
    use crate::dns::fixtures::{FakeUpstream, records, reply_with};
    use crate::dns::forward::ForwardConfig;

    fn path(namespace: &str) -> Path {
        Path {
            nameservers: vec!["10.96.0.10".into()],
            searches: [format!("{namespace}.svc.cluster.local"), "svc.cluster.local".into(), "cluster.local".into()]
                .into(),
            options: vec!["ndots:5".into()],
        }
    }

    fn dns(upstreams: Vec<std::net::SocketAddr>) -> Dns {
        let dns = Dns::new(Zone::new(&Network::default()), ForwardConfig { upstreams, ..ForwardConfig::default() });
        dns.index.publish(records());
        dns
    }

    async fn look_up(dns: &Dns, name: &str, types: &[&str]) -> Lookup {
        dns.look_up(&Question::new(name, types).unwrap(), path("default")).await
    }

    fn names(lookup: &Lookup) -> Vec<&str> {
        lookup.steps.iter().map(|step| step.name.as_str()).collect()
    }

    #[test]
    fn names_are_tried_in_the_order_of_the_c_library() {
        let searched = ["a.b.default.svc.cluster.local.", "a.b.svc.cluster.local.", "a.b.cluster.local.", "a.b."];
        let order = |path: &Path, name: &str| path.names(name).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(order(&path("default"), "a.b"), searched);
        assert_eq!(order(&path("default"), "a.b."), ["a.b."]);
        let few = Path { options: vec!["ndots:5".into(), "ndots:1".into()], ..path("default") };
        assert_eq!(order(&few, "a.b"), [searched[3], searched[0], searched[1], searched[2]]);
        assert_eq!(order(&few, "a")[0], "a.default.svc.cluster.local.");
        let root = Path { searches: vec![".".into()], ..few };
        assert_eq!(order(&root, "a"), ["a.", "a."]);
    }

    #[tokio::test]
    async fn walk_ends_with_the_first_answer_and_names_its_objects() {
        let dns = dns(Vec::new());
        let found = look_up(&dns, "web", &[]).await;
        assert!(found.found);
        assert_eq!(names(&found), ["web.default.svc.cluster.local."]);
        let [a, aaaa] = &found.steps[0].answers[..] else { panic!("{found:?}") };
        assert_eq!(a.records, ["web.default.svc.cluster.local. 5 IN A 10.96.1.1"]);
        assert_eq!((a.source, aaaa.records.len()), ("Cluster", 1));
        let [object] = &a.objects[..] else { panic!("{a:?}") };
        let said = [&object.kind, &object.name, &object.resource_version].map(|text| text.as_deref().unwrap());
        assert_eq!(said, ["Service", "web", "7"]);
        let found = look_up(&dns, "web.default", &["a"]).await;
        assert_eq!(names(&found), ["web.default.default.svc.cluster.local.", "web.default.svc.cluster.local."]);
        let why = found.steps[0].answers[0].message.as_deref();
        assert_eq!(why, Some("there is no Service default in Namespace default"));
        // Nobody is told: these are no questions of clients.
        assert_eq!((dns.responder.events().last(), dns.metrics.responses("A", "NOERROR")), (0, 0));
    }

    #[tokio::test]
    async fn what_is_missing_is_said_in_words() {
        let dns = dns(Vec::new());
        for (name, record_type, message) in [
            ("none.default.svc.cluster.local.", "A", "there is no Service none in Namespace default"),
            ("web.shop.svc.cluster.local.", "A", "there is no Namespace shop"),
            (
                "lonely.default.svc.cluster.local.",
                "A",
                "Service default/lonely has no ready endpoint with such a record",
            ),
            ("x.db.default.svc.cluster.local.", "A", "Service default/db has no ready endpoint with the name x"),
            ("_x._tcp.web.default.svc.cluster.local.", "SRV", "Service default/web has no port _x._tcp"),
            ("9lives.default.svc.cluster.local.", "AAAA", "Service default/9lives has no record of this type"),
            (
                "10-244-9-9.default.pod.cluster.local.",
                "A",
                "no Pod of Namespace default has the address that 10-244-9-9 stands for",
            ),
            ("10.96.9.9", "PTR", "10.96.9.9 is the address of no Service and of no ready endpoint"),
            ("web.cluster.local.", "A", "names of the cluster end in svc.cluster.local or pod.cluster.local"),
            (
                "alias-v4.default.svc.cluster.local.",
                "AAAA",
                "Service default/alias-v4 leads to 9lives.default.svc.cluster.local, which has no such record",
            ),
        ] {
            let lookup = look_up(&dns, name, &[record_type]).await;
            let outcome = &lookup.steps.last().unwrap().answers[0];
            assert_eq!((lookup.found, outcome.message.as_deref()), (false, Some(message)), "{name}");
        }
        let offline = look_up(&dns, "example.com.", &["A"]).await;
        let outcome = &offline.steps[0].answers[0];
        assert_eq!((outcome.code.as_str(), outcome.source), ("SERVFAIL", "Nobody"));
        assert!(outcome.message.as_ref().unwrap().contains("--dns-upstream"), "{outcome:?}");
    }

    #[tokio::test]
    async fn names_of_others_show_who_was_asked() {
        let upstream = FakeUpstream::start(|asked, _| Some(reply_with(asked, &[[192, 0, 2, 7]]))).await;
        let dns = dns(vec![upstream.address]);
        for source in ["Upstream", "Cache"] {
            let found = look_up(&dns, "www.example.com", &["A"]).await;
            assert_eq!((found.found, found.steps.len()), (true, 4));
            let outcome = &found.steps[3].answers[0];
            assert_eq!((outcome.source, &outcome.upstream), (source, &Some(upstream.address.to_string())));
        }
        assert_eq!(upstream.asked(), 1);
    }

    #[tokio::test]
    async fn alias_to_a_name_without_such_a_record_is_no_answer() {
        let upstream = FakeUpstream::start(|asked, _| Some(reply_with(asked, &[]))).await;
        let lookup = look_up(&dns(vec![upstream.address]), "away.default.svc.cluster.local.", &["A"]).await;
        let outcome = &lookup.steps[0].answers[0];
        assert_eq!((lookup.found, outcome.records.len(), outcome.code.as_str()), (false, 1, "NOERROR"));
        let why = "Service default/away leads to api.example.com, which has no such record";
        assert_eq!(outcome.message.as_deref(), Some(why));
    }

    #[tokio::test]
    async fn pod_that_does_not_ask_cluster_dns_is_told_so() {
        let path = Path { nameservers: vec!["192.0.2.1".into()], ..Path::default() };
        let lookup = dns(Vec::new()).look_up(&Question::new("web", &[]).unwrap(), path).await;
        assert!(!lookup.found && lookup.steps.is_empty() && lookup.notes[0].contains("192.0.2.1"), "{lookup:?}");
    }

    #[test]
    fn nameserver_of_ours_is_known_in_every_spelling() {
        let network = Network::default();
        let v6 = network.dns_vip().v6.segments().map(|part| format!("{part:04X}")).join(":");
        let asks = |servers: &[&str]| {
            let nameservers = servers.iter().map(ToString::to_string).collect();
            Path { nameservers, ..Path::default() }.asks(&Zone::new(&network))
        };
        assert!(asks(&["192.0.2.1", &network.dns_vip().v4.to_string()]));
        assert!(asks(&[&v6]), "{v6}");
        assert!(!asks(&["192.0.2.1", "nobody"]));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(matches!(Question::new("web", &["B"]), Err(BadQuestion::Type(_))));
        for name in ["", ".", "a..b", &"x".repeat(64), &["x".repeat(60).as_str(); 5].join(".")] {
            assert!(matches!(Question::new(name, &[]), Err(BadQuestion::Name(_))), "{name}");
        }
        let reverse = Question::new("10.96.0.10", &[]).unwrap();
        assert_eq!((reverse.name.as_str(), reverse.types), ("10.0.96.10.in-addr.arpa.", vec![RecordType::PTR]));
    }
}
