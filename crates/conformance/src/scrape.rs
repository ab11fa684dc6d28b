//! What a server shows at `/metrics`, taken apart: the text format, and selectors as queries of Prometheus have them.

use std::collections::{BTreeMap, BTreeSet};

use crate::http;
use crate::server::Server;

/// One scrape.
#[derive(Debug, Default)]
pub struct Scrape {
    /// Kinds of the families that are shown, by name.
    pub kinds: BTreeMap<String, String>,
    /// Every sample.
    pub samples: Vec<Sample>,
}

/// A line with a value.
#[derive(Debug)]
pub struct Sample {
    /// The name, with its suffix.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Scrape {
    /// Of a server's port for metrics.
    pub async fn of(server: &Server) -> Result<Self, String> {
        let at = server.ports.at(server.ports.metrics);
        let answer = http::request(at, "GET", "/metrics", "").await;
        let body = answer.map_err(|error| error.to_string())?.body;
        Self::parse(&String::from_utf8_lossy(&body))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut scrape = Scrape::default();
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').ok_or(line)?;
                scrape.kinds.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                scrape.samples.push(Sample::parse(line).ok_or(line)?);
            }
        }
        Ok(scrape)
    }

    /// The samples of a family, whatever their suffix.
    pub fn of_family(&self, name: &str) -> impl Iterator<Item = &Sample> {
        let is_histogram = self.kinds.get(name).is_some_and(|kind| kind == "histogram");
        let suffixes: &[&str] = match is_histogram {
            true => &["_bucket", "_sum", "_count"],
            false => &[""],
        };
        self.samples.iter().filter(move |sample| {
            let suffix = sample.name.strip_prefix(name);
            suffix.is_some_and(|suffix| suffixes.contains(&suffix))
        })
    }

    /// Upper bounds of a histogram's buckets, without infinity.
    pub fn bounds(&self, name: &str) -> BTreeSet<String> {
        let bounds = self.of_family(name).filter_map(|sample| sample.labels.get("le"));
        bounds.filter(|bound| *bound != "+Inf").cloned().collect()
    }

    /// The series that a selector selects.
    pub fn select(&self, selector: Selector) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |sample| selects(selector, sample))
    }
}

impl Sample {
    /// Values that have quotation marks or line breaks in them are not understood: none of a server's own do.
    fn parse(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            None => (series, ""),
            Some((name, labels)) => (name, labels.strip_suffix("\"}")?),
        };
        let pairs = labels.split("\",").filter(|pair| !pair.is_empty());
        let labels = pairs.map(|pair| {
            let (label, value) = pair.split_once("=\"")?;
            Some((label.to_owned(), value.to_owned()))
        });
        Some(Sample {
            name: name.to_owned(),
            labels: labels.collect::<Option<_>>()?,
            value: value.replace("Inf", "inf").parse().ok()?,
        })
    }
}

/// What a query selects: a name and what must be so of the labels.
pub type Selector = (&'static str, &'static [Must]);

/// A condition on a label.
#[derive(Clone, Copy, Debug)]
pub enum Must {
    /// It is there, for the query groups by it.
    Have(&'static str),
    /// It has this value.
    Be(&'static str, &'static str),
    /// It has another one.
    NotBe(&'static str, &'static str),
    /// It has one of these.
    BeAnyOf(&'static str, &'static [&'static str]),
}

fn selects((name, conditions): Selector, sample: &Sample) -> bool {
    let value = |label: &str| sample.labels.get(label).map_or("", String::as_str);
    let holds = |must: &Must| match *must {
        Must::Have(label) => !value(label).is_empty(),
        Must::Be(label, wanted) => value(label) == wanted,
        Must::NotBe(label, other) => value(label) != other,
        Must::BeAnyOf(label, any) => any.contains(&value(label)),
    };
    sample.name == name && conditions.iter().all(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_is_selected_from_as_prometheus_does() {
        let text = "# HELP a x\n# TYPE a histogram\na_bucket{m=\"P\",le=\"0.5\"} 1\na_bucket{m=\"P\",le=\"+Inf\"} 2\n\
                    a_sum{m=\"P\"} 0.25\na_count{m=\"P\"} 2\n# TYPE a_size gauge\na_size 3e+09\n";
        let scrape = Scrape::parse(text).unwrap();
        assert_eq!(scrape.of_family("a").count(), 4);
        assert_eq!(Vec::from_iter(scrape.bounds("a")), ["0.5"]);
        let count = |selector: Selector| scrape.select(selector).count();
        assert_eq!(count(("a_bucket", &[Must::Be("m", "P"), Must::Have("le")])), 2);
        assert_eq!(count(("a_bucket", &[Must::NotBe("m", "P")])), 0);
        assert_eq!(count(("a_count", &[Must::BeAnyOf("m", &["G", "P"])])), 1);
        assert_eq!(scrape.select(("a_size", &[])).next().unwrap().value, 3e9);
        assert!(Scrape::parse("a{b=c} 1\n").is_err());
    }
}
