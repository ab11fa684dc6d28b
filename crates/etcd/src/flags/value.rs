//! The kinds of values a flag can have, and how Go reads them.

use std::time::Duration;

use server::config::{ClusterState, Gates, NameSet, Url};
use server::go::{self, NumberError};

/// How a value is written down, which matters in a file of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// True or false; the flag alone, without a value, means `true`.
    Bool,
    /// A whole number.
    Number,
    /// A time: a whole number of nanoseconds in a file.
    Duration,
    /// A text.
    Text,
    /// A text; if it is empty in a file, the default holds.
    TextOrDefault,
    /// Several texts: a list in a file.
    List,
}

/// A value that a flag can have.
pub trait Value: Sized + PartialEq {
    /// How it is written down.
    const KIND: Kind;

    /// Reads what a user wrote. The error becomes the end of `invalid value "x" for flag -y: …`.
    fn parse(text: &str) -> Result<Self, String>;

    /// The value of a flag that is given once more: that of the last time.
    fn again(&mut self, later: Self) {
        *self = later;
    }

    /// Reads the items of a list.
    fn parse_items(items: Vec<String>) -> Result<Self, String> {
        Self::parse(&items.join(","))
    }
}

impl Value for bool {
    const KIND: Kind = Kind::Bool;

    fn parse(text: &str) -> Result<Self, String> {
        go::parse_bool(text).ok_or_else(|| "parse error".into())
    }
}

impl Value for String {
    const KIND: Kind = Kind::Text;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

fn number_error(error: NumberError) -> String {
    match error {
        NumberError::Syntax => "parse error".into(),
        NumberError::Range => "value out of range".into(),
    }
}

impl Value for u64 {
    const KIND: Kind = Kind::Number;

    fn parse(text: &str) -> Result<Self, String> {
        go::parse_uint(text).map_err(number_error)
    }
}

impl Value for i64 {
    const KIND: Kind = Kind::Number;

    fn parse(text: &str) -> Result<Self, String> {
        go::parse_int(text).map_err(number_error)
    }
}

/// The one flag of this width is parsed by etcd itself, so its refusals read differently.
impl Value for u32 {
    const KIND: Kind = Kind::Number;

    fn parse(text: &str) -> Result<Self, String> {
        let number = go::parse_uint(text).and_then(|n| u32::try_from(n).map_err(|_| NumberError::Range));
        number.map_err(|error| {
            let problem = match error {
                NumberError::Syntax => "invalid syntax",
                NumberError::Range => "value out of range",
            };
            format!("strconv.ParseUint: parsing {text:?}: {problem}")
        })
    }
}

impl Value for Duration {
    const KIND: Kind = Kind::Duration;

    fn parse(text: &str) -> Result<Self, String> {
        go::parse_duration(text).map_err(|_| "parse error".into())
    }
}

impl Value for Vec<String> {
    const KIND: Kind = Kind::List;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text
            .split(',')
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// An item with a comma is one item.
    fn parse_items(items: Vec<String>) -> Result<Self, String> {
        Ok(items)
    }
}

impl Value for Vec<Url> {
    const KIND: Kind = Kind::TextOrDefault;

    fn parse(text: &str) -> Result<Self, String> {
        Url::parse_list(text).map_err(|error| error.to_string())
    }
}

impl Value for NameSet {
    const KIND: Kind = Kind::TextOrDefault;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(NameSet::parse(text))
    }
}

impl Value for Gates {
    const KIND: Kind = Kind::Text;

    fn parse(text: &str) -> Result<Self, String> {
        Gates::parse(text)
    }

    /// The last time counts for what it names.
    fn again(&mut self, later: Self) {
        self.extend(later);
    }
}

impl Value for ClusterState {
    const KIND: Kind = Kind::TextOrDefault;

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "new" => Ok(ClusterState::New),
            "existing" => Ok(ClusterState::Existing),
            _ => Err("invalid value".into()),
        }
    }
}

/// What to do when discovery fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DiscoveryFallback {
    Exit,
    Proxy,
}

impl Value for DiscoveryFallback {
    const KIND: Kind = Kind::TextOrDefault;

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "exit" => Ok(DiscoveryFallback::Exit),
            "proxy" => Ok(DiscoveryFallback::Proxy),
            _ => Err("invalid value".into()),
        }
    }
}

/// A phase of etcd's farewell to its second API; whatever is chosen, the last phase holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V2Deprecation(String);

impl Value for V2Deprecation {
    const KIND: Kind = Kind::TextOrDefault;

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "write-only" | "write-only-skip-check" | "write-only-drop-data" | "gone" => {
                Ok(V2Deprecation(text.into()))
            }
            _ => Err(format!("invalid value {text:?}")),
        }
    }
}
