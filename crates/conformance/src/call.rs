//! The words of a script as requests.
//!
//! Commands follow goldenscript's syntax: `name argument… option=value…`, with strings in quotes where they hold
//! more than letters and digits; there `"\xff"` is the byte 255. Options carry the names of the API's fields:
//!
//! | command | call |
//! |---|---|
//! | `put KEY [VALUE]` | KV.Put; `repeat=N` takes the value N times over |
//! | `range KEY`, `range_stream KEY`, `delete KEY`, `compact REVISION` | the other calls of KV |
//! | `txn …` | KV.Txn, see below |
//! | `watch STREAM KEY`, `watch_cancel STREAM ID`, `watch_progress STREAM` | requests on a Watch stream by any name |
//! | `lease_grant TTL`, `lease_revoke ID`, `lease_keep_alive ID…`, `lease_time_to_live ID`, `lease_leases` | Lease |
//! | `alarm ACTION [TYPE]`, `status`, `hash_kv [REVISION]`, `defragment`, `move_leader ID`, `downgrade ACTION` | Maintenance |
//! | `member_list`, `member_add URL…`, `member_remove ID`, `member_update ID URL…`, `member_promote ID` | Cluster |
//! | `auth_enable`, `auth_disable`, `auth_status`, `user_list`, `role_list` | Auth, without arguments |
//! | `user_add NAME [PASSWORD]`, `user_change_password NAME [PASSWORD]`, `user_get NAME`, `user_delete NAME` | users; `no_password=true` |
//! | `user_grant_role USER ROLE`, `user_revoke_role USER ROLE`, `role_add ROLE`, `role_get ROLE`, `role_delete ROLE` | roles |
//! | `role_grant_permission ROLE TYPE KEY`, `role_revoke_permission ROLE KEY` | permissions; without a type the request holds none |
//!
//! What is not one call with one answer (processes, streams, HTTP) is in [`crate::session`].
//!
//! A transaction is written in one line of words: every `if` adds a comparison, every `then` and `else` an
//! operation, and a transaction inside goes on to its `end`.
//!
//! ```text
//! txn if version a EQUAL 1 then put a 2 prev_kv=true then range a range_end=c else delete a
//! txn then txn if value a NOT_EQUAL x then put b 1 end then range b
//! ```

use std::error::Error;
use std::iter::Peekable;
use std::slice::Iter;
use std::str::FromStr;

use bytes::Bytes;
use goldenscript::{Argument, ArgumentConsumer, Command};
use proto::authpb::{Permission, UserAddOptions, permission};
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::*;
use proto::grpc::health::v1::{HealthCheckRequest, HealthListRequest};

use crate::answer::Names;

/// A mistake in a script, as opposed to a server's answer.
pub type ScriptError = Box<dyn Error>;

/// The arguments of one command, taken one after the other.
pub struct Args<'a> {
    rest: ArgumentConsumer<'a>,
    names: &'a Names,
}

impl<'a> Args<'a> {
    /// The arguments of `command`, in which leases may go by their names.
    pub fn new(command: &'a Command, names: &'a Names) -> Self {
        Self {
            rest: command.consume_args(),
            names,
        }
    }

    /// The next argument, if there is one more.
    pub fn optional(&mut self) -> Option<&'a str> {
        self.rest.next_pos()
    }

    /// The next argument, which must be there.
    pub fn word(&mut self) -> Result<&'a str, ScriptError> {
        self.optional().ok_or_else(|| "an argument is missing".into())
    }

    /// The next argument, which must be a number or the like.
    pub fn parsed<T: FromStr>(&mut self) -> Result<T, ScriptError> {
        parse(self.word()?)
    }

    /// The next argument as bytes.
    pub fn bytes(&mut self) -> Result<Bytes, ScriptError> {
        self.word().map(bytes)
    }

    /// An option, or its zero.
    pub fn option<T: FromStr + Default>(&mut self, name: &str) -> Result<T, ScriptError> {
        self.rest.take_key(name).map_or(Ok(T::default()), parse)
    }

    /// An option as bytes, or no bytes.
    pub fn bytes_option(&mut self, name: &str) -> Bytes {
        self.rest.take_key(name).map(bytes).unwrap_or_default()
    }

    /// An option that is an enum, by name or by number.
    fn enum_option<E: Into<i32>>(
        &mut self,
        name: &str,
        from_name: fn(&str) -> Option<E>,
    ) -> Result<i32, ScriptError> {
        self.rest
            .take_key(name)
            .map_or(Ok(0), |text| number(text, from_name))
    }

    /// The next argument as a lease id: a number, or `L1` for the first one the server chose.
    pub fn lease(&mut self) -> Result<i64, ScriptError> {
        let text = self.word()?;
        self.names
            .lease_id(text)
            .ok_or_else(|| format!("no lease {text}").into())
    }

    /// An option that is a lease id.
    pub fn lease_option(&mut self, name: &str) -> Result<i64, ScriptError> {
        match self.rest.take_key(name) {
            Some(text) => self
                .names
                .lease_id(text)
                .ok_or_else(|| format!("no lease {text}").into()),
            None => Ok(0),
        }
    }

    /// The next argument as a member id: a number, or a name such as `M1`.
    pub fn member(&mut self) -> Result<u64, ScriptError> {
        let text = self.word()?;
        self.names.member_id(text).map_or_else(|| parse(text), Ok)
    }

    /// The arguments that are left.
    pub fn words(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.rest.next_pos())
            .map(str::to_owned)
            .collect()
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), ScriptError> {
        self.rest.reject_next()
    }
}

fn parse<T: FromStr>(text: &str) -> Result<T, ScriptError> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a {}", std::any::type_name::<T>()).into())
}

/// An enum's number, by name or as it stands; scripts also send numbers the API does not know.
fn number<E: Into<i32>>(text: &str, from_name: fn(&str) -> Option<E>) -> Result<i32, ScriptError> {
    from_name(text).map_or_else(|| parse(text), |value| Ok(value.into()))
}

/// A character up to U+00FF is that byte, so that `"\xff"` is one; others are UTF-8.
pub fn bytes(text: &str) -> Bytes {
    let mut bytes = Vec::new();
    for character in text.chars() {
        match u8::try_from(u32::from(character)) {
            Ok(byte) => bytes.push(byte),
            Err(_) => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes.into()
}

/// A call read from a script.
pub trait Call: Sized {
    /// Takes what belongs to the call.
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError>;
}

impl Call for PutRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        let key = args.bytes()?;
        let value = args.optional().map(bytes).unwrap_or_default();
        let value = match args.option("repeat")? {
            0 => value,
            times => value.repeat(times).into(),
        };
        Ok(Self {
            key,
            value,
            lease: args.lease_option("lease")?,
            prev_kv: args.option("prev_kv")?,
            ignore_value: args.option("ignore_value")?,
            ignore_lease: args.option("ignore_lease")?,
        })
    }
}

impl Call for RangeRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            key: args.bytes()?,
            range_end: args.bytes_option("range_end"),
            limit: args.option("limit")?,
            revision: args.option("revision")?,
            sort_order: args.enum_option("sort_order", SortOrder::from_str_name)?,
            sort_target: args.enum_option("sort_target", SortTarget::from_str_name)?,
            serializable: args.option("serializable")?,
            keys_only: args.option("keys_only")?,
            count_only: args.option("count_only")?,
            min_mod_revision: args.option("min_mod_revision")?,
            max_mod_revision: args.option("max_mod_revision")?,
            min_create_revision: args.option("min_create_revision")?,
            max_create_revision: args.option("max_create_revision")?,
        })
    }
}

impl Call for DeleteRangeRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            key: args.bytes()?,
            range_end: args.bytes_option("range_end"),
            prev_kv: args.option("prev_kv")?,
        })
    }
}

impl Call for CompactionRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            revision: args.parsed()?,
            physical: args.option("physical")?,
        })
    }
}

impl Call for WatchCreateRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        let filters = args.rest.take_key("filters").unwrap_or_default();
        let filters = filters.split(',').filter(|name| !name.is_empty());
        Ok(Self {
            key: args.bytes()?,
            range_end: args.bytes_option("range_end"),
            start_revision: args.option("start_revision")?,
            progress_notify: args.option("progress_notify")?,
            filters: filters
                .map(|name| number(name, FilterType::from_str_name))
                .collect::<Result<_, _>>()?,
            prev_kv: args.option("prev_kv")?,
            watch_id: args.option("watch_id")?,
            fragment: args.option("fragment")?,
        })
    }
}

impl Call for LeaseGrantRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            ttl: args.parsed()?,
            id: args.option("id")?,
        })
    }
}

impl Call for LeaseRevokeRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self { id: args.lease()? })
    }
}

impl Call for LeaseTimeToLiveRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            id: args.lease()?,
            keys: args.option("keys")?,
        })
    }
}

impl Call for AlarmRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            action: number(args.word()?, AlarmAction::from_str_name)?,
            alarm: args
                .optional()
                .map_or(Ok(0), |text| number(text, AlarmType::from_str_name))?,
            member_id: match args.rest.take_key("member") {
                None => 0,
                Some(text) => args.names.member_id(text).map_or_else(|| parse(text), Ok)?,
            },
        })
    }
}

impl Call for HashKvRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            revision: args.optional().map_or(Ok(0), parse)?,
        })
    }
}

impl Call for MoveLeaderRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            target_id: args.member()?,
        })
    }
}

impl Call for DowngradeRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            action: number(args.word()?, DowngradeAction::from_str_name)?,
            version: args.optional().unwrap_or_default().to_owned(),
        })
    }
}

impl Call for MemberListRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            linearizable: args.option("linearizable")?,
        })
    }
}

impl Call for MemberAddRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            is_learner: args.option("is_learner")?,
            peer_ur_ls: args.words(),
        })
    }
}

impl Call for MemberRemoveRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self { id: args.member()? })
    }
}

impl Call for MemberUpdateRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            id: args.member()?,
            peer_ur_ls: args.words(),
        })
    }
}

impl Call for MemberPromoteRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self { id: args.member()? })
    }
}

/// Calls without any field.
macro_rules! empty_calls {
    ($($message:ident)*) => {$(
        impl Call for $message {
            fn read(_: &mut Args<'_>) -> Result<Self, ScriptError> {
                Ok(Self {})
            }
        }
    )*};
}
empty_calls!(
    LeaseLeasesRequest StatusRequest DefragmentRequest HealthListRequest AuthEnableRequest AuthDisableRequest
    AuthStatusRequest AuthUserListRequest AuthRoleListRequest
);

/// Calls that name one thing.
macro_rules! named_calls {
    ($($message:ident: $field:ident)*) => {$(
        impl Call for $message {
            fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
                Ok(Self { $field: args.word()?.to_owned() })
            }
        }
    )*};
}
named_calls!(
    AuthUserGetRequest: name
    AuthUserDeleteRequest: name
    AuthRoleAddRequest: name
    AuthRoleGetRequest: role
    AuthRoleDeleteRequest: role
);

impl Call for AuthenticateRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            name: args.word()?.to_owned(),
            password: args.optional().unwrap_or_default().to_owned(),
        })
    }
}

impl Call for AuthUserAddRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        let no_password = args.option::<bool>("no_password")?;
        let (name, password) = (args.word()?.to_owned(), args.optional().unwrap_or_default());
        Ok(Self {
            name,
            password: match args.option("repeat")? {
                0 => password.to_owned(),
                times => password.repeat(times),
            },
            options: no_password.then_some(UserAddOptions { no_password }),
            ..Self::default()
        })
    }
}

impl Call for AuthUserChangePasswordRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            name: args.word()?.to_owned(),
            password: args.optional().unwrap_or_default().to_owned(),
            ..Self::default()
        })
    }
}

impl Call for AuthUserGrantRoleRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            user: args.word()?.to_owned(),
            role: args.word()?.to_owned(),
        })
    }
}

impl Call for AuthUserRevokeRoleRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            name: args.word()?.to_owned(),
            role: args.word()?.to_owned(),
        })
    }
}

impl Call for AuthRoleGrantPermissionRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        let name = args.word()?.to_owned();
        let perm = match args.optional() {
            None => None,
            Some(kind) => Some(Permission {
                perm_type: number(kind, permission::Type::from_str_name)?,
                key: args.bytes()?,
                range_end: args.bytes_option("range_end"),
            }),
        };
        Ok(Self { name, perm })
    }
}

impl Call for AuthRoleRevokePermissionRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            role: args.word()?.to_owned(),
            key: args.bytes()?,
            range_end: args.bytes_option("range_end"),
        })
    }
}

impl Call for HealthCheckRequest {
    fn read(args: &mut Args<'_>) -> Result<Self, ScriptError> {
        Ok(Self {
            service: args.optional().unwrap_or_default().to_owned(),
        })
    }
}

/// Reads a transaction from the arguments of `command`.
pub fn txn(command: &Command, names: &Names) -> Result<TxnRequest, ScriptError> {
    let mut words = command.args.iter().peekable();
    let request = txn_clauses(command, &mut words, names)?;
    match words.next() {
        None => Ok(request),
        Some(word) => Err(format!("a clause begins with if, then or else, not with {word}").into()),
    }
}

type Words<'a> = Peekable<Iter<'a, Argument>>;

/// Takes clauses until the words end or another word stands where a clause would begin.
fn txn_clauses(command: &Command, words: &mut Words<'_>, names: &Names) -> Result<TxnRequest, ScriptError> {
    let mut request = TxnRequest::default();
    while let Some(clause) = words.next_if(|word| is_one_of(word, &["if", "then", "else"])) {
        match clause {
            word if is_one_of(word, &["if"]) => {
                let compare = in_clause(command, words);
                request.compare.push(compare_of(&mut Args::new(&compare, names))?);
            }
            word if is_one_of(word, &["then"]) => request.success.push(operation(command, words, names)?),
            _ => request.failure.push(operation(command, words, names)?),
        }
    }
    Ok(request)
}

fn is_one_of(word: &Argument, names: &[&str]) -> bool {
    matches!(word, Argument::Positional(text) if names.contains(&text.as_str()))
}

/// The words up to the next clause, as a command.
fn in_clause(command: &Command, words: &mut Words<'_>) -> Command {
    let mut clause = command.clone();
    clause.args =
        std::iter::from_fn(|| words.next_if(|word| !is_one_of(word, &["if", "then", "else", "end"])))
            .cloned()
            .collect();
    clause
}

fn operation(command: &Command, words: &mut Words<'_>, names: &Names) -> Result<RequestOp, ScriptError> {
    if words.next_if(|word| is_one_of(word, &["txn"])).is_some() {
        let inner = txn_clauses(command, words, names)?;
        words
            .next_if(|word| is_one_of(word, &["end"]))
            .ok_or("an inner txn needs its end")?;
        return Ok(RequestOp {
            request: Some(Request::RequestTxn(inner)),
        });
    }
    let clause = in_clause(command, words);
    let mut args = Args::new(&clause, names);
    let request = match args.word()? {
        "put" => Some(Request::RequestPut(PutRequest::read(&mut args)?)),
        "range" => Some(Request::RequestRange(RangeRequest::read(&mut args)?)),
        "delete" => Some(Request::RequestDeleteRange(DeleteRangeRequest::read(&mut args)?)),
        "nothing" => None,
        other => return Err(format!("a transaction cannot {other}").into()),
    };
    args.end()?;
    Ok(RequestOp { request })
}

/// `TARGET KEY RESULT [OPERAND]`; without an operand the message carries none.
fn compare_of(args: &mut Args<'_>) -> Result<Compare, ScriptError> {
    let target = args.word()?;
    let key = args.bytes()?;
    let result = number(args.word()?, CompareResult::from_str_name)?;
    let operand = args.optional();
    let compare = Compare {
        result,
        target: number(&target.to_ascii_uppercase(), CompareTarget::from_str_name)?,
        key,
        target_union: match (target, operand) {
            (_, None) => None,
            ("value", Some(operand)) => Some(TargetUnion::Value(bytes(operand))),
            ("version", Some(operand)) => Some(TargetUnion::Version(parse(operand)?)),
            ("create", Some(operand)) => Some(TargetUnion::CreateRevision(parse(operand)?)),
            ("lease", Some(operand)) => Some(TargetUnion::Lease(
                args.names
                    .lease_id(operand)
                    .ok_or_else(|| format!("no lease {operand}"))?,
            )),
            (_, Some(operand)) => Some(TargetUnion::ModRevision(parse(operand)?)),
        },
        range_end: args.bytes_option("range_end"),
    };
    args.end()?;
    Ok(compare)
}
