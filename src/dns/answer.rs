//! Answers to questions about the cluster, found in [`Records`]: pure, in plain data.
//!
//! Implements the Kubernetes DNS specification (schema version 1.1.0, rules D1-D9) with the choices that CoreDNS
//! makes where the specification leaves them open:
//!
//! | name below the domain                      | answers                                                        |
//! |--------------------------------------------|----------------------------------------------------------------|
//! | (the domain itself)                        | SOA, NS                                                        |
//! | `dns-version`                              | TXT `1.1.0`                                                    |
//! | `ns.dns`                                   | A, AAAA: this server                                           |
//! | `SVC.NS.svc`                               | A, AAAA, SRV for every port; CNAME for ExternalName (D1, D5)   |
//! | `_PORT._PROTO.SVC.NS.svc`                  | SRV for a named port (D2)                                      |
//! | `HOST.SVC.NS.svc`, `10-244-1-5.SVC.NS.svc` | A, AAAA of one ready endpoint (D3)                             |
//! | `10-244-1-5.NS.pod`                        | A, AAAA, if a Pod with that address lives in the namespace     |
//! | reverse names of the cluster's ranges      | PTR of VIPs and ready endpoints (D4)                           |
//!
//! A name that exists, or has names below it, without the type asked for is NOERROR without data (D7); any other is
//! NXDOMAIN; both carry the SOA, whose minimum says how long to believe it (RFC 2308). A headless Service without ready
//! endpoints exists. An alias is followed inside the cluster (D7), the code is that of the last name (RFC 6604), and
//! an alias that leads outside is left to the caller in [`Answer::outside`]. ANY gets one record set (RFC 8482).

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use rand::Rng;
use rand::seq::SliceRandom;

use super::records::{
    Endpoint, Object, Owner as AddressOwner, Port, Records, ServiceEntry, ServiceKind, SliceEntry, undashed,
};
use super::zone::{Place, Reverse, Zone};

/// The version of the specification, as `dns-version` tells it.
pub const SCHEMA_VERSION: &str = "1.1.0";
/// Aliases followed; a longer chain fails like a loop.
const MAX_ALIASES: usize = 8;
/// Addresses of SRV targets that are sent along unasked.
const MAX_ADDITIONAL: usize = 64;

/// The types that are told apart; `Other` exists for no name of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    A,
    Aaaa,
    Srv,
    Ptr,
    Cname,
    Txt,
    Soa,
    Ns,
    Any,
    Other,
}

/// The response code of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Code {
    #[default]
    NoError,
    NxDomain,
    ServFail,
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub code: Code,
    pub answers: Vec<Record>,
    /// The SOA, where there is nothing to answer.
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
    /// An alias led to this name, which is not the cluster's: its records of the same type complete the answer.
    pub outside: Option<Arc<str>>,
    /// What the answer rests on, in the order in which it was found.
    pub causes: Vec<Cause>,
}

/// What an answer rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The domain's own records.
    Domain,
    Service(Arc<Object>),
    /// Endpoints, by the slice that holds them.
    Slice(Arc<Object>),
    Pod(Arc<Object>),
}

impl Cause {
    /// A reference to the object; none for the domain's own records, which no object makes.
    pub(crate) fn reference(&self) -> Option<ObjectReference> {
        let (api_version, kind, object) = match self {
            Self::Domain => return None,
            Self::Service(object) => ("v1", "Service", object),
            Self::Slice(object) => ("discovery.k8s.io/v1", "EndpointSlice", object),
            Self::Pod(object) => ("v1", "Pod", object),
        };
        Some(ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: Some(object.key.namespace.clone()),
            name: Some(object.key.name.clone()),
            uid: (!object.uid.is_nil()).then(|| object.uid.to_string()),
            resource_version: Some(object.revision.to_string()),
            field_path: None,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub owner: Owner,
    /// Seconds.
    pub ttl: u32,
    pub data: Data,
}

/// The name to which a record belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The name that was asked for, in the letters in which it was asked.
    Asked,
    Name(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(Arc<str>),
    Ptr(Arc<str>),
    Ns(Arc<str>),
    Srv { priority: u16, weight: u16, port: u16, target: Arc<str> },
    Txt(&'static str),
    Soa { server: Arc<str>, contact: Arc<str>, serial: u32, minimum: u32 },
}

/// What stands at a name.
enum Found {
    /// Nothing at all, nor below it.
    Missing,
    /// The name exists; whatever of the asked type there is has been added to the answer.
    Exists,
    /// Another name for this one.
    Alias(Arc<str>),
}

impl Records {
    /// Answers a question about `name` (lower case, no final dot); `None` if the name is not the cluster's.
    pub fn answer(&self, zone: &Zone, name: &str, kind: Kind, rng: &mut impl Rng) -> Option<Answer> {
        let mut search = Search { records: self, zone, kind, owner: Owner::Asked, answer: Answer::default() };
        let mut place = zone.place(name);
        let mut alias;
        for _ in 0..MAX_ALIASES {
            let (apex, found) = match &place {
                Place::Outside => match search.owner {
                    Owner::Asked => return None,
                    Owner::Name(name) => {
                        search.answer.outside = Some(name);
                        return Some(search.answer);
                    }
                },
                Place::Domain(rest) => (Arc::clone(zone.domain()), search.domain(rest, rng)),
                Place::Reverse { apex, what } => (Arc::clone(apex), search.reverse(apex, *what)),
            };
            let target = match found {
                Found::Alias(target) => target,
                Found::Exists => return Some(search.finish(apex, Code::NoError, rng)),
                Found::Missing => return Some(search.finish(apex, Code::NxDomain, rng)),
            };
            // No record is given twice (RFC 2181, section 5).
            let met = search.answer.answers.iter().any(|record| record.data == Data::Cname(Arc::clone(&target)));
            search.push(Data::Cname(Arc::clone(&target)));
            if matches!(kind, Kind::Cname | Kind::Any) {
                return Some(search.answer);
            }
            if met || *target == *name {
                break;
            }
            search.owner = Owner::Name(Arc::clone(&target));
            alias = target;
            place = zone.place(&alias);
        }
        search.answer.code = Code::ServFail;
        Some(search.answer)
    }
}

/// One question on its way.
struct Search<'a> {
    records: &'a Records,
    zone: &'a Zone,
    kind: Kind,
    /// The name that is being looked at: the one asked for, or where an alias led.
    owner: Owner,
    answer: Answer,
}

impl<'a> Search<'a> {
    fn domain(&mut self, rest: &str, rng: &mut impl Rng) -> Found {
        let (rest, last) = rest.rsplit_once('.').unwrap_or(("", rest));
        match (rest, last) {
            ("", "") => self.apex(Arc::clone(self.zone.domain())),
            ("", "dns-version") => {
                self.cause(Cause::Domain);
                if matches!(self.kind, Kind::Txt | Kind::Any) {
                    self.push(Data::Txt(SCHEMA_VERSION));
                }
                Found::Exists
            }
            ("", "svc" | "pod" | "dns") => Found::Exists,
            ("ns", "dns") => {
                self.cause(Cause::Domain);
                let addresses = self.zone.addresses().to_vec();
                self.addresses(addresses);
                Found::Exists
            }
            (rest, "svc") => self.service(rest, rng),
            (rest, "pod") => self.pod(rest),
            _ => Found::Missing,
        }
    }

    fn apex(&mut self, name: Arc<str>) -> Found {
        self.cause(Cause::Domain);
        match self.kind {
            Kind::Soa | Kind::Any => {
                let soa = self.soa(name);
                self.answer.answers.push(Record { owner: self.owner.clone(), ..soa });
            }
            Kind::Ns => {
                let server = self.zone.server();
                self.push(Data::Ns(Arc::clone(server)));
                let addresses = self.zone.addresses();
                let glue =
                    addresses.iter().map(|address| self.record(Owner::Name(Arc::clone(server)), (*address).into()));
                self.answer.additional = glue.collect();
            }
            _ => {}
        }
        Found::Exists
    }

    /// `NS`, `SVC.NS`, `HOST.SVC.NS`, `_PROTO.SVC.NS` or `_PORT._PROTO.SVC.NS`.
    fn service(&mut self, rest: &str, rng: &mut impl Rng) -> Found {
        let Some(key) = last_two_labels(rest) else { return self.namespace(rest) };
        let records = self.records;
        let Some((key, service)) = records.services.get_key_value(key) else { return Found::Missing };
        let front = &rest[..rest.len() - key.len()];
        if front.is_empty() {
            return self.whole_service(key, service, rng);
        }
        if matches!(service.kind, ServiceKind::External(_)) {
            return Found::Missing;
        }
        let front = &front[..front.len() - 1];
        match front.split_once('.') {
            None if front.starts_with('_') => {
                let known = self.ports(key, service).any(|port| *port.protocol == *front && !port.name.is_empty());
                if known { Found::Exists } else { Found::Missing }
            }
            None => self.endpoint(key, front),
            Some((port, protocol)) => {
                let Some(name) = port.strip_prefix('_').filter(|name| !name.is_empty() && !name.contains('.')) else {
                    return Found::Missing;
                };
                let wanted = |port: &Port| *port.name == *name && *port.protocol == *protocol;
                if !self.ports(key, service).any(wanted) {
                    return Found::Missing;
                }
                self.srv(key, service, wanted, rng);
                Found::Exists
            }
        }
    }

    fn namespace(&mut self, name: &str) -> Found {
        if self.records.namespaces.contains_key(name) { Found::Exists } else { Found::Missing }
    }

    fn whole_service(&mut self, key: &Arc<str>, service: &ServiceEntry, rng: &mut impl Rng) -> Found {
        self.cause(Cause::Service(Arc::clone(&service.object)));
        match &service.kind {
            ServiceKind::External(target) => return Found::Alias(Arc::clone(target)),
            _ if self.kind == Kind::Srv => self.srv(key, service, |_| true, rng),
            ServiceKind::Vips { .. } => self.addresses(service.vips()),
            ServiceKind::Headless => {
                let slices = self.slices(key);
                self.endpoints(slices.iter().map(|slice| (slice, slice.endpoints.as_slice())));
            }
        }
        Found::Exists
    }

    /// The endpoints of a Service that have a certain name (rule D3).
    fn endpoint(&mut self, key: &Arc<str>, host: &str) -> Found {
        let named =
            self.slices(key).iter().map(|slice| (slice, slice.named(host))).filter(|(_, named)| !named.is_empty());
        if named.clone().next().is_none() {
            return Found::Missing;
        }
        self.endpoints(named);
        Found::Exists
    }

    fn endpoints<'s>(&mut self, endpoints: impl Iterator<Item = (&'s Arc<SliceEntry>, &'s [Endpoint])>) {
        let mut all = Vec::new();
        for (slice, endpoints) in endpoints {
            self.cause(Cause::Slice(Arc::clone(&slice.object)));
            all.extend(endpoints.iter().map(|endpoint| endpoint.address));
        }
        // An endpoint may be in two slices while it moves from one to the other.
        all.sort_unstable();
        all.dedup();
        self.addresses(all);
    }

    /// SRV records of the ports that are wanted (rule D2).
    fn srv(&mut self, key: &Arc<str>, service: &ServiceEntry, wanted: impl Fn(&Port) -> bool, rng: &mut impl Rng) {
        if !matches!(self.kind, Kind::Srv | Kind::Any) {
            return;
        }
        let mut targets: Vec<(Arc<str>, u16)> = Vec::new();
        let mut glue: Vec<(Arc<str>, IpAddr)> = Vec::new();
        if matches!(service.kind, ServiceKind::Headless) {
            for slice in self.slices(key) {
                for endpoint in &slice.endpoints {
                    let target = self.fqdn(&format!("{}.{key}", endpoint.host));
                    targets
                        .extend(slice.ports.iter().filter(|port| wanted(port)).map(|port| (target.clone(), port.port)));
                    glue.push((target, endpoint.address));
                }
            }
            let mut seen = HashSet::new();
            glue.retain(|glue| seen.insert(glue.clone()));
        } else {
            let target = self.fqdn(key);
            targets.extend(service.ports.iter().filter(|port| wanted(port)).map(|port| (target.clone(), port.port)));
            glue.extend(service.vips().map(|vip| (target.clone(), vip)));
        }
        // Both families of an endpoint have one name, and so one record; so have a number's TCP and UDP.
        let mut seen = HashSet::new();
        targets.retain(|target| seen.insert(target.clone()));
        if targets.is_empty() {
            return;
        }
        let weight = u16::try_from(100 / targets.len()).unwrap_or(100).max(1);
        for (target, port) in targets {
            self.push(Data::Srv { priority: 0, weight, port, target });
        }
        glue.shuffle(rng);
        glue.truncate(MAX_ADDITIONAL);
        self.answer.additional =
            glue.into_iter().map(|(name, address)| self.record(Owner::Name(name), address.into())).collect();
    }

    /// The ports that have SRV records: a headless Service's are those of its endpoints.
    fn ports<'s>(&'s self, key: &str, service: &'s ServiceEntry) -> impl Iterator<Item = &'s Port> {
        // The Service's own are looked at as well, so that a name exists while no endpoint is ready.
        let of_slices = self.slices(key).iter().filter(|_| matches!(service.kind, ServiceKind::Headless));
        service.ports.iter().chain(of_slices.flat_map(|slice| &slice.ports))
    }

    /// `NS` or `10-244-1-5.NS`.
    fn pod(&mut self, rest: &str) -> Found {
        let Some((label, namespace)) = rest.split_once('.') else { return self.namespace(rest) };
        let Some(address) = undashed(label) else { return Found::Missing };
        let pods = self.records.pods.get(&address).into_iter().flatten();
        let Some(pod) = pods.into_iter().find(|pod| pod.key.namespace == namespace) else { return Found::Missing };
        self.cause(Cause::Pod(Arc::clone(pod)));
        self.addresses([address]);
        Found::Exists
    }

    fn reverse(&mut self, apex: &Arc<str>, what: Reverse) -> Found {
        let address = match what {
            Reverse::Apex => return self.apex(Arc::clone(apex)),
            Reverse::Part => return Found::Exists,
            Reverse::Nothing => return Found::Missing,
            Reverse::Address(address) => address,
        };
        let names = self.names_of(address);
        if names.is_empty() {
            return Found::Missing;
        }
        if matches!(self.kind, Kind::Ptr | Kind::Any) {
            for name in names {
                self.push(Data::Ptr(name));
            }
        }
        Found::Exists
    }

    /// Rule D4: the name of a VIP, or the names of an endpoint. Names below headless Services win over those below
    /// other Services, because they are the ones by which the endpoints know each other.
    fn names_of(&mut self, address: IpAddr) -> Vec<Arc<str>> {
        let mut best: Vec<(Arc<str>, Arc<Object>)> = Vec::new();
        let mut best_rank = 0;
        for owner in self.records.reverse.get(&address).into_iter().flatten() {
            let (AddressOwner::Vip { service: key } | AddressOwner::Endpoint { service: key, .. }) = owner;
            let Some(service) = self.records.services.get(key) else { continue };
            let (rank, name) = match (owner, &service.kind) {
                (_, ServiceKind::External(_)) => continue,
                (AddressOwner::Vip { .. }, _) => (3, self.fqdn(key)),
                (AddressOwner::Endpoint { host, .. }, ServiceKind::Headless) => {
                    (2, self.fqdn(&format!("{host}.{key}")))
                }
                (AddressOwner::Endpoint { host, .. }, _) => (1, self.fqdn(&format!("{host}.{key}"))),
            };
            if rank > best_rank {
                best.clear();
                best_rank = rank;
            }
            if rank == best_rank && best.iter().all(|(known, _)| *known != name) {
                best.push((name, Arc::clone(&service.object)));
            }
        }
        let (names, objects): (Vec<_>, Vec<_>) = best.into_iter().unzip();
        self.answer.causes.extend(objects.into_iter().map(Cause::Service));
        names
    }

    /// Borrowed from the records, not from this search, so that the answer can be written meanwhile.
    fn slices(&self, key: &str) -> &'a [Arc<SliceEntry>] {
        self.records.slices.get(key).map_or(&[], Vec::as_slice)
    }

    /// Adds the addresses of the family asked for; of the first family there is, for ANY.
    fn addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut any = None;
        for address in addresses {
            let wanted = match self.kind {
                Kind::A => address.is_ipv4(),
                Kind::Aaaa => address.is_ipv6(),
                Kind::Any => *any.get_or_insert(address.is_ipv4()) == address.is_ipv4(),
                _ => false,
            };
            if wanted {
                self.push(address.into());
            }
        }
    }

    fn finish(mut self, apex: Arc<str>, code: Code, rng: &mut impl Rng) -> Answer {
        self.answer.code = code;
        // Aliases come first and in order, what they lead to in any order.
        let aliases = self.answer.answers.iter().take_while(|record| matches!(record.data, Data::Cname(_))).count();
        let data = &mut self.answer.answers[aliases..];
        if data.is_empty() {
            let soa = self.soa(apex);
            self.answer.authority.push(soa);
        } else {
            data.shuffle(rng);
        }
        self.answer
    }

    fn soa(&self, apex: Arc<str>) -> Record {
        self.record(
            Owner::Name(apex),
            Data::Soa {
                server: Arc::clone(self.zone.server()),
                contact: Arc::clone(self.zone.contact()),
                serial: self.records.serial,
                minimum: self.zone.ttl,
            },
        )
    }

    fn fqdn(&self, service: &str) -> Arc<str> {
        format!("{service}.svc.{}", self.zone.domain()).into()
    }

    fn record(&self, owner: Owner, data: Data) -> Record {
        Record { owner, ttl: self.zone.ttl, data }
    }

    fn push(&mut self, data: Data) {
        let record = self.record(self.owner.clone(), data);
        self.answer.answers.push(record);
    }

    fn cause(&mut self, cause: Cause) {
        self.answer.causes.push(cause);
    }
}

impl From<IpAddr> for Data {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::A(v4),
            IpAddr::V6(v6) => Self::Aaaa(v6),
        }
    }
}

/// `web.default` of `_http._tcp.web.default`.
fn last_two_labels(name: &str) -> Option<&str> {
    let last = name.rfind('.')?;
    Some(name[..last].rfind('.').map_or(name, |dot| &name[dot + 1..]))
}

#[cfg(test)]
mod tests;
