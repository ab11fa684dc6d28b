//! One transaction, read from standard input in three paragraphs.

use std::io::BufRead;

use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{Compare, RequestOp, TxnRequest};

use super::context::{self, Context};
use super::{keys, typed};
use crate::arguments::{Operation, Txn};
use crate::failure::{Failure, Status};
use crate::output::Answer;
use crate::parse;

pub async fn run(context: &Context, txn: &Txn) -> Result<(), Failure> {
    context::none(&txn.words, "txn command does not accept argument")?;
    let client = context.connect().await?;
    let mut input = std::io::stdin().lock();
    let request = TxnRequest {
        compare: paragraph(&mut input, prompt(txn, "compares:"), compare)?,
        success: paragraph(
            &mut input,
            prompt(txn, "success requests (get, put, del):"),
            operation,
        )?,
        failure: paragraph(
            &mut input,
            prompt(txn, "failure requests (get, put, del):"),
            operation,
        )?,
    };
    drop(input);
    let response = client.txn(request).await?;
    context.show(&Answer::Txn(response))
}

fn prompt<'a>(txn: &Txn, text: &'a str) -> Option<&'a str> {
    txn.interactive.then_some(text)
}

/// Lines up to an empty one, each of which is something.
fn paragraph<T>(
    input: &mut impl BufRead,
    prompt: Option<&str>,
    read: impl Fn(&str) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    if let Some(prompt) = prompt {
        println!("{prompt}");
    }
    let mut all = Vec::new();
    loop {
        let mut line = String::new();
        input
            .read_line(&mut line)
            .map_err(|error| invalid(error.to_string()))?;
        if !line.ends_with('\n') {
            return Err(invalid("EOF".into()).cure(
                "A transaction is three paragraphs, each ended by an empty line; see etcdctl txn --help.",
            ));
        }
        match line.trim() {
            "" => return Ok(all),
            line => all.push(read(line)?),
        }
    }
}

fn invalid(text: String) -> Failure {
    Failure::new(Status::Input, text)
}

fn compare(line: &str) -> Result<Compare, Failure> {
    typed::comparison(line).map_err(invalid)
}

fn operation(line: &str) -> Result<RequestOp, Failure> {
    let words = typed::words(line).map_err(|why| invalid(format!("invalid txn request: {line} ({why})")))?;
    if words.len() < 2 {
        return Err(invalid(format!("invalid txn compare request: {line}")));
    }
    let operation =
        parse::line(words).map_err(|why| invalid(format!("invalid txn request: {line} ({why})")))?;
    let request = match operation {
        Operation::Put(put) => Request::RequestPut(keys::put_request(&put, || None)?),
        Operation::Get(get) => Request::RequestRange(keys::get_request(&get)?),
        Operation::Del(delete) => Request::RequestDeleteRange(keys::delete_request(&delete)?),
    };
    Ok(RequestOp {
        request: Some(request),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_ends_with_an_empty_line_and_not_with_the_input() {
        let mut input = &b"put a 1\n  get a --prefix \n\nput b 2\n"[..];
        let operations = paragraph(&mut input, None, operation).unwrap();
        assert_eq!(operations.len(), 2);
        let cut = paragraph(&mut input, None, operation).unwrap_err();
        assert_eq!((cut.status, cut.text.as_str()), (3, "EOF"));
    }

    #[test]
    fn operations_are_commands_with_their_flags() {
        let request = operation(r#"get "a b" --limit=2 --keys-only"#).unwrap().request;
        let Some(Request::RequestRange(range)) = request else {
            panic!("{request:?}")
        };
        assert_eq!(
            (&range.key[..], range.limit, range.keys_only),
            (&b"a b"[..], 2, true)
        );
        for (line, status) in [
            ("put", 3),
            ("put a", 128),
            ("watch a", 3),
            ("get a --nope", 3),
            ("get a --order=X", 4),
        ] {
            assert_eq!(operation(line).unwrap_err().status, status, "{line}");
        }
    }
}
