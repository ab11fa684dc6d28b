//! Where CPU time goes: a profile as `go tool pprof` reads it.
//!
//! Crate `pprof` interrupts the process so many times in a second of CPU time and notes where the running thread is. This
//! turns its notes into the format's message. There is one profile at a time, and none while nobody asks for one.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use ::pprof::{ProfilerGuardBuilder, Report};
use prost::Message;
use proto::perftools::profiles::{Function, Label, Line, Location, Profile, Sample, ValueType};
use thiserror::Error;

/// Interrupts in a second, as Go's.
const FREQUENCY: i32 = 100;
const PERIOD_NANOS: i64 = 1_000_000_000 / FREQUENCY as i64;

/// Why there is no profile.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// Another one is being made, or the system does not let this one be.
    #[error(transparent)]
    Profiler(#[from] ::pprof::Error),
    /// The process ends.
    #[error("the process stops")]
    Stopping,
}

/// Lets the profiler keep its notes in a folder that the process reaches once its files are confined.
pub fn keep_notes_in(folder: &Path) {
    // The first caller's folder counts, and there is one.
    let _ = tempfile::env::override_temp_dir(folder);
}

/// What this process does for so long, encoded.
///
/// # Errors
/// Somebody else's profile is being made.
pub async fn cpu(takes: Duration) -> Result<Vec<u8>, ProfileError> {
    let guard = ProfilerGuardBuilder::default().frequency(FREQUENCY).build()?;
    tokio::time::sleep(takes).await;
    // Names are looked up in the program's file.
    let report = tokio::task::spawn_blocking(move || guard.report().build()).await;
    let report = report.map_err(|_| ProfileError::Stopping)??;
    Ok(encode(&report).encode_to_vec())
}

/// Texts and functions of a profile, each of them once.
#[derive(Default)]
struct Tables {
    texts: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<(u64, i64), u64>,
    profile: Profile,
}

impl Tables {
    fn text(&mut self, text: &str) -> i64 {
        if let Some(known) = self.texts.get(text) {
            return *known;
        }
        let number = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.texts.insert(text.to_owned(), number);
        number
    }

    fn kind(&mut self, r#type: &str, unit: &str) -> ValueType {
        ValueType {
            r#type: self.text(r#type),
            unit: self.text(unit),
        }
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let (name, filename) = (self.text(name), self.text(file));
        let next = self.functions.len() as u64 + 1;
        let id = *self.functions.entry((name, filename)).or_insert(next);
        if id == next {
            self.profile.function.push(Function {
                id,
                name,
                system_name: name,
                filename,
            });
        }
        id
    }

    /// A line of a function.
    fn location(&mut self, symbol: &::pprof::Symbol) -> u64 {
        let function_id = self.function(&symbol.name(), &symbol.filename());
        let line = i64::from(symbol.lineno());
        let next = self.locations.len() as u64 + 1;
        let id = *self.locations.entry((function_id, line)).or_insert(next);
        if id == next {
            self.profile.location.push(Location {
                id,
                address: 0,
                line: vec![Line { function_id, line }],
            });
        }
        id
    }
}

fn encode(report: &Report) -> Profile {
    let mut tables = Tables::default();
    tables.text("");
    let (samples, cpu) = (tables.kind("samples", "count"), tables.kind("cpu", "nanoseconds"));
    let thread = tables.text("thread");
    for (frames, count) in &report.data {
        let symbols = frames.frames.iter().flatten();
        let location_id = symbols.map(|symbol| tables.location(symbol)).collect();
        let name = tables.text(&frames.thread_name);
        let count = *count as i64;
        tables.profile.sample.push(Sample {
            location_id,
            value: vec![count, count * PERIOD_NANOS],
            label: vec![Label {
                key: thread,
                str: name,
            }],
        });
    }
    let began = report.timing.start_time.duration_since(UNIX_EPOCH);
    Profile {
        sample_type: vec![samples, cpu],
        period_type: Some(cpu),
        period: PERIOD_NANOS,
        time_nanos: began.map_or(0, |began| began.as_nanos() as i64),
        duration_nanos: report.timing.duration.as_nanos() as i64,
        ..tables.profile
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[inline(never)]
    fn a_busy_loop(until: &AtomicBool) -> u64 {
        let mut sum = 0_u64;
        while !until.load(Ordering::Relaxed) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        sum
    }

    #[tokio::test]
    async fn a_profile_names_who_was_busy_and_there_is_one_at_a_time() {
        let over = std::sync::Arc::new(AtomicBool::new(false));
        let busy = {
            let over = over.clone();
            std::thread::Builder::new()
                .name("busy".into())
                .spawn(move || a_busy_loop(&over))
                .unwrap()
        };
        let (first, second) = tokio::join!(cpu(Duration::from_secs(1)), cpu(Duration::from_millis(1)));
        over.store(true, Ordering::Relaxed);
        busy.join().unwrap();
        assert!(matches!(
            second,
            Err(ProfileError::Profiler(::pprof::Error::Running))
        ));

        let profile = Profile::decode(&*first.unwrap()).unwrap();
        let text = |at: i64| profile.string_table[at as usize].as_str();
        assert_eq!(text(0), "");
        let kinds: Vec<_> = profile
            .sample_type
            .iter()
            .map(|kind| (text(kind.r#type), text(kind.unit)))
            .collect();
        assert_eq!(kinds, [("samples", "count"), ("cpu", "nanoseconds")]);
        let function = |id: u64| &profile.function[id as usize - 1];
        let of_loop = |sample: &&Sample| {
            sample.location_id.iter().any(|id| {
                let location = &profile.location[*id as usize - 1];
                assert_eq!(location.id, *id);
                location
                    .line
                    .iter()
                    .any(|line| text(function(line.function_id).name).contains("a_busy_loop"))
            })
        };
        let sample = profile.sample.iter().find(of_loop).expect("the loop was seen");
        assert_eq!(sample.value[1], sample.value[0] * profile.period);
        assert_eq!(
            (text(sample.label[0].key), text(sample.label[0].str)),
            ("thread", "busy")
        );
    }
}
