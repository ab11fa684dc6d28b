//! `etcdserverpb.Auth`.
//!
//! All of it goes through the log, questions too, and who may ask what is decided there. No password gets so far: what
//! the log sees is its hash, or that it was right.

use auth::{Answer, Identity};
use grpc::etcdserverpb::auth_server;
use machine::Outcome;
use proto::etcdserverpb::*;
use tonic::{Request, Response, Status};
use types::ErrorKind;

use super::{mismatch, status};
use crate::access::{self, Head};
use crate::guesses::Guess;
use crate::node::Node;
use crate::replies::Done;

/// The service.
pub struct Auth(pub Node);

impl Auth {
    /// Takes a request through the log.
    async fn ask(
        &self,
        head: &Head,
        request: InternalRaftRequest,
    ) -> Result<(Option<ResponseHeader>, Answer), Status> {
        let node = &self.0;
        node.admit(head)?;
        let who = node.identify(head).await.map_err(status)?;
        self.ask_as(who, request).await
    }

    async fn ask_as(
        &self,
        who: Identity,
        request: InternalRaftRequest,
    ) -> Result<(Option<ResponseHeader>, Answer), Status> {
        let node = &self.0;
        match node.propose_as(who, request).await.map_err(status)? {
            Done {
                outcome: Outcome::Auth(answer),
                revision,
                ..
            } => Ok((Some(node.header(revision)), answer)),
            other => Err(mismatch(other)),
        }
    }

    /// Takes a request through the log that is answered by a header.
    async fn change(
        &self,
        head: &Head,
        request: InternalRaftRequest,
    ) -> Result<Option<ResponseHeader>, Status> {
        let (header, _) = self.ask(head, request).await?;
        Ok(header)
    }

    async fn names(
        &self,
        head: &Head,
        request: InternalRaftRequest,
    ) -> Result<(Option<ResponseHeader>, Vec<String>), Status> {
        match self.ask(head, request).await? {
            (header, Answer::Names(names)) => Ok((header, names)),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Nobody but who may set passwords has one hashed.
    async fn admit_to_hash(&self, head: &Head) -> Result<(), Status> {
        self.0.admit(head)?;
        self.0.require_root(head).await.map_err(status)?;
        Ok(())
    }

    /// Hashes a new password, if it is long enough.
    async fn hash(&self, password: String) -> Result<String, Status> {
        let least = self.0.config.password_chars_min;
        if password.chars().count() < least {
            return Err(Status::invalid_argument(format!(
                "etcdserver: the password has fewer than {least} characters (--auth-min-password-length)"
            )));
        }
        let hash = self.0.passwords.hash(password).await.map_err(status)?;
        Ok(auth::hash_in_request(&hash))
    }

    /// The auth revision under which this is the user's password.
    async fn check_password(&self, guess: Guess, name: &str, password: String) -> Result<u64, ErrorKind> {
        let node = &self.0;
        let (hash, revision) = match node.board.auth().credentials(name) {
            Ok(credentials) => (Some(credentials.hash), credentials.revision),
            Err(ErrorKind::AuthFailed) => (None, 0),
            Err(error) => return Err(error),
        };
        let now_ms = || node.now_ms();
        match node.passwords.verify(guess, password, hash, now_ms).await? {
            true => Ok(revision),
            false => Err(ErrorKind::AuthFailed),
        }
    }

    /// Tries until nothing about users has changed between the look at the password and the token.
    async fn authenticate_now(
        &self,
        guess: Guess,
        name: &str,
        password: &str,
    ) -> Result<(Option<ResponseHeader>, String), Status> {
        loop {
            let revision = match self.check_password(guess, name, password.to_owned()).await {
                Ok(revision) => revision,
                Err(ErrorKind::AuthNotEnabled) => return Err(status(ErrorKind::AuthNotEnabled)),
                Err(error) => {
                    tracing::warn!(user = name, error = %error, "invalid authentication was requested");
                    return Err(status(error));
                }
            };
            let request = InternalAuthenticateRequest {
                name: name.to_owned(),
                simple_token: self.0.tokens.prefix().map_err(status)?,
                ..Default::default()
            };
            let request = InternalRaftRequest {
                authenticate: Some(request),
                ..Default::default()
            };
            match self.ask_as(Identity::default(), request).await? {
                (
                    header,
                    Answer::Authenticated {
                        user,
                        token,
                        revision: then,
                    },
                ) if then == revision => {
                    let token = self.0.tokens.token(&Identity { user, revision }, token);
                    return Ok((header, token.map_err(status)?));
                }
                (_, Answer::Authenticated { .. }) => {}
                (_, other) => return Err(unexpected(&other)),
            }
        }
    }
}

/// An answer of another kind than the request: cannot happen, and must not bring the server down.
fn unexpected(answer: &Answer) -> Status {
    Status::internal(format!(
        "keelson: the answer does not fit the request: {answer:?}"
    ))
}

/// A handler that passes its request on as this field of the log's message, and answers with a header.
macro_rules! change {
    ($self:ident, $request:ident, $field:ident) => {{
        let (head, request) = access::split($request);
        change!($self, head, request, $field)
    }};
    ($self:ident, $head:ident, $request:ident, $field:ident) => {{
        let request = InternalRaftRequest {
            $field: Some($request),
            ..Default::default()
        };
        let header = $self.change(&$head, request).await?;
        Ok(Response::new(header.into_response()))
    }};
}

/// A response that is nothing but a header.
trait IntoResponse<R> {
    fn into_response(self) -> R;
}

macro_rules! header_only {
    ($($response:ident)*) => {$(
        impl IntoResponse<$response> for Option<ResponseHeader> {
            fn into_response(self) -> $response {
                $response { header: self }
            }
        }
    )*};
}

header_only! {
    AuthEnableResponse AuthDisableResponse AuthUserAddResponse AuthUserDeleteResponse
    AuthUserChangePasswordResponse AuthUserGrantRoleResponse AuthUserRevokeRoleResponse AuthRoleAddResponse
    AuthRoleDeleteResponse AuthRoleGrantPermissionResponse AuthRoleRevokePermissionResponse
}

#[tonic::async_trait]
impl auth_server::Auth for Auth {
    async fn auth_enable(
        &self,
        request: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        change!(self, request, auth_enable)
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        change!(self, request, auth_disable)
    }

    async fn auth_status(
        &self,
        request: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        let (head, request) = access::split(request);
        let request = InternalRaftRequest {
            auth_status: Some(request),
            ..Default::default()
        };
        match self.ask(&head, request).await? {
            (header, Answer::Status { enabled, revision }) => Ok(Response::new(AuthStatusResponse {
                header,
                enabled,
                auth_revision: revision,
            })),
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let (head, request) = access::split(request);
        self.0.admit(&head)?;
        let AuthenticateRequest { name, password } = request;
        let guess = Guess::new(&name, access::address(&head));
        // Before anything that costs more: it is where those who go on guessing end.
        let heard = self.0.passwords.admit(guess, self.0.now_ms());
        heard.await.map_err(status)?;
        self.0.read_barrier().await.map_err(status)?;
        let (header, token) = self.authenticate_now(guess, &name, &password).await?;
        Ok(Response::new(AuthenticateResponse { header, token }))
    }

    async fn user_add(
        &self,
        request: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        let (head, mut user) = access::split(request);
        self.admit_to_hash(&head).await?;
        let password = std::mem::take(&mut user.password);
        user.hashed_password = match user.options.is_some_and(|options| options.no_password) {
            true => String::new(),
            false => self.hash(password).await?,
        };
        change!(self, head, user, auth_user_add)
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        let (head, request) = access::split(request);
        let request = InternalRaftRequest {
            auth_user_get: Some(request),
            ..Default::default()
        };
        let (header, roles) = self.names(&head, request).await?;
        Ok(Response::new(AuthUserGetResponse { header, roles }))
    }

    async fn user_list(
        &self,
        request: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        let (head, request) = access::split(request);
        let request = InternalRaftRequest {
            auth_user_list: Some(request),
            ..Default::default()
        };
        let (header, users) = self.names(&head, request).await?;
        Ok(Response::new(AuthUserListResponse { header, users }))
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        change!(self, request, auth_user_delete)
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let (head, mut user) = access::split(request);
        self.admit_to_hash(&head).await?;
        let password = std::mem::take(&mut user.password);
        user.hashed_password = match password.is_empty() && self.0.config.password_chars_min == 0 {
            true => String::new(),
            false => self.hash(password).await?,
        };
        change!(self, head, user, auth_user_change_password)
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        change!(self, request, auth_user_grant_role)
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        change!(self, request, auth_user_revoke_role)
    }

    async fn role_add(
        &self,
        request: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        change!(self, request, auth_role_add)
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        let (head, request) = access::split(request);
        let request = InternalRaftRequest {
            auth_role_get: Some(request),
            ..Default::default()
        };
        match self.ask(&head, request).await? {
            (header, Answer::Permissions(perm)) => Ok(Response::new(AuthRoleGetResponse { header, perm })),
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn role_list(
        &self,
        request: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        let (head, request) = access::split(request);
        let request = InternalRaftRequest {
            auth_role_list: Some(request),
            ..Default::default()
        };
        let (header, roles) = self.names(&head, request).await?;
        Ok(Response::new(AuthRoleListResponse { header, roles }))
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        change!(self, request, auth_role_delete)
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        change!(self, request, auth_role_grant_permission)
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        change!(self, request, auth_role_revoke_permission)
    }
}
