//! The documentation: every command on it is run, every error and warning is explained, every link leads somewhere.

// A test of the rim: it has files and processes.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use handbook::members::{Member, start, yaml};
use handbook::page::{Block, ELSEWHERE, Kind, blocks};
use handbook::programs::Programs;
use handbook::{needs, read, repository, sandbox};
use libtest_mimic::{Arguments, Failed, Trial};
use regex::Regex;

type Told = Result<(), Failed>;

/// Pages that are for whatever `etcdctl` a reader has: their commands are run with etcd's own, too.
const FOR_ANY_TOOL: [&str; 2] = ["docs/book/src/ports.md", "docs/zh-TW/ports.md"];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let pages = match pages() {
        Ok(pages) => pages,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let lacks = sandbox::lacks();
    let programs: &'static Result<Programs, String> = Box::leak(Box::new(Programs::find()));
    let lacks = lacks.or_else(|| programs.as_ref().err().cloned());
    let others: &'static Result<Programs, String> = Box::leak(Box::new(
        programs
            .as_ref()
            .map_err(Clone::clone)
            .and_then(Programs::with_etcds_tools),
    ));
    let mut trials = vec![
        Trial::test("every_error_is_explained_in_both_languages", every_error),
        Trial::test("every_warning_is_explained", every_warning),
        Trial::test("what_is_run_elsewhere_takes_another_machine", elsewhere),
        Trial::test(
            "every_page_is_in_the_summary_and_every_link_leads_somewhere",
            links,
        ),
    ];
    for page in pages {
        let name = format!("the_commands_of {}", shown(&page));
        if FOR_ANY_TOOL.contains(&&*shown(&page)) {
            let (name, page) = (format!("{name} with etcd's own tools"), page.clone());
            let lacks = lacks.clone().or_else(|| others.as_ref().err().cloned());
            let run = move || run(others.as_ref().map_err(Failed::from)?, &page);
            trials.push(needs::trial(&name, lacks, run));
        }
        let run = move || run(programs.as_ref().map_err(Failed::from)?, &page);
        trials.push(needs::trial(&name, lacks.clone(), run));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Every page for users.
fn pages() -> Result<Vec<PathBuf>, String> {
    let mut pages = vec![repository("README.md")];
    let mut folders = vec![repository("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| error.to_string())? {
            let path = entry.map_err(|error| error.to_string())?.path();
            match path.extension().is_some_and(|extension| extension == "md") {
                true => pages.push(path),
                false if path.is_dir() => folders.push(path),
                false => {}
            }
        }
    }
    pages.sort();
    Ok(pages)
}

/// A page's name in the repository.
fn shown(page: &Path) -> String {
    let root = repository("");
    page.strip_prefix(root).unwrap_or(page).display().to_string()
}

fn page_blocks(page: &Path) -> Result<Vec<Block>, String> {
    let text = fs::read_to_string(page).map_err(|error| error.to_string())?;
    blocks(&text)
}

fn run(programs: &Programs, page: &Path) -> Told {
    let blocks = page_blocks(page)?;
    let is_here = |block: &Block| block.kind != Kind::Elsewhere;
    if !blocks.iter().any(is_here) {
        return Ok(());
    }
    // The page about ports is about the members of Compose.
    let prelude = match page.ends_with("ports.md") {
        true => start(&Member::of_compose(&yaml(&read(
            "deploy/compose/docker-compose.yml",
        )?)?)),
        false => String::new(),
    };
    Ok(sandbox::run(programs, &prelude, &blocks)?)
}

/// A block may only be left out for a program that a test can't have.
fn elsewhere() -> Told {
    for page in pages()? {
        for block in page_blocks(&page)?
            .iter()
            .filter(|block| block.kind == Kind::Elsewhere)
        {
            let mut words = block.commands.split_whitespace();
            let needs_another =
                words.any(|word| ELSEWHERE.contains(&word.rsplit('/').next().unwrap_or_default()));
            assert!(needs_another, "{} line {}: run it here", shown(&page), block.line);
        }
    }
    Ok(())
}

fn every_error() -> Told {
    let source = read("crates/types/src/error.rs")?;
    let row = Regex::new(r#"\(\s*Code::\w+,\s*"([^"]+)",?\s*\)"#).expect("a pattern");
    let texts: Vec<_> = row
        .captures_iter(&source)
        .map(|found| found[1].to_owned())
        .collect();
    assert!(texts.len() > 60, "the table was not found");
    for page in [
        "docs/book/src/troubleshooting.md",
        "docs/zh-TW/troubleshooting.md",
    ] {
        let page_text = read(page)?;
        for text in &texts {
            assert!(
                page_text.contains(&format!("| `{text}` |")),
                "{page} does not explain {text:?}"
            );
        }
    }
    Ok(())
}

/// What `warn!` and `error!` say in a source file: the last text among their arguments.
fn said(source: &str) -> Vec<String> {
    let begin = Regex::new(r"\b(?:warn|error)!\(").expect("a pattern");
    let text = Regex::new(r#""((?:[^"\\]|\\(?s:.))*)""#).expect("a pattern");
    let broken = Regex::new(r"\\\n\s*").expect("a pattern");
    let last = |start: usize| {
        let body = arguments(&source[start..]);
        let found = text.captures_iter(body).last()?;
        Some(broken.replace_all(&found[1], "").into_owned())
    };
    begin
        .find_iter(source)
        .filter_map(|found| last(found.end()))
        .collect()
}

/// The arguments of a macro, up to the parenthesis that closes it.
fn arguments(source: &str) -> &str {
    let (mut depth, mut is_text, mut is_escaped) = (1, false, false);
    for (place, character) in source.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_text = !is_text,
            '(' if !is_text => depth += 1,
            ')' if !is_text => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &source[..place];
        }
    }
    source
}

fn sources() -> Result<Vec<PathBuf>, String> {
    let mut sources = Vec::new();
    let crates = ["etcd", "server", "peer", "discovery", "tls"];
    let mut folders: Vec<_> = crates
        .map(|name| repository(&format!("crates/{name}/src")))
        .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| error.to_string())? {
            let path = entry.map_err(|error| error.to_string())?.path();
            match path.is_dir() {
                true if path.ends_with("tests") => {}
                true => folders.push(path),
                false if path.ends_with("tests.rs") => {}
                false => sources.push(path),
            }
        }
    }
    Ok(sources)
}

fn every_warning() -> Told {
    let page = read("docs/book/src/troubleshooting.md")?;
    let mut messages = BTreeSet::new();
    for path in sources()? {
        let source = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        messages.extend(said(code));
    }
    assert!(messages.len() > 60, "the sources were not found");
    let mut missing: Vec<String> = Vec::new();
    for message in messages {
        // The longest part that is the same each time; what is all made up elsewhere has none.
        let parts = message.split(['{', '}']).step_by(2).map(str::trim);
        let part = parts.max_by_key(|part| part.len()).unwrap_or_default();
        let sentence = part.split_inclusive(". ").next().unwrap_or_default().trim();
        if sentence.len() >= 6 && !page.contains(sentence) {
            missing.push(message);
        }
    }
    assert!(missing.is_empty(), "not explained:\n{}", missing.join("\n"));
    Ok(())
}

fn links() -> Told {
    let link = Regex::new(r"\]\(([^)#]+)(?:#[^)]*)?\)").expect("a pattern");
    for page in pages()? {
        let text = fs::read_to_string(&page).map_err(|error| error.to_string())?;
        for found in link
            .captures_iter(&text)
            .filter(|found| !found[1].contains("://"))
        {
            let target = page.with_file_name("").join(&found[1]);
            assert!(target.exists(), "{}: {}", shown(&page), &found[1]);
        }
    }
    let summary = read("docs/book/src/SUMMARY.md")?;
    for entry in fs::read_dir(repository("docs/book/src")).map_err(|error| error.to_string())? {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        let name = name.to_string_lossy();
        assert!(
            name == "SUMMARY.md" || summary.contains(&format!("({name})")),
            "{name} is in no summary"
        );
    }
    Ok(())
}
