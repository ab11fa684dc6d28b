//! Every error a client can see: one closed enum, one table of code and text.
//!
//! Clients match on these texts, so they are etcd's, letter for letter. Four of etcd's table entries
//! never reach the wire as listed there (`etcdserver: too many requests` for one arrives with code
//! `Unknown`); here they stand with the code that really arrives.

use std::fmt;

/// gRPC status codes, with the numbers of the gRPC protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum Code {
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// The code's name as Go prints it, e.g. in a watch's cancel reason.
    pub fn name(self) -> &'static str {
        CODE_NAMES[self as usize]
    }
}

/// What Go calls the status codes of gRPC, by number: also those that no error here has.
pub const CODE_NAMES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// What went wrong, in etcd's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ErrorKind {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    InvalidClientAPIVersion,
    InvalidSortOption,
    Compacted,
    FutureRev,
    NoSpace,
    LeaseNotFound,
    LeaseExist,
    LeaseTTLTooLarge,
    WatchCanceled,
    MemberExist,
    PeerURLExist,
    MemberBadURLs,
    MemberNotFound,
    MemberNotLearner,
    LearnerNotReady,
    TooManyLearners,
    ClusterIDMismatch,
    RequestTooLarge,
    RootUserNotExist,
    RootRoleNotExist,
    UserAlreadyExist,
    UserEmpty,
    UserNotFound,
    RoleAlreadyExist,
    RoleNotFound,
    RoleEmpty,
    AuthFailed,
    PermissionNotGiven,
    PermissionDenied,
    RoleNotGranted,
    PermissionNotGranted,
    AuthNotEnabled,
    InvalidAuthToken,
    InvalidAuthMgmt,
    AuthOldRevision,
    NoLeader,
    NotLeader,
    LeaderChanged,
    NotCapable,
    Stopped,
    Timeout,
    TimeoutDueToLeaderFail,
    TimeoutDueToConnectionLost,
    TimeoutWaitAppliedIndex,
    Unhealthy,
    Corrupt,
    NotSupportedForLearner,
    BadLeaderTransferee,
    WrongDowngradeVersionFormat,
    InvalidDowngradeTargetVersion,
    ClusterVersionUnavailable,
    DowngradeInProcess,
    NoInflightDowngrade,
    /// A member change would leave too few started members. The code on the wire is `Unknown`.
    NotEnoughStarted,
    /// More than the allowed number of committed entries wait to be applied. The code on the wire is `Unknown`.
    TooManyRequests,
    /// The caller went away while its request was in a handler.
    ContextCanceled,
    /// The deadline passed in a handler, or a proposal was dropped for want of a leader.
    ContextDeadlineExceeded,
    /// Raft refused the proposal.
    ProposalDropped,
    /// A lease call reached a member that is no longer the leader.
    NotPrimary,
    /// MoveLeader did not finish in time.
    LeaderTransferTimeout,
    /// A password was given for a user that has none.
    NoPasswordUser,
    /// This member has no key to sign tokens with.
    VerifyOnly,
    /// A password is longer than bcrypt can take.
    PasswordTooLong,
    /// The request names an action that does not exist.
    UnknownMethod,
    /// RangeStream was asked for an order of its own.
    StreamSortUnsupported,
    /// RangeStream was asked for revision bounds.
    StreamFilterUnsupported,
    /// The health service knows only the empty service name.
    UnknownService,
}

impl ErrorKind {
    /// Code and text as they go over the wire.
    pub fn parts(self) -> (Code, &'static str) {
        use ErrorKind::*;
        match self {
            EmptyKey => (Code::InvalidArgument, "etcdserver: key is not provided"),
            KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
            ValueProvided => (Code::InvalidArgument, "etcdserver: value is provided"),
            LeaseProvided => (Code::InvalidArgument, "etcdserver: lease is provided"),
            TooManyOps => (
                Code::InvalidArgument,
                "etcdserver: too many operations in txn request",
            ),
            DuplicateKey => (
                Code::InvalidArgument,
                "etcdserver: duplicate key given in txn request",
            ),
            InvalidClientAPIVersion => (Code::InvalidArgument, "etcdserver: invalid client api version"),
            InvalidSortOption => (Code::InvalidArgument, "etcdserver: invalid sort option"),
            Compacted => (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            FutureRev => (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            NoSpace => (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
            ),
            LeaseNotFound => (Code::NotFound, "etcdserver: requested lease not found"),
            LeaseExist => (Code::FailedPrecondition, "etcdserver: lease already exists"),
            LeaseTTLTooLarge => (Code::OutOfRange, "etcdserver: too large lease TTL"),
            WatchCanceled => (Code::Canceled, "etcdserver: watch canceled"),
            MemberExist => (Code::FailedPrecondition, "etcdserver: member ID already exist"),
            PeerURLExist => (Code::FailedPrecondition, "etcdserver: Peer URLs already exists"),
            MemberBadURLs => (Code::InvalidArgument, "etcdserver: given member URLs are invalid"),
            MemberNotFound => (Code::NotFound, "etcdserver: member not found"),
            MemberNotLearner => (
                Code::FailedPrecondition,
                "etcdserver: can only promote a learner member",
            ),
            LearnerNotReady => (
                Code::FailedPrecondition,
                "etcdserver: can only promote a learner member which is in sync with leader",
            ),
            TooManyLearners => (
                Code::FailedPrecondition,
                "etcdserver: too many learner members in cluster",
            ),
            ClusterIDMismatch => (Code::FailedPrecondition, "etcdserver: cluster ID mismatch"),
            RequestTooLarge => (Code::InvalidArgument, "etcdserver: request is too large"),
            RootUserNotExist => (Code::FailedPrecondition, "etcdserver: root user does not exist"),
            RootRoleNotExist => (
                Code::FailedPrecondition,
                "etcdserver: root user does not have root role",
            ),
            UserAlreadyExist => (Code::FailedPrecondition, "etcdserver: user name already exists"),
            UserEmpty => (Code::InvalidArgument, "etcdserver: user name is empty"),
            UserNotFound => (Code::FailedPrecondition, "etcdserver: user name not found"),
            RoleAlreadyExist => (Code::FailedPrecondition, "etcdserver: role name already exists"),
            RoleNotFound => (Code::FailedPrecondition, "etcdserver: role name not found"),
            RoleEmpty => (Code::InvalidArgument, "etcdserver: role name is empty"),
            AuthFailed => (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
            ),
            PermissionNotGiven => (Code::InvalidArgument, "etcdserver: permission not given"),
            PermissionDenied => (Code::PermissionDenied, "etcdserver: permission denied"),
            RoleNotGranted => (
                Code::FailedPrecondition,
                "etcdserver: role is not granted to the user",
            ),
            PermissionNotGranted => (
                Code::FailedPrecondition,
                "etcdserver: permission is not granted to the role",
            ),
            AuthNotEnabled => (
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
            ),
            InvalidAuthToken => (Code::Unauthenticated, "etcdserver: invalid auth token"),
            InvalidAuthMgmt => (Code::InvalidArgument, "etcdserver: invalid auth management"),
            AuthOldRevision => (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
            NoLeader => (Code::Unavailable, "etcdserver: no leader"),
            NotLeader => (Code::FailedPrecondition, "etcdserver: not leader"),
            LeaderChanged => (Code::Unavailable, "etcdserver: leader changed"),
            NotCapable => (Code::FailedPrecondition, "etcdserver: not capable"),
            Stopped => (Code::Unavailable, "etcdserver: server stopped"),
            Timeout => (Code::Unavailable, "etcdserver: request timed out"),
            TimeoutDueToLeaderFail => (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            TimeoutDueToConnectionLost => (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to connection lost",
            ),
            TimeoutWaitAppliedIndex => (
                Code::Unavailable,
                "etcdserver: request timed out, waiting for the applied index took too long",
            ),
            Unhealthy => (Code::Unavailable, "etcdserver: unhealthy cluster"),
            Corrupt => (Code::DataLoss, "etcdserver: corrupt cluster"),
            NotSupportedForLearner => (
                Code::FailedPrecondition,
                "etcdserver: rpc not supported for learner",
            ),
            BadLeaderTransferee => (Code::FailedPrecondition, "etcdserver: bad leader transferee"),
            WrongDowngradeVersionFormat => (
                Code::InvalidArgument,
                "etcdserver: wrong downgrade target version format",
            ),
            InvalidDowngradeTargetVersion => (
                Code::InvalidArgument,
                "etcdserver: invalid downgrade target version",
            ),
            ClusterVersionUnavailable => (
                Code::FailedPrecondition,
                "etcdserver: cluster version not found during downgrade",
            ),
            DowngradeInProcess => (
                Code::FailedPrecondition,
                "etcdserver: cluster has a downgrade job in progress",
            ),
            NoInflightDowngrade => (Code::FailedPrecondition, "etcdserver: no inflight downgrade job"),
            NotEnoughStarted => (
                Code::Unknown,
                "etcdserver: re-configuration failed due to not enough started members",
            ),
            TooManyRequests => (Code::Unknown, "etcdserver: too many requests"),
            ContextCanceled => (Code::Canceled, "context canceled"),
            ContextDeadlineExceeded => (Code::DeadlineExceeded, "context deadline exceeded"),
            ProposalDropped => (Code::Unknown, "raft proposal dropped"),
            NotPrimary => (Code::Unknown, "not a primary lessor"),
            LeaderTransferTimeout => (
                Code::Unknown,
                "etcdserver: request timed out, leader transfer took too long",
            ),
            NoPasswordUser => (
                Code::Unknown,
                "auth: authentication failed, password was given for no password user",
            ),
            VerifyOnly => (
                Code::Unknown,
                "auth: token signing attempted with verify-only key",
            ),
            PasswordTooLong => (Code::Unknown, "bcrypt: password length exceeds 72 bytes"),
            UnknownMethod => (Code::Unknown, "etcdserver: unknown method"),
            StreamSortUnsupported => (
                Code::Unimplemented,
                "RangeStream does not support custom sort orders",
            ),
            StreamFilterUnsupported => (
                Code::Unimplemented,
                "RangeStream does not support revision filters",
            ),
            UnknownService => (Code::NotFound, "unknown service"),
        }
    }

    /// The gRPC status code.
    pub fn code(self) -> Code {
        self.parts().0
    }

    /// The text clients match on.
    pub fn text(self) -> &'static str {
        self.parts().1
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ErrorKind {}
