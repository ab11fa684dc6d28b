//! A page of Markdown, and the commands on it.
//!
//! The word behind `sh` on a fence says how a block is run:
//!
//! | fence | |
//! |---|---|
//! | `sh` | to its end, which has to be good |
//! | `sh,server` | in the background; goes on once every `etcd` in it serves clients, and lives as long as the page |
//! | `sh,fails` | to its end, which has to be bad |
//! | `sh,elsewhere` | not here: it takes one of [`ELSEWHERE`], which a test has not |
//!
//! A block of `text` right behind a block is what that prints. `…` stands for anything on a line, and on a line of its
//! own for any lines. Blocks of other languages are not run: `console` is for what a reader sees.

use std::fmt::Write;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use regex::Regex;

/// Programs a block may need that no test can give it: other machines, root, registries.
pub const ELSEWHERE: [&str; 9] = [
    "docker",
    "kubectl",
    "systemctl",
    "cargo",
    "dpkg",
    "rpm",
    "npx",
    "goreman",
    "install",
];

/// How a block is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To its good end.
    Run,
    /// In the background.
    Server,
    /// To its bad end.
    Fails,
    /// Not here.
    Elsewhere,
}

/// A block of commands.
#[derive(Debug)]
pub struct Block {
    /// Where it begins on the page.
    pub line: usize,
    /// How it is run.
    pub kind: Kind,
    /// What is typed.
    pub commands: String,
    /// What is printed, if the page says so.
    pub output: Option<String>,
}

impl Block {
    /// Servers that it starts.
    pub fn servers(&self) -> usize {
        let joined = self.commands.replace("\\\n", " ");
        joined
            .lines()
            .filter(|line| line.starts_with("etcd ") || *line == "etcd")
            .count()
    }

    /// Compares what it has printed.
    pub fn check(&self, printed: &str) -> Result<(), String> {
        let Some(expected) = &self.output else {
            return Ok(());
        };
        match pattern(expected).is_match(printed.trim_end()) {
            true => Ok(()),
            false => Err(format!(
                "line {}: expected\n{expected}\nbut printed is\n{printed}",
                self.line
            )),
        }
    }
}

/// A page's blocks of commands.
pub fn blocks(page: &str) -> Result<Vec<Block>, String> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut follows = false;
    let mut events = Parser::new_ext(page, Options::ENABLE_TABLES).into_offset_iter();
    while let Some((event, range)) = events.next() {
        let Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) = event else {
            follows &= matches!(event, Event::End(TagEnd::CodeBlock));
            continue;
        };
        let mut text = String::new();
        for (event, _) in events.by_ref() {
            match event {
                Event::Text(part) => text.push_str(&part),
                _ => break,
            }
        }
        let line = page[..range.start].lines().count() + 1;
        let kind = match &*info {
            // The README's; CI is what runs those.
            "sh" if text.starts_with("cargo ") => Kind::Elsewhere,
            "sh" => Kind::Run,
            "sh,server" => Kind::Server,
            "sh,fails" => Kind::Fails,
            "sh,elsewhere" => Kind::Elsewhere,
            "text" if follows => {
                if let Some(block) = blocks.last_mut() {
                    block.output = Some(text);
                }
                follows = false;
                continue;
            }
            other if other.starts_with("sh") || other.starts_with("bash") => {
                return Err(format!("line {line}: nobody knows how to run {other:?}"));
            }
            _ => {
                follows = false;
                continue;
            }
        };
        follows = true;
        blocks.push(Block {
            line,
            kind,
            commands: text,
            output: None,
        });
    }
    Ok(blocks)
}

fn pattern(expected: &str) -> Regex {
    let mut pattern = String::from("^");
    for line in expected.trim_end().lines() {
        match line.trim() {
            "…" => pattern.push_str("(?s:.*?)"),
            _ => {
                let line = regex::escape(line.trim_end()).replace('…', ".*");
                let _ = write!(pattern, r"{line}[ \t]*(?:\n|$)");
            }
        }
    }
    pattern.push('$');
    Regex::new(&pattern).expect("escaped text is a pattern")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_with_their_kind_and_what_they_print() {
        let page = "A\n\n```sh\necho a\n```\n\n```text\na\n```\n\nB\n\n```sh,server\netcd \\\n  --name=x\netcd\n```\n\nC\n\n```text\nnot its output\n```\n";
        let blocks = blocks(page).unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!((blocks[0].line, blocks[0].kind), (3, Kind::Run));
        assert_eq!(blocks[0].output.as_deref(), Some("a\n"));
        assert_eq!((blocks[1].kind, blocks[1].servers()), (Kind::Server, 2));
        assert_eq!(blocks[1].output, None);
    }

    #[test]
    fn a_fence_that_nobody_knows_is_an_error() {
        assert_eq!(blocks("```sh\ncargo x\n```\n").unwrap()[0].kind, Kind::Elsewhere);
        assert!(blocks("```sh,maybe\nx\n```\n").is_err());
        assert!(blocks("```yaml\nx: 1\n```\n").unwrap().is_empty());
    }

    #[test]
    fn dots_stand_for_what_differs() {
        let matches = |expected, printed| pattern(expected).is_match(printed);
        assert!(matches("took …s\nend\n", "took 1.5s\nend"));
        assert!(!matches("took …s\nend\n", "took 1.5s"));
        assert!(matches("a\n…\nb\n", "a\n1\n2\nb"));
        assert!(matches("…\nb\n", "b"));
        assert!(!matches("a.c\n", "abc"));
    }
}
