//! The documentation: every command on it is run, every error and warning is explained, every link leads somewhere, and
//! every test and file it names is there.

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
use pulldown_cmark::{Event, Options, Parser, Tag};
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
        Trial::test("every_warning_is_explained_in_both_languages", every_warning),
        Trial::test("what_is_run_elsewhere_takes_another_machine", elsewhere),
        Trial::test("every_page_is_in_the_summary", summary),
        Trial::test("every_link_leads_somewhere", links),
        Trial::test("every_test_and_file_that_is_named_is_there", names),
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
    let mut pages = files("docs", "md")?;
    pages.push(repository("README.md"));
    pages.sort();
    Ok(pages)
}

/// Every file of Markdown that is ours.
fn texts() -> Result<Vec<PathBuf>, String> {
    let mut texts = Vec::new();
    for folder in ["docs", "deploy", "crates"] {
        texts.extend(files(folder, "md")?);
    }
    for name in ["README.md", "ARCHITECTURE.md", "STYLE.md", "CHANGELOG.md"] {
        texts.push(repository(name));
    }
    Ok(texts)
}

/// The files below a folder of the repository whose names end this way.
fn files(folder: &str, extension: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut folders = vec![repository(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| error.to_string())? {
            let path = entry.map_err(|error| error.to_string())?.path();
            match path.extension().is_some_and(|found| found == extension) {
                true => found.push(path),
                false if path.is_dir() => folders.push(path),
                false => {}
            }
        }
    }
    Ok(found)
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

/// Where errors and warnings are explained.
const TROUBLESHOOTING: [&str; 2] = [
    "docs/book/src/troubleshooting.md",
    "docs/zh-TW/troubleshooting.md",
];

fn every_error() -> Told {
    let source = read("crates/types/src/error.rs")?;
    let row = Regex::new(r#"\(\s*Code::\w+,\s*"([^"]+)",?\s*\)"#).expect("a pattern");
    let texts: Vec<_> = row
        .captures_iter(&source)
        .map(|found| found[1].to_owned())
        .collect();
    assert!(texts.len() > 60, "the table was not found");
    for page in TROUBLESHOOTING {
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
    for name in ["etcd", "server", "peer", "discovery", "tls", "client", "proxy"] {
        sources.extend(files(&format!("crates/{name}/src"), "rs")?);
    }
    let is_test =
        |path: &Path| path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
    sources.retain(|path| !is_test(path));
    Ok(sources)
}

fn every_warning() -> Told {
    let mut messages = BTreeSet::new();
    for path in sources()? {
        let source = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        messages.extend(said(code));
    }
    assert!(messages.len() > 60, "the sources were not found");
    let mut missing: Vec<String> = Vec::new();
    for page in TROUBLESHOOTING {
        let text = read(page)?;
        let is_missing =
            |message: &&String| sentence(message).is_some_and(|sentence| !text.contains(sentence));
        let found = messages.iter().filter(is_missing);
        missing.extend(found.map(|message| format!("{page}: {message}")));
    }
    assert!(missing.is_empty(), "not explained:\n{}", missing.join("\n"));
    Ok(())
}

/// The longest part of a message that is the same each time; what is all made up elsewhere has none.
fn sentence(message: &str) -> Option<&str> {
    let parts = message.split(['{', '}']).step_by(2).map(str::trim);
    let part = parts.max_by_key(|part| part.len())?;
    let sentence = part.split_inclusive(". ").next()?.trim();
    (sentence.len() >= 6).then_some(sentence)
}

/// The book has every page of `docs`, so that a link from one to another leads somewhere in its rendering, too.
fn summary() -> Told {
    let summary = read("docs/SUMMARY.md")?;
    let is_missing = |name: &String| !summary.contains(&format!("({name})"));
    let names = files("docs", "md")?.into_iter().map(|page| shown(&page));
    let names = names.filter_map(|name| Some(name.strip_prefix("docs/")?.to_owned()));
    let missing: Vec<String> = names
        .filter(|name| name != "SUMMARY.md")
        .filter(is_missing)
        .collect();
    assert!(missing.is_empty(), "in no summary: {missing:?}");
    Ok(())
}

/// A link leads to a file of the repository, and behind `#` to a heading in it.
fn links() -> Told {
    let mut dead = Vec::new();
    for text in texts()? {
        let page = fs::read_to_string(&text)?;
        for link in targets(&page).filter(|link| !link.contains("://")) {
            let (path, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => text.clone(),
                path => text.with_file_name("").join(path),
            };
            let leads = target.exists() && (heading.is_empty() || headings(&target)?.contains(heading));
            if !leads {
                dead.push(format!("{}: {link}", shown(&text)));
            }
        }
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
    Ok(())
}

fn targets(page: &str) -> impl Iterator<Item = String> {
    Parser::new_ext(page, Options::ENABLE_TABLES).filter_map(|event| match event {
        Event::Start(Tag::Link { dest_url, .. }) => Some(dest_url.into_string()),
        _ => None,
    })
}

/// The headings of a page as links write them: without punctuation, in small letters, with dashes.
fn headings(page: &Path) -> Result<BTreeSet<String>, Failed> {
    let page = fs::read_to_string(page)?;
    let headings = page.lines().filter_map(|line| line.strip_prefix('#'));
    let as_linked = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|kept| kept.is_alphanumeric() || " -_".contains(*kept));
        kept.map(|kept| if kept == ' ' { '-' } else { kept }).collect()
    };
    Ok(headings.map(as_linked).collect())
}

/// A test's name has four words or more; what begins with a program's name is a metric. A script's name is its file's.
fn names() -> Told {
    let mut known = BTreeSet::new();
    let word = Regex::new("[a-z0-9_]+").expect("a pattern");
    for source in files("crates", "rs")? {
        let source = fs::read_to_string(source)?;
        known.extend(word.find_iter(&source).map(|word| word.as_str().to_owned()));
    }
    for script in files("crates/conformance/scripts", "txt")? {
        known.extend(script.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    let named = Regex::new("`(?:([a-z0-9]+(?:_[a-z0-9]+){3,})|((?:crates|deploy|docs)/[A-Za-z0-9_./-]+))`")
        .expect("a pattern");
    let is_metric = |name: &str| {
        ["etcd_", "grpc_", "process_"]
            .iter()
            .any(|program| name.starts_with(program))
    };
    let mut missing = Vec::new();
    for text in texts()? {
        for found in named.captures_iter(&fs::read_to_string(&text)?) {
            let is_there = match (found.get(1), found.get(2)) {
                (Some(name), _) => is_metric(name.as_str()) || known.contains(name.as_str()),
                (_, Some(path)) => repository(path.as_str()).exists(),
                (None, None) => true,
            };
            if !is_there {
                missing.push(format!("{}: {}", shown(&text), &found[0]));
            }
        }
    }
    assert!(missing.is_empty(), "not there:\n{}", missing.join("\n"));
    Ok(())
}
