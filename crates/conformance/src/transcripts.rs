//! What our `etcdctl` and `etcdutl` print otherwise than those of 3.5.30, on purpose.
//!
//! They are of 3.7, and their errors name the cause. [`in_common`] takes both to what is common, so that all
//! the rest has to be equal; it is used on both outputs. Each rule says what it passes over, and docs/compat.md lists them for users.

use std::sync::LazyLock;

use regex::Regex;

/// An answer of either tool without what is different on purpose.
pub fn in_common(call: &str, answer: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    // A command line with a mistake in it: how the command is used follows there, and a proposal here.
    let is_mistake = answer.lines().any(|line| MISTAKE.is_match(line));
    for line in answer.lines() {
        // Advice stands on lines of its own, indented below the error.
        let is_advice = line.starts_with("  !   ");
        if is_advice || (is_mistake && !MISTAKE.is_match(line) && line.starts_with("  ")) {
            continue;
        }
        let line = versions(call, &causes(line));
        if is_mistake && lines.last() == line.as_ref() {
            continue;
        }
        lines.extend(line);
    }
    lines.join("\n")
}

/// Whether etcdctl 3.5 has what is called for at all.
pub fn is_newer(call: &str) -> bool {
    const FLAGS: [&str; 5] = [
        "member list --consistency",
        "--min-mod-rev",
        "--max-mod-rev",
        "--min-create-rev",
        "--max-create-rev",
    ];
    FLAGS.iter().any(|flag| call.contains(flag))
}

/// Mistakes that either tool finds in a command line, in words of its own.
static MISTAKE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        "^  ! Error: (unknown flag|unknown shorthand flag|unknown command|invalid txn request|unexpected argument|flag needs an argument|invalid argument)",
    )
});

/// Errors of connections and of what is typed, as far as their words are ours.
fn causes(line: &str) -> String {
    static NOT_REACHED: LazyLock<Regex> =
        LazyLock::new(|| pattern("(context deadline exceeded|(http://)?CLIENT refused the connection)$"));
    static TYPED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "^  ! Error: (bad TTL|bad lease ID|bad lease ID arg|bad member ID arg|malformed comparison|invalid txn|invalid permission type|unknown consistency)[^a-z].*$",
        )
    });
    static REVISION: LazyLock<Regex> =
        LazyLock::new(|| pattern("^  ! Error: (bad revision|strconv.ParseInt: parsing).*$"));
    static RESOLVED: LazyLock<Regex> = LazyLock::new(|| pattern(r" \(resolved urls: .*\)$"));
    static FRAME: LazyLock<Regex> = LazyLock::new(|| pattern("rpc error: code = [A-Za-z]+ desc = "));
    let line = NOT_REACHED.replace(line, "NOT REACHED");
    let line = FRAME.replace(&line, "");
    let line = RESOLVED.replace(&line, "");
    let line = MISTAKE_REST.replace(&line, "$1 ...");
    let line = REVISION.replace(&line, "  ! Error: NO NUMBER");
    TYPED.replace(&line, "  ! Error: $1 ...").into_owned()
}

static MISTAKE_REST: LazyLock<Regex> = LazyLock::new(|| pattern(&format!("({}).*", MISTAKE.as_str())));

/// What 3.6 and 3.7 have added to the answers, taken away again.
fn versions(call: &str, line: &str) -> Option<String> {
    static NEWER_FIELDS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r#","(storageVersion":"[^"]*"|dbSizeQuota":[0-9+]+|hash_revision":[0-9]+|downgradeInfo":\{[^}]*\}|CancelReason":"[^"]*")"#,
        )
    });
    static NEWER_LINES: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r#"^  \| "(StorageVersion|DBSizeInUse|DBSizeQuota|HashRevision|DowngradeTargetVersion|DowngradeEnabled)" :"#,
        )
    });
    static FILE_VERSION: LazyLock<Regex> = LazyLock::new(|| pattern(r#","version":"[^"]*""#));
    static HEX_ZERO: LazyLock<Regex> = LazyLock::new(|| pattern(r#"(Lease" : )0+$"#));
    static TOOK: LazyLock<Regex> = LazyLock::new(|| pattern(r"\]\. took TIME\.?"));
    static VERSION: LazyLock<Regex> = LazyLock::new(|| pattern(r"(etcdctl|etcdutl|API) version: [0-9.]+"));
    // A revision that is not set is left out.
    if line == "  | \"Revision\" : 0" || NEWER_LINES.is_match(line) || line.starts_with("  | Server version ")
    {
        return None;
    }
    if call.contains("snapshot status") && line.starts_with("  | \"Version\" :") {
        return None;
    }
    let line = NEWER_FIELDS
        .replace_all(line, "")
        .replace("\"clientURLS\"", "\"clientURLs\"");
    let line = HEX_ZERO.replace(&line, "${1}0");
    let line = TOOK
        .replace(&line, "]")
        .replace(" expects one argument <filename>", " expects one argument")
        .replace(" added as learner to cluster", " added to cluster");
    let line = VERSION.replace(&line, "$1 version");
    Some(match () {
        () if call.contains("endpoint status") => without_cells(&line, &[3, 5, 6, 7, 14, 15], 16)
            .trim_end()
            .to_owned(),
        () if call.contains("hashkv") => without_cells(&line, &[2], 3),
        () if call.contains("snapshot status") => {
            let line = FILE_VERSION.replace(&line, "");
            without_cells(&line, &[4], 5).trim_end().to_owned()
        }
        () => line.into_owned(),
    })
}

/// A row of a table, or of cells joined by commas, without some of its cells, if it has so many.
fn without_cells(line: &str, unwanted: &[usize], count: usize) -> String {
    let Some(row) = line.strip_prefix("  | ") else {
        return line.to_owned();
    };
    let (separator, frame) = if row.starts_with('│') {
        ("│", 1)
    } else {
        (",", 0)
    };
    let cells: Vec<_> = row.split(separator).collect();
    if cells.len() != count + 2 * frame {
        return line.to_owned();
    }
    let kept = cells.iter().enumerate();
    let kept = kept.filter(|(number, _)| {
        !number
            .checked_sub(frame)
            .is_some_and(|cell| unwanted.contains(&cell))
    });
    let kept: Vec<_> = kept.map(|(_, cell)| *cell).collect();
    format!("  | {}", kept.join(separator))
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is written above")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_taken_away_and_nothing_else() {
        let status = "endpoint status";
        assert_eq!(
            in_common(
                status,
                "  | a , b , 3.7.1 , 3.7.0 , + , + , 20% , + , true , false , + , + , + ,  ,  , false"
            ),
            "  | a , b , 3.7.1 , + , true , false , + , + , + ,"
        );
        assert_eq!(in_common("hashkv", "  | CLIENT, 12, 3"), "  | CLIENT, 12");
        assert_eq!(in_common("get", "  | a, b, c"), "  | a, b, c");
        assert_eq!(
            in_common(
                "get",
                "  ! Error: CLIENT refused the connection\n  !   Is etcd there?"
            ),
            "  ! Error: NOT REACHED"
        );
        assert_eq!(
            in_common(
                "defrag",
                "  | Finished defragmenting etcd member[CLIENT]. took TIME"
            ),
            "  | Finished defragmenting etcd member[CLIENT]"
        );
        let usage = "etcdctl: 1\n  | NAME:\n  |   get\n  ! Error: unknown flag: --x\n  !\n  ! Error: unknown flag: --x";
        assert_eq!(in_common("get", usage), "etcdctl: 1\n  ! Error: unknown flag ...");
        assert_eq!(
            in_common("get", "  ! Error: etcdserver: lease not found"),
            "  ! Error: etcdserver: lease not found"
        );
    }
}
