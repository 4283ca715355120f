//! Counters of all parts, and Prometheus' text format.
//!
//! The format is written by hand: most values are counted already, in the parts' own structures, and a client library
//! would want a second copy of each, its own registry, and more code than the page that the format takes.
//!
//! What a part counts for nobody but Prometheus stands here as a static: a process is one cluster, and a static needs no
//! handle in the constructors between. docs/metrics.md lists every name; a test holds it against what is served.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

/// Upper bounds of durations, in seconds: from a lookup to a slow disk.
const DURATIONS: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];
/// Series of requests; the rest is `other`. Custom kinds are as many as users make.
const REQUEST_SERIES: usize = 2000;

/// How long things took, or how large they were.
pub struct Histogram {
    bounds: &'static [f64],
    buckets: [AtomicU64; 12],
    count: AtomicU64,
    /// In millionths.
    sum: AtomicU64,
}

impl Histogram {
    pub const fn durations() -> Self {
        Self::new(&DURATIONS)
    }

    /// At most twelve bounds, in ascending order.
    pub const fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: [const { AtomicU64::new(0) }; 12], count: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }

    pub fn observe(&self, took: Duration) {
        self.add(took.as_secs_f64());
    }

    pub fn add(&self, value: f64) {
        if let Some(at) = self.bounds.iter().position(|bound| value <= *bound) {
            self.buckets[at].fetch_add(1, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.sum.fetch_add((value * 1e6) as u64, Relaxed);
    }
}

/// A value per name of a set that the program itself knows.
pub struct Named<T>(Mutex<BTreeMap<&'static str, std::sync::Arc<T>>>);

impl<T> Named<T> {
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub fn get(&self, name: &'static str, make: impl FnOnce() -> T) -> std::sync::Arc<T> {
        std::sync::Arc::clone(self.0.lock().entry(name).or_insert_with(|| std::sync::Arc::new(make())))
    }

    pub fn each(&self, mut see: impl FnMut(&'static str, &T)) {
        self.0.lock().iter().for_each(|(name, value)| see(name, value));
    }
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// What a controller does.
pub struct Controller {
    pub depth: AtomicU64,
    pub took: Histogram,
    pub errors: AtomicU64,
}

impl Controller {
    pub fn new() -> Self {
        Self { depth: AtomicU64::new(0), took: Histogram::durations(), errors: AtomicU64::new(0) }
    }
}

impl Default for Controller {
    fn default() -> Self {
        Self::new()
    }
}

pub static CONTROLLERS: Named<Controller> = Named::new();
pub static PLAN_COMPILE: Histogram = Histogram::durations();
pub static STORE_COMMIT: Histogram = Histogram::durations();
pub static STORE_BATCH: Histogram = Histogram::new(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]);
pub static STORE_WATCHERS: AtomicU64 = AtomicU64::new(0);
pub static CONTAINER_STARTS: AtomicU64 = AtomicU64::new(0);
pub static REQUESTS: Requests = Requests::new();
pub static PROBES: Probes = Probes([const { [const { AtomicU64::new(0) }; 2] }; 3]);

/// One, for as long as it lives.
pub struct Alive(&'static AtomicU64);

impl Alive {
    pub fn count(gauge: &'static AtomicU64) -> Self {
        gauge.fetch_add(1, Relaxed);
        Self(gauge)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Attempts of probes: startup, readiness and liveness; failed, succeeded.
pub struct Probes([[AtomicU64; 2]; 3]);

impl Probes {
    pub const KINDS: [&'static str; 3] = ["startup", "readiness", "liveness"];

    pub fn count(&self, kind: usize, healthy: bool) {
        self.0[kind][usize::from(healthy)].fetch_add(1, Relaxed);
    }
}

type RequestKey = (&'static str, String, u16);

/// Requests to the API, whoever makes them.
pub struct Requests {
    counts: Mutex<BTreeMap<RequestKey, u64>>,
    took: Named<Histogram>,
}

impl Requests {
    const fn new() -> Self {
        Self { counts: Mutex::new(BTreeMap::new()), took: Named::new() }
    }

    pub fn count(&self, verb: &'static str, resource: &str, code: u16, took: Option<Duration>) {
        let mut counts = self.counts.lock();
        let key = (verb, resource.to_owned(), code);
        let key = if counts.len() < REQUEST_SERIES || counts.contains_key(&key) {
            key
        } else {
            (verb, "other".to_owned(), code)
        };
        *counts.entry(key).or_default() += 1;
        drop(counts);
        if let Some(took) = took {
            self.took.get(verb, Histogram::durations).observe(took);
        }
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Counter,
    Gauge,
    Histogram,
}

impl Type {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A text that grows by families of samples.
#[derive(Default)]
pub struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    /// Begins a family; its samples follow.
    pub fn family(&mut self, name: &'static str, type_: Type) -> &mut Self {
        self.family = name;
        let _ = writeln!(self.text, "# TYPE {name} {}", type_.as_str());
        self
    }

    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.line("", labels, None, value);
        self
    }

    pub fn counter(&mut self, name: &'static str, value: impl Display) {
        self.family(name, Type::Counter).sample(&[], value);
    }

    pub fn gauge(&mut self, name: &'static str, value: impl Display) {
        self.family(name, Type::Gauge).sample(&[], value);
    }

    #[allow(clippy::cast_precision_loss)]
    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) -> &mut Self {
        let mut sum = 0;
        let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(histogram.bounds.len() + 1);
        for (bound, count) in histogram.bounds.iter().zip(&histogram.buckets) {
            sum += count.load(Relaxed);
            buckets.push((*bound, sum));
        }
        buckets.push((f64::INFINITY, histogram.count.load(Relaxed).max(sum)));
        self.buckets(labels, &buckets, histogram.sum.load(Relaxed) as f64 / 1e6);
        self
    }

    /// A histogram of upper bounds, the last of them infinite, each with the number of observations up to it.
    pub fn buckets(&mut self, labels: &[(&str, &str)], buckets: &[(f64, u64)], sum: f64) {
        for (bound, count) in buckets {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            self.line("_bucket", labels, Some(&bound), count);
        }
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, buckets.last().map_or(0, |(_, count)| *count));
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>, value: impl Display) {
        self.text.push_str(self.family);
        self.text.push_str(suffix);
        let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        for (at, (name, value)) in all.enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{name}=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() || bound.is_some() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

/// What is counted in statics.
pub fn statics(out: &mut Exposition) {
    out.family("plan_compile_duration_seconds", Type::Histogram).histogram(&[], &PLAN_COMPILE);
    out.family("store_commit_duration_seconds", Type::Histogram).histogram(&[], &STORE_COMMIT);
    out.family("store_commit_writes", Type::Histogram).histogram(&[], &STORE_BATCH);
    out.gauge("store_watchers", STORE_WATCHERS.load(Relaxed));
    out.counter("node_container_starts_total", CONTAINER_STARTS.load(Relaxed));
    out.family("node_probes_total", Type::Counter);
    for (kind, counts) in Probes::KINDS.into_iter().zip(&PROBES.0) {
        for (result, count) in ["failure", "success"].into_iter().zip(counts) {
            out.sample(&[("probe", kind), ("result", result)], count.load(Relaxed));
        }
    }
    out.family("controller_queue_depth", Type::Gauge);
    CONTROLLERS.each(|name, controller| {
        out.sample(&[("controller", name)], controller.depth.load(Relaxed));
    });
    out.family("controller_reconcile_errors_total", Type::Counter);
    CONTROLLERS.each(|name, controller| {
        out.sample(&[("controller", name)], controller.errors.load(Relaxed));
    });
    out.family("controller_reconcile_duration_seconds", Type::Histogram);
    CONTROLLERS.each(|name, controller| {
        out.histogram(&[("controller", name)], &controller.took);
    });
    out.family("api_requests_total", Type::Counter);
    for ((verb, resource, code), count) in REQUESTS.counts.lock().iter() {
        out.sample(&[("verb", verb), ("resource", resource), ("code", &code.to_string())], count);
    }
    out.family("api_request_duration_seconds", Type::Histogram);
    REQUESTS.took.each(|verb, took| {
        out.histogram(&[("verb", verb)], took);
    });
}

/// What Linux knows of this process, under the names that Prometheus' own libraries give it.
pub fn process(out: &mut Exposition) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    #[allow(clippy::cast_precision_loss)]
    let ticks = |ticks: u64| ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    out.counter("process_cpu_seconds_total", ticks(field(11) + field(12)));
    out.gauge("process_threads", field(17));
    out.gauge("process_virtual_memory_bytes", field(20));
    out.gauge("process_resident_memory_bytes", field(21) * rustix::param::page_size() as u64);
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u32>().ok()).unwrap_or(0);
    out.gauge("process_start_time_seconds", f64::from(boot) + ticks(field(19)));
    out.gauge("process_open_fds", std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count));
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    out.gauge("process_max_fds", most.map_or_else(|| "+Inf".to_owned(), |most| most.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_prometheus_reads_them() {
        static SIZES: Histogram = Histogram::new(&[1.0, 2.5]);
        [0.5, 2.0, 9.0].into_iter().for_each(|size| SIZES.add(size));
        let mut out = Exposition::default();
        out.counter("a_total", 3);
        out.family("b", Type::Gauge).sample(&[("name", "a \"b\"\\\n")], 1.5);
        out.family("c", Type::Histogram).histogram(&[("x", "y")], &SIZES);
        assert_eq!(
            out.into_text(),
            "# TYPE a_total counter\na_total 3\n# TYPE b gauge\nb{name=\"a \\\"b\\\"\\\\\\n\"} 1.5\n# TYPE c histogram\n\
             c_bucket{x=\"y\",le=\"1\"} 1\nc_bucket{x=\"y\",le=\"2.5\"} 2\nc_bucket{x=\"y\",le=\"+Inf\"} 3\n\
             c_sum{x=\"y\"} 11.5\nc_count{x=\"y\"} 3\n"
        );
    }

    #[test]
    fn process_has_memory_files_and_a_past() {
        let mut out = Exposition::default();
        process(&mut out);
        let text = out.into_text();
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"] {
            let line = text.lines().find(|line| line.starts_with(name)).expect(name);
            assert!(line.split(' ').nth(1).and_then(|value| value.parse::<f64>().ok()) > Some(0.0), "{line}");
        }
    }

    #[test]
    fn series_of_requests_are_bounded() {
        let requests = Requests::new();
        for n in 0..REQUEST_SERIES + 50 {
            requests.count("get", &format!("r{n}"), 200, None);
        }
        assert_eq!(requests.counts.lock().len(), REQUEST_SERIES + 1);
    }
}
