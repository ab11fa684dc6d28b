//! Two runs of one script, compared step by step.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::differences::Difference;

/// A call of a script with one server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The call as the script has it.
    pub call: String,
    /// Names of the differences the script expects here.
    pub tags: BTreeSet<String>,
    /// The answer as text, see [`crate::answer`].
    pub answer: String,
}

/// Compares our answers with the real etcd's and describes what is wrong, or returns nothing.
///
/// Both have answered the same calls. `differences` are the known ones; without any the tags mean nothing, as when a
/// server is compared with itself.
pub fn compare(reference: &[Step], ours: &[Step], differences: &[Difference]) -> String {
    let mut report = String::new();
    let mut above = None::<String>;
    for (step, ours) in reference.iter().zip(ours) {
        let mut expected = step.answer.clone();
        for difference in differences
            .iter()
            .filter(|difference| step.tags.contains(difference.name))
        {
            let rewritten = difference.expected(&step.call, &expected, above.as_deref());
            if rewritten == expected {
                let _ = writeln!(
                    report,
                    "{}\n  the difference {} is gone",
                    step.call, difference.name
                );
            }
            expected = rewritten;
        }
        if ours.answer != expected {
            let _ = writeln!(report, "{}", step.call);
            differing_lines(&mut report, &expected, &ours.answer);
        }
        above = Some(expected);
    }
    report
}

/// The lines only one of two answers has: `-` what is expected, `+` what came.
fn differing_lines(report: &mut String, expected: &str, got: &str) {
    let (expected, got): (Vec<_>, Vec<_>) = (expected.lines().collect(), got.lines().collect());
    for line in 0..expected.len().max(got.len()) {
        let (left, right) = (expected.get(line), got.get(line));
        if left != right {
            for (sign, text) in [('-', left), ('+', right)] {
                if let Some(text) = text {
                    let _ = writeln!(report, "  {sign} {text}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differences::{DIFFERENCES, Expected, Origin};

    fn step(call: &str, tag: Option<&str>, answer: &str) -> Step {
        Step {
            call: call.into(),
            tags: tag.into_iter().map(str::to_owned).collect(),
            answer: answer.into(),
        }
    }

    const SHOUTS: Difference = Difference {
        name: "shouts",
        origin: Origin::OnPurpose,
        reason: "for this test",
        expected: Expected::Rewritten(|_, answer| answer.to_uppercase()),
    };

    #[test]
    fn equal_answers_need_no_report() {
        let steps = [
            step("put a 1", None, "put: revision=2"),
            step("range a", None, "range: revision=2"),
        ];
        assert_eq!(compare(&steps, &steps, &[]), "");
    }

    #[test]
    fn a_changed_field_is_reported_with_its_line() {
        let reference = [step(
            "range a",
            None,
            "range: revision=2 count=1\n  \"a\" = \"1\" mod=2",
        )];
        let ours = [step(
            "range a",
            None,
            "range: revision=2 count=1\n  \"a\" = \"1\" mod=3",
        )];
        let report = compare(&reference, &ours, DIFFERENCES);
        assert_eq!(
            report,
            "range a\n  -   \"a\" = \"1\" mod=2\n  +   \"a\" = \"1\" mod=3\n"
        );
    }

    #[test]
    fn a_known_difference_must_be_there_exactly_as_written() {
        let reference = [step("status", Some("shouts"), "a")];
        assert_eq!(compare(&reference, &[step("status", None, "A")], &[SHOUTS]), "");
        assert!(compare(&reference, &[step("status", None, "a")], &[SHOUTS]).contains("- A\n  + a"));
    }

    #[test]
    fn a_difference_that_is_gone_is_reported() {
        let both = [step("status", Some("shouts"), "A")];
        assert!(compare(&both, &both, &[SHOUTS]).contains("the difference shouts is gone"));
    }

    #[test]
    fn an_answer_like_the_one_above_is_compared_with_it() {
        let like = Difference {
            expected: Expected::LikeTheStepAbove,
            ..SHOUTS
        };
        let reference = [
            step("range a", None, "range: x"),
            step("range_stream a", Some("shouts"), "range_stream: no"),
        ];
        let ours = [
            step("range a", None, "range: x"),
            step("range_stream a", None, "range_stream: x"),
        ];
        assert_eq!(compare(&reference, &ours, &[like]), "");
    }
}
