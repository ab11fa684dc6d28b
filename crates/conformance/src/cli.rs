//! The real `etcdctl` and `etcdutl` at work on a server, as a script's user types them.
//!
//! ```text
//! > etcdctl put a 1 --lease=L1
//! > etcdctl txn <<< "value(\"a\") = \"1\"\n\nput b 2\n\n\n"
//! > etcdctl watch a --rev=1 | head -4
//! ---
//! etcdctl: 0
//!   | OK
//! etcdctl: 0
//!   | SUCCESS
//! …
//! ```
//!
//! Printed are the exit status, standard output, and of standard error what is not a log line (`!`). A script may
//! write `L1` and `M1` for ids, which the tools want in hexadecimal, `CLIENT` for the endpoint, and `FOLDER` for a
//! place for files. `| head -N` ends the tool after so many lines, as a user does who has seen enough.

use std::process::{Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use prost::Message;
use proto::etcdserverpb::*;
use regex::{Captures, Regex};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::answer::{Answer, Names, Show};
use crate::call::ScriptError;
use crate::server::Server;
use crate::tools::Tools;

/// How long a tool may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the tool `line` begins with.
pub async fn run(
    tools: &Tools,
    server: &Server,
    names: &mut Names,
    line: &str,
) -> Result<String, ScriptError> {
    let line = Line::parse(line)?;
    let mut command = match line.words[0].as_str() {
        "etcdctl" => {
            let mut command = Command::new(&tools.etcdctl);
            command.arg(format!("--endpoints={}", server.endpoint()));
            command
        }
        "etcdutl" => Command::new(&tools.etcdutl),
        other => return Err(format!("no such tool: {other}").into()),
    };
    let folder = server.folder().to_string_lossy();
    let words = line.words[1..].iter();
    command.args(words.map(|word| tool_word(word, names).replace("FOLDER", &folder)));
    let output = timeout(PATIENCE, line.output(command))
        .await
        .map_err(|_| "the tool does not end")??;

    let mut answer = vec![match line.head {
        Some(_) => format!("{}:", line.words[0]),
        None => format!(
            "{}: {}",
            line.words[0],
            output
                .status
                .code()
                .map_or("killed".into(), |code| code.to_string())
        ),
    }];
    let stdout = if line.words.iter().any(|word| word == "--write-out=protobuf") && !output.stdout.is_empty()
    {
        protobuf(&line.words, &output.stdout, names)?
    } else {
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    learn_lease(&line.words, &stdout, names);
    learn_member(&stdout, names);
    let is_status = |tool: &str, of: &str| {
        line.words[0] == tool && line.words[1..].starts_with(&[of.into(), "status".into()])
    };
    let of_file = is_status("etcdutl", "snapshot");
    let in_cells = of_file || is_status("etcdctl", "endpoint");
    answer.extend(stdout.lines().map(|line| {
        let line = if of_file {
            masked_file(line)
        } else {
            line.to_owned()
        };
        let line = masked(&line, names);
        format!("  | {}", if in_cells { masked_cells(&line, ", ") } else { line })
    }));
    let errors = String::from_utf8_lossy(&output.stderr);
    let errors = errors.lines().filter(|line| !is_log(line));
    answer.extend(errors.map(|line| format!("  ! {}", masked(line, names))));
    // Blanks at the end of a line would not survive an editor.
    let answer: Vec<_> = answer.iter().map(|line| line.trim_end().to_owned()).collect();
    Ok(answer.join("\n"))
}

/// The message that a command has written, which is that of its call.
fn protobuf(words: &[String], bytes: &[u8], names: &Names) -> Result<String, ScriptError> {
    fn shown<T: Show + Message + Default>(bytes: &[u8], names: &Names) -> Result<String, ScriptError> {
        Ok(Answer::of("protobuf", names, &T::decode(bytes)?))
    }
    let words: Vec<_> = words
        .iter()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let (first, second) = (words[0].as_str(), words.get(1).map_or("", |word| word.as_str()));
    let show = match (first, second) {
        ("get" | "lock" | "elect", _) => shown::<RangeResponse>,
        ("put", _) => shown::<PutResponse>,
        ("del", _) => shown::<DeleteRangeResponse>,
        ("txn", _) => shown::<TxnResponse>,
        ("watch", _) => shown::<WatchResponse>,
        ("alarm", _) => shown::<AlarmResponse>,
        ("member", "list") => shown::<MemberListResponse>,
        ("member", "add") => shown::<MemberAddResponse>,
        ("member", "update") => shown::<MemberUpdateResponse>,
        ("member", "remove") => shown::<MemberRemoveResponse>,
        ("move-leader", _) => shown::<MoveLeaderResponse>,
        ("auth", "status") => shown::<AuthStatusResponse>,
        ("user", "add") => shown::<AuthUserAddResponse>,
        ("user", "delete") => shown::<AuthUserDeleteResponse>,
        ("user", "get") => shown::<AuthUserGetResponse>,
        ("user", "list") => shown::<AuthUserListResponse>,
        ("user", "passwd") => shown::<AuthUserChangePasswordResponse>,
        ("user", "grant-role") => shown::<AuthUserGrantRoleResponse>,
        ("user", "revoke-role") => shown::<AuthUserRevokeRoleResponse>,
        ("role", "add") => shown::<AuthRoleAddResponse>,
        ("role", "delete") => shown::<AuthRoleDeleteResponse>,
        ("role", "get") => shown::<AuthRoleGetResponse>,
        ("role", "list") => shown::<AuthRoleListResponse>,
        ("role", "grant-permission") => shown::<AuthRoleGrantPermissionResponse>,
        ("role", "revoke-permission") => shown::<AuthRoleRevokePermissionResponse>,
        // What is text whatever was asked for.
        _ => return Ok(String::from_utf8_lossy(bytes).into_owned()),
    };
    show(bytes, names)
}

/// A command line of a script.
struct Line {
    words: Vec<String>,
    stdin: String,
    head: Option<usize>,
}

impl Line {
    fn parse(text: &str) -> Result<Self, ScriptError> {
        let mut words = words(text)?;
        let mut head = None;
        if let Some(pipe) = words.iter().position(|word| word == "|") {
            let count = words.get(pipe + 2).and_then(|count| count.strip_prefix('-'));
            head = Some(count.ok_or("only `| head -N` is known")?.parse()?);
            words.truncate(pipe);
        }
        let mut stdin = String::new();
        if let Some(arrow) = words.iter().position(|word| word == "<<<") {
            stdin = words.get(arrow + 1).ok_or("nothing follows <<<")?.clone();
            words.truncate(arrow);
        }
        Ok(Self { words, stdin, head })
    }

    /// Runs the tool to its end, or to the last line that is wanted.
    async fn output(&self, mut command: Command) -> Result<Output, ScriptError> {
        // Variables of the machine must not reach the tools.
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        stdin.write_all(self.stdin.as_bytes()).await?;
        let Some(head) = self.head else {
            drop(stdin);
            return Ok(child.wait_with_output().await?);
        };
        let mut lines = BufReader::new(child.stdout.take().ok_or("no standard output")?).lines();
        let mut stdout = String::new();
        for _ in 0..head {
            let Some(line) = lines.next_line().await? else {
                break;
            };
            stdout.push_str(&line);
            stdout.push('\n');
        }
        child.kill().await?;
        let mut output = child.wait_with_output().await?;
        output.stdout = stdout.into_bytes();
        Ok(output)
    }
}

/// Splits at blanks; single and double quotes hold words together, and in double ones `\n` and `\"` are known.
fn words(text: &str) -> Result<Vec<String>, ScriptError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, ' ') => words.extend(word.take()),
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), _) if character == open => quote = None,
            (Some('"'), '\\') => match characters.next().ok_or("a backslash at the end")? {
                'n' => word.get_or_insert_default().push('\n'),
                other => word.get_or_insert_default().push(other),
            },
            _ => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".into());
    }
    words.extend(word);
    Ok(words)
}

/// A word of a script as the tools want it, with ids in place of names.
fn tool_word(word: &str, names: &Names) -> String {
    let (flag, value) = word
        .split_once('=')
        .map_or(("", word), |(flag, value)| (flag, value));
    let id = match value {
        _ if value.starts_with('M') => names.member_id(value).map(|id| id as i64),
        _ if value.starts_with('L') => names.lease_id(value),
        _ => None,
    };
    match id {
        Some(id) if flag.is_empty() => format!("{id:x}"),
        Some(id) => format!("{flag}={id:x}"),
        None => word.to_owned(),
    }
}

/// Remembers the id of a lease that was granted.
fn learn_lease(words: &[String], stdout: &str, names: &mut Names) {
    static HEX: LazyLock<Regex> = LazyLock::new(|| pattern("^lease ([0-9a-f]{16}) granted"));
    static DECIMAL: LazyLock<Regex> = LazyLock::new(|| pattern("\"ID\" ?: ?([0-9]+)"));
    if words.get(1..3).is_none_or(|call| call != ["lease", "grant"]) {
        return;
    }
    let hex = HEX
        .captures(stdout)
        .and_then(|captures| i64::from_str_radix(&captures[1], 16).ok());
    let decimal = || {
        DECIMAL
            .captures(stdout)
            .and_then(|captures| captures[1].parse().ok())
    };
    names.leases.extend(hex.or_else(decimal));
}

/// Remembers the id of a member that was added.
fn learn_member(stdout: &str, names: &mut Names) {
    static ADDED: LazyLock<Regex> =
        LazyLock::new(|| pattern("^Member +([0-9a-f]+) added (?:as learner )?to cluster"));
    let id = ADDED
        .captures(stdout)
        .and_then(|captures| u64::from_str_radix(&captures[1], 16).ok());
    if let Some(id) = id {
        names.members = [names.all_members(), &[id]].concat();
    }
}

/// A line with what differs from run to run put under a mask.
fn masked(line: &str, names: &Names) -> String {
    /// Numbers by the name of their field, in JSON or in `fields`.
    static FIELDS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r#"("(?:raft_?term|raft_?index|raft_?applied_?index|db_?size|db_?size_?in_?use)" ?: ?)[0-9]+"#,
        )
    });
    /// How long something took. (The seconds of a lease's time to live are whole and have no blank before them.)
    static TIMES: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"\b[0-9.]+(?:ns|µs|ms)|\btook:? (?:= )?[0-9.]+s"));
    /// How long a lease of 100 seconds still has: nearly what it was granted.
    static REMAINING: LazyLock<Regex> = LazyLock::new(|| pattern(r#"(remaining\(|"ttl":|"TTL" : )([0-9]+)"#));
    let mut line = FIELDS.replace_all(line, "${1}+").into_owned();
    line = TIMES.replace_all(&line, "TIME").into_owned();
    line = REMAINING
        .replace_all(&line, |captures: &Captures<'_>| match captures[2].parse() {
            Ok(90..=100) => format!("{}fresh", &captures[1]),
            _ => captures[0].to_owned(),
        })
        .into_owned();
    let members = names
        .all_members()
        .iter()
        .enumerate()
        .map(|(number, id)| (*id, format!("M{}", number + 1)));
    let ids = members.chain([(names.cluster, "CLUSTER".to_owned())]);
    let leases = names
        .leases
        .iter()
        .enumerate()
        .map(|(number, id)| (*id as u64, format!("L{}", number + 1)));
    for (id, name) in ids.chain(leases) {
        // One id in sixteen is shorter than the others, and filled up with zeros, with blanks, or not at all.
        line = line
            .replace(&format!("{id:016x}"), &name)
            .replace(&format!(" {id:16x}"), &format!(" {name}"))
            .replace(&format!("{id:x}"), &name)
            .replace(&id.to_string(), &name);
    }
    match line {
        line if line.contains('─') => "─".into(),
        line if line.contains('│') => masked_cells(&line, "│"),
        line => line,
    }
}

/// The sum, the size and the rows of a backup: they depend on the ids in it, and on who made it. (3.5 counts all rows
/// where later ones count keys.)
fn masked_file(line: &str) -> String {
    static SUM: LazyLock<Regex> =
        LazyLock::new(|| pattern(r#"(^|^│ +|"hash" ?: ?)[0-9a-f]{1,10}(, | │|,|$)"#));
    static SIZE: LazyLock<Regex> =
        LazyLock::new(|| pattern(r#"("(?:totalSize|Size|totalKey|Keys)" ?: ?)[0-9]+"#));
    let line = SUM.replace(line, "${1}HASH${2}");
    SIZE.replace_all(&line, "${1}+").into_owned()
}

/// The cells of a row without padding, and with numbers and sizes masked.
fn masked_cells(row: &str, separator: &str) -> String {
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[0-9]+(\.[0-9]+)?( [kMG]?B)?$"));
    let cells = row.split(separator).map(str::trim);
    let cells: Vec<_> = cells
        .map(|cell| if NUMBER.is_match(cell) { "+" } else { cell })
        .collect();
    cells.join(&format!(" {} ", separator.trim())).trim().to_owned()
}

/// Whether a line of standard error is a log line: JSON, or text that begins with the date.
fn is_log(line: &str) -> bool {
    static LOG: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(\{|[0-9]{4}-|stty: )"));
    LOG.is_match(line)
}

fn pattern(text: &str) -> Regex {
    Regex::new(&format!("(?i){text}")).expect("the pattern is written above")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_as_a_shell_does() {
        let line = Line::parse(r#"etcdctl txn a "b \"c\"\nd" 'e f' "" <<< "x\n" | head -3"#).unwrap();
        assert_eq!(line.words, ["etcdctl", "txn", "a", "b \"c\"\nd", "e f", ""]);
        assert_eq!((line.stdin.as_str(), line.head), ("x\n", Some(3)));
        assert!(Line::parse("etcdctl 'a").is_err());
    }

    #[test]
    fn what_differs_from_run_to_run_is_masked_and_nothing_else() {
        let names = Names {
            cluster: 0xabc_def0,
            member: 0x1234_5678,
            members: Vec::new(),
            leases: vec![0x7777_7777],
        };
        let json = r#"{"header":{"cluster_id":180150000,"member_id":305419896,"revision":2,"raft_term":2}}"#;
        let masked_json = r#"{"header":{"cluster_id":CLUSTER,"member_id":M1,"revision":2,"raft_term":+}}"#;
        assert_eq!(masked(json, &names), masked_json);
        assert_eq!(
            masked("lease 0000000077777777 granted", &names),
            "lease L1 granted"
        );
        for padded in ["Member         12345678 updated", "Member 12345678 updated"] {
            assert_eq!(masked(padded, &names), "Member M1 updated");
        }
        assert_eq!(
            masked("│ 12345678 │ 3.5.30 │ 20 kB │ true │ 7 │", &names),
            "│ M1 │ 3.5.30 │ + │ true │ + │"
        );
    }

    #[test]
    fn ids_in_a_script_become_what_the_tools_read() {
        let names = Names {
            cluster: 1,
            member: 255,
            members: Vec::new(),
            leases: vec![16],
        };
        assert_eq!(tool_word("--lease=L1", &names), "--lease=10");
        assert_eq!(tool_word("M1", &names), "ff");
        assert_eq!(tool_word("Lx", &names), "Lx");
    }
}
