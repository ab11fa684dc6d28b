//! Counters, gauges, histograms, and families of them by labels.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;

use super::text::Text;
use crate::go;

/// What a metric is made from.
pub struct Spec {
    pub labels: &'static [&'static str],
    pub buckets: Buckets,
}

/// One kind of metric.
pub trait Metric {
    /// The kind's name in the text format.
    const KIND: &'static str;

    fn new(spec: &Spec) -> Self;

    /// Writes the samples; the family they belong to has been announced.
    fn write(&self, text: &mut Text);
}

/// Buckets whose bounds grow by a factor.
#[derive(Clone, Copy)]
pub struct Buckets {
    start: f64,
    factor: f64,
    count: usize,
}

impl Buckets {
    pub const NONE: Buckets = Buckets::exponential(0.0, 0.0, 0);

    pub const fn exponential(start: f64, factor: f64, count: usize) -> Self {
        Buckets { start, factor, count }
    }

    pub const fn or(self, other: Buckets) -> Self {
        if self.count == 0 { other } else { self }
    }

    pub fn bounds(&self) -> Vec<f64> {
        let grow = |bound: &f64| Some(bound * self.factor);
        std::iter::successors(Some(self.start), grow)
            .take(self.count)
            .collect()
    }
}

/// How many threads can count without sharing a cache line.
const SHARDS: usize = 8;

/// A value per thread, more or less, each on cache lines of its own.
pub struct Sharded<T>([Padded<T>; SHARDS]);

#[repr(align(64))]
#[derive(Default)]
struct Padded<T>(T);

impl<T> Sharded<T> {
    pub fn new(make: impl Fn() -> T) -> Self {
        Sharded(std::array::from_fn(|_| Padded(make())))
    }

    /// The calling thread's.
    pub fn mine(&self) -> &T {
        thread_local!(static SHARD: Cell<Option<usize>> = const { Cell::new(None) });
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let shard = SHARD.with(|shard| match shard.get() {
            Some(known) => known,
            None => {
                let new = NEXT.fetch_add(1, Relaxed) % SHARDS;
                shard.set(Some(new));
                new
            }
        });
        &self.0[shard].0
    }

    /// The sum of what `read` finds in each.
    pub fn sum(&self, read: impl Fn(&T) -> u64) -> u64 {
        self.0.iter().map(|Padded(value)| read(value)).sum()
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|Padded(value)| value)
    }
}

/// Where a value comes from when it is kept elsewhere.
type Ask = OnceLock<Box<dyn Fn() -> f64 + Send + Sync>>;

/// A number that only grows.
pub struct Counter {
    count: Sharded<AtomicU64>,
    asked: Ask,
}

impl Counter {
    /// Counts one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub fn add(&self, n: u64) {
        self.count.mine().fetch_add(n, Relaxed);
    }

    /// From now on `read` tells the count. Only the first call of this has an effect.
    pub fn ask(&self, read: impl Fn() -> f64 + Send + Sync + 'static) {
        let _ = self.asked.set(Box::new(read));
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.count.sum(|shard| shard.load(Relaxed))
    }
}

impl Metric for Counter {
    const KIND: &'static str = "counter";

    fn new(_: &Spec) -> Self {
        Counter {
            count: Sharded::new(AtomicU64::default),
            asked: Ask::new(),
        }
    }

    fn write(&self, text: &mut Text) {
        text.sample(self.asked.get().map_or_else(|| self.get() as f64, |read| read()));
    }
}

/// A number that goes up and down.
pub struct Gauge {
    value: AtomicI64,
    asked: Ask,
}

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.value.store(value, Relaxed);
    }

    /// Adds to it; less than zero takes away.
    pub fn add(&self, difference: i64) {
        self.value.fetch_add(difference, Relaxed);
    }

    /// From now on `read` tells the value. Only the first call of this has an effect.
    pub fn ask(&self, read: impl Fn() -> f64 + Send + Sync + 'static) {
        let _ = self.asked.set(Box::new(read));
    }

    /// The value that was set.
    pub fn get(&self) -> i64 {
        self.value.load(Relaxed)
    }
}

impl Metric for Gauge {
    const KIND: &'static str = "gauge";

    fn new(_: &Spec) -> Self {
        Gauge {
            value: AtomicI64::new(0),
            asked: Ask::new(),
        }
    }

    fn write(&self, text: &mut Text) {
        text.sample(self.asked.get().map_or_else(|| self.get() as f64, |read| read()));
    }
}

/// How often values fell into which range.
pub struct Histogram {
    bounds: Vec<f64>,
    shards: Sharded<Tally>,
}

/// One thread's part of a histogram.
struct Tally {
    /// Values by bucket; the last bucket has no bound.
    counts: Box<[AtomicU64]>,
    /// The bits of a float.
    sum: AtomicU64,
}

impl Tally {
    fn new(buckets: usize) -> Self {
        Tally {
            counts: (0..=buckets).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0f64.to_bits()),
        }
    }
}

impl Histogram {
    /// The bounds that client libraries of Prometheus take when they are given none.
    pub(super) const DEFAULT_BOUNDS: [f64; 11] =
        [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

    pub(super) fn with_bounds(bounds: Vec<f64>) -> Self {
        let shards = Sharded::new(|| Tally::new(bounds.len()));
        Histogram { bounds, shards }
    }

    /// Takes in a value.
    pub fn observe(&self, value: f64) {
        let tally = self.shards.mine();
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        tally.counts[bucket].fetch_add(1, Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        let _ = tally.sum.fetch_update(Relaxed, Relaxed, add);
    }

    /// Takes in a duration, in seconds.
    pub fn observe_duration(&self, took: Duration) {
        self.observe(took.as_secs_f64());
    }
}

impl Metric for Histogram {
    const KIND: &'static str = "histogram";

    fn new(spec: &Spec) -> Self {
        Histogram::with_bounds(spec.buckets.bounds())
    }

    fn write(&self, text: &mut Text) {
        let mut count = 0;
        for (bucket, bound) in self.bounds.iter().chain([&f64::INFINITY]).enumerate() {
            count += self.shards.sum(|tally| tally.counts[bucket].load(Relaxed));
            text.labelled("le", &go::float(*bound).to_string(), |text| {
                text.sample_of("_bucket", count as f64)
            });
        }
        let sums = self
            .shards
            .iter()
            .map(|tally| f64::from_bits(tally.sum.load(Relaxed)));
        text.sample_of("_sum", sums.sum());
        text.sample_of("_count", count as f64);
    }
}

/// Handles of two series of a family, of what failed and of what did not; each is made when it is first used.
#[derive(Default)]
pub struct BySuccess([OnceLock<Arc<Histogram>>; 2]);

impl BySuccess {
    /// The handle; `make` finds it by the label's value.
    pub fn get(&self, success: bool, make: impl FnOnce(&str) -> Arc<Histogram>) -> &Histogram {
        let label = if success { "true" } else { "false" };
        self.0[usize::from(success)].get_or_init(|| make(label))
    }
}

/// One metric for each combination of label values in use.
///
/// Label values must come from a small set: every new one is a series that is never forgotten.
pub struct Family<M> {
    spec: Spec,
    children: RwLock<Vec<Child<M>>>,
}

/// Label values and the metric that has them.
type Child<M> = (Box<[String]>, Arc<M>);

impl<M: Metric> Family<M> {
    /// The metric with these label values, in the order of the declaration.
    pub fn with(&self, values: &[&str]) -> Arc<M> {
        debug_assert_eq!(values.len(), self.spec.labels.len());
        let find = |children: &[Child<M>]| {
            let found = children
                .iter()
                .find(|(known, _)| known.iter().zip(values).all(|(a, b)| a == b));
            found.map(|(_, metric)| Arc::clone(metric))
        };
        if let Some(metric) = find(&self.children.read()) {
            return metric;
        }
        let mut children = self.children.write();
        find(&children).unwrap_or_else(|| {
            let metric = Arc::new(M::new(&self.spec));
            let values = values.iter().map(|value| value.to_string()).collect();
            children.push((values, Arc::clone(&metric)));
            metric
        })
    }

    /// Visits every metric there is so far, in the order of their labels.
    pub fn for_each(&self, mut visit: impl FnMut(&[String], &M)) {
        let mut children = self.children.read().clone();
        children.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (values, metric) in children {
            visit(&values, &metric);
        }
    }

    /// How many there are so far.
    pub fn len(&self) -> usize {
        self.children.read().len()
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<M: Metric> Metric for Family<M> {
    const KIND: &'static str = M::KIND;

    fn new(spec: &Spec) -> Self {
        let spec = Spec {
            labels: spec.labels,
            buckets: spec.buckets,
        };
        Family {
            spec,
            children: RwLock::default(),
        }
    }

    fn write(&self, text: &mut Text) {
        self.for_each(|values, metric| {
            text.with_labels(self.spec.labels.iter().copied().zip(values.iter()), |text| {
                metric.write(text)
            });
        });
    }
}
