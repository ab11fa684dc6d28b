//! How far a long job is: a bar at a terminal, now and then a line elsewhere, both on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use types::print;

/// How often a job that nobody watches says how far it is.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Jobs one after the other.
#[derive(Default)]
pub struct Progress {
    name: &'static str,
    bar: Option<ProgressBar>,
    /// When the job began, and when it was last told of.
    times: Option<[Instant; 2]>,
}

impl Progress {
    /// So many bytes of that job are done.
    pub fn at(&mut self, name: &'static str, done: u64, total: u64) {
        if self.name != name {
            self.clear();
            self.name = name;
            self.times = Some([Instant::now(); 2]);
            self.bar = std::io::stderr().is_terminal().then(|| bar(name, total));
        }
        match (&self.bar, &mut self.times) {
            (Some(bar), _) => bar.set_position(done),
            (None, Some([began, said])) if said.elapsed() >= BETWEEN_LINES => {
                *said = Instant::now();
                let line = print::progress(name, [done, total], print::size, began.elapsed());
                eprintln!("{line}");
            }
            _ => {}
        }
    }

    fn clear(&mut self) {
        self.bar.take().iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// The bar goes when the job is over.
impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(name: &'static str, total: u64) -> ProgressBar {
    let style = "{msg} [{bar:40}] {percent}% {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(style).expect("the template is written here");
    ProgressBar::new(total)
        .with_style(style.progress_chars("=> "))
        .with_message(name)
}
