//! Errors, as JSON and as HTTP has them.

use serde::Serialize;

/// An error: the answer to a call, or the end of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// gRPC's number for its kind.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: i32,
    /// What is wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(code: &i32) -> bool {
    *code == 0
}

impl Refusal {
    /// An error of this kind.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Refusal {
            code,
            message: message.into(),
        }
    }

    /// The request can't be understood.
    pub fn invalid(message: impl Into<String>) -> Self {
        Refusal::new(3, message)
    }

    /// The status that HTTP has for it.
    pub fn http_status(&self) -> u16 {
        http_status(self.code)
    }
}

/// HTTP's status for a gRPC code.
pub fn http_status(code: i32) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}
