//! The scripts themselves.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// A file of `scripts/`.
#[derive(Debug)]
pub struct Script {
    /// The file's name without its ending: a sentence with underscores.
    pub name: String,
    path: PathBuf,
    /// The whole text.
    pub text: String,
}

impl Script {
    /// Its steps without their answers: each call with its tags, the differences it expects.
    pub fn steps(&self) -> Result<Vec<(String, BTreeSet<String>)>, String> {
        let mut reader = Reader(Vec::new());
        goldenscript::generate(&mut reader, &self.text).map_err(|e| format!("{}: {e}", self.name))?;
        Ok(reader.0)
    }

    /// Puts a new recording in the place of the old one.
    pub fn record(&self, recording: &str) -> Result<(), String> {
        fs::write(&self.path, recording).map_err(|e| format!("{}: {e}", self.path.display()))
    }
}

/// Goes through a script without doing anything.
struct Reader(Vec<(String, BTreeSet<String>)>);

impl goldenscript::Runner for Reader {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &Self::Command,
        context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        self.0.push((command.to_string(), context.tags.clone()));
        Ok(String::new())
    }
}

/// The scripts of `scripts/` and of its folders.
pub fn all() -> Vec<Script> {
    ["", "gateway", "etcdctl", "cluster"]
        .into_iter()
        .flat_map(in_folder)
        .collect()
}

/// The scripts in a folder of `scripts/`, by name.
///
/// # Panics
/// If the folder can't be read; it is part of the sources.
pub fn in_folder(folder: &str) -> Vec<Script> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(folder);
    let mut scripts: Vec<_> = fs::read_dir(&folder)
        .expect("the scripts are part of the sources")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
        .map(|path| Script {
            name: path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            text: fs::read_to_string(&path).expect("a script is text"),
            path,
        })
        .collect();
    scripts.sort_by(|a, b| a.name.cmp(&b.name));
    scripts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_says_what_it_is_about_and_starts_a_server() {
        for script in all() {
            let steps = script.steps().unwrap();
            assert!(script.text.starts_with("# "), "{}", script.name);
            assert!(
                steps.first().is_some_and(|(call, _)| call.starts_with("start")),
                "{}",
                script.name
            );
            assert!(steps.len() > 10, "{}", script.name);
        }
    }
}
