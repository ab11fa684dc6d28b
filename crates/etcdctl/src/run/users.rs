//! Users, roles, and whether they are asked for.

use std::io::BufRead;

use proto::authpb::{Permission as Granted, UserAddOptions, permission};
use proto::etcdserverpb::*;

use super::ask;
use super::context::{self, Context, bytes, none, only, text};
use crate::arguments::{Auth, Permission, Role, User};
use crate::failure::Failure;
use crate::output::Answer;
use crate::ranges::{self, Range};

pub async fn auth(context: &Context, auth: Auth) -> Result<(), Failure> {
    match auth {
        Auth::Enable(arguments) => {
            none(
                &arguments.words,
                "auth enable command does not accept any arguments",
            )?;
            enable(&context.connect().await?).await?;
            context::print(b"Authentication Enabled\n")
        }
        Auth::Disable(arguments) => {
            none(
                &arguments.words,
                "auth disable command does not accept any arguments",
            )?;
            context
                .connect()
                .await?
                .auth_disable(AuthDisableRequest {})
                .await?;
            context::print(b"Authentication Disabled\n")
        }
        Auth::Status(arguments) => {
            none(
                &arguments.words,
                "auth status command does not accept any arguments",
            )?;
            let client = context.connect_to_members().await?;
            let status = client.auth_status(AuthStatusRequest {}).await?;
            context.show(&Answer::AuthStatus(status))
        }
    }
}

/// A root without the role root is given it.
async fn enable(client: &client::Client) -> Result<(), Failure> {
    const NO_ROLE: &str = "etcdserver: root user does not have root role";
    match client.auth_enable(AuthEnableRequest {}).await {
        Err(error) if error.server_message() == Some(NO_ROLE) => {
            let name = || "root".to_owned();
            client.role_add(AuthRoleAddRequest { name: name() }).await?;
            let request = AuthUserGrantRoleRequest {
                user: name(),
                role: name(),
            };
            client.user_grant_role(request).await?;
            client.auth_enable(AuthEnableRequest {}).await?;
            Ok(())
        }
        enabled => Ok(enabled.map(drop)?),
    }
}

pub async fn user(context: &Context, user: User) -> Result<(), Failure> {
    const NAME: [&str; 4] = [
        "user add command requires user name as its argument",
        "user delete command requires user name as its argument",
        "user get command requires user name as its argument",
        "user passwd command requires user name as its argument",
    ];
    match user {
        User::Add {
            words,
            interactive,
            new_user_password,
            no_password,
        } => {
            let word = text(only(&words, NAME[0])?)?;
            let (name, password) = match word.split_once(':') {
                _ if no_password => (word.clone(), String::new()),
                _ if !new_user_password.is_empty() => (word.clone(), new_user_password),
                Some(("", _)) => return Err(Failure::arguments("empty user name is not allowed")),
                Some((name, password)) => (name.to_owned(), password.to_owned()),
                None => (word.clone(), password(&word, interactive)?),
            };
            let request = AuthUserAddRequest {
                name: name.clone(),
                password,
                options: Some(UserAddOptions { no_password }),
                ..Default::default()
            };
            let answer = context.connect().await?.user_add(request).await?;
            context.show(&Answer::UserAdd(name, answer))
        }
        User::Delete(arguments) => {
            let name = text(only(&arguments.words, NAME[1])?)?;
            let request = AuthUserDeleteRequest { name: name.clone() };
            let answer = context.connect().await?.user_delete(request).await?;
            context.show(&Answer::UserDelete(name, answer))
        }
        User::Get { words, detail } => user_get(context, text(only(&words, NAME[2])?)?, detail).await,
        User::List(arguments) => {
            none(&arguments.words, "user list command requires no arguments")?;
            let answer = context.connect().await?.user_list(AuthUserListRequest {}).await?;
            context.show(&Answer::UserList(answer))
        }
        User::Passwd { words, interactive } => {
            let name = text(only(&words, NAME[3])?)?;
            let request = AuthUserChangePasswordRequest {
                password: password(&name, interactive)?,
                name,
                ..Default::default()
            };
            let answer = context.connect().await?.user_change_password(request).await?;
            context.show(&Answer::UserPassword(answer))
        }
        User::GrantRole(arguments) => {
            const NEEDS: &str = "user grant command requires user name and role name as its argument";
            let (user, role) = pair(&arguments.words, NEEDS)?;
            let request = AuthUserGrantRoleRequest {
                user: user.clone(),
                role: role.clone(),
            };
            let answer = context.connect().await?.user_grant_role(request).await?;
            context.show(&Answer::UserGrant(user, role, answer))
        }
        User::RevokeRole(arguments) => {
            const NEEDS: &str = "user revoke-role requires user name and role name as its argument";
            let (user, role) = pair(&arguments.words, NEEDS)?;
            let request = AuthUserRevokeRoleRequest {
                name: user.clone(),
                role: role.clone(),
            };
            let answer = context.connect().await?.user_revoke_role(request).await?;
            context.show(&Answer::UserRevoke(user, role, answer))
        }
    }
}

fn pair(words: &[std::ffi::OsString], otherwise: &str) -> Result<(String, String), Failure> {
    match words {
        [first, second] => Ok((text(first)?, text(second)?)),
        _ => Err(Failure::arguments(otherwise)),
    }
}

async fn user_get(context: &Context, name: String, detail: bool) -> Result<(), Failure> {
    let client = context.connect().await?;
    let answer = client.user_get(AuthUserGetRequest { name: name.clone() }).await?;
    if !detail {
        return context.show(&Answer::UserGet(name, answer));
    }
    context::print(format!("User: {name}\n").as_bytes())?;
    for role in answer.roles {
        let answer = client.role_get(AuthRoleGetRequest { role: role.clone() }).await?;
        context::print(b"\n")?;
        context.show(&Answer::RoleGet(role, answer))?;
    }
    Ok(())
}

/// A new password: asked for twice, or a word of standard input.
fn password(name: &str, interactive: bool) -> Result<String, Failure> {
    if !interactive {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        return Ok(line.split_whitespace().next().unwrap_or_default().to_owned());
    }
    let ask = |prompt: String| {
        let asked = ask::secret(&prompt);
        asked.map_err(|error| Failure::arguments(format!("failed to ask password: {error}")))
    };
    let first = ask(format!("Password of {name}: "))?;
    if first.is_empty() {
        return Err(Failure::arguments("empty password"));
    }
    match ask(format!("Type password of {name} again for confirmation: "))? == first {
        true => Ok(first),
        false => Err(Failure::arguments("given passwords are different")),
    }
}

pub async fn role(context: &Context, role: Role) -> Result<(), Failure> {
    let name = |words: &[std::ffi::OsString], command: &str| {
        text(only(
            words,
            &format!("role {command} command requires role name as its argument"),
        )?)
    };
    match role {
        Role::Add(arguments) => {
            let name = name(&arguments.words, "add")?;
            let request = AuthRoleAddRequest { name: name.clone() };
            let answer = context.connect().await?.role_add(request).await?;
            context.show(&Answer::RoleAdd(name, answer))
        }
        Role::Delete(arguments) => {
            let role = name(&arguments.words, "delete")?;
            let request = AuthRoleDeleteRequest { role: role.clone() };
            let answer = context.connect().await?.role_delete(request).await?;
            context.show(&Answer::RoleDelete(role, answer))
        }
        Role::Get(arguments) => {
            let role = name(&arguments.words, "get")?;
            let request = AuthRoleGetRequest { role: role.clone() };
            let answer = context.connect().await?.role_get(request).await?;
            context.show(&Answer::RoleGet(role, answer))
        }
        Role::List(arguments) => {
            none(&arguments.words, "role list command requires no arguments")?;
            let answer = context.connect().await?.role_list(AuthRoleListRequest {}).await?;
            context.show(&Answer::RoleList(answer))
        }
        Role::GrantPermission(permission) => grant(context, &permission).await,
        Role::RevokePermission(permission) => revoke(context, &permission).await,
    }
}

async fn grant(context: &Context, permission: &Permission) -> Result<(), Failure> {
    let [role, kind, keys @ ..] = &permission.words[..] else {
        return Err(grant_needs());
    };
    if keys.is_empty() {
        return Err(grant_needs());
    }
    let kind = match text(kind)?.to_lowercase().as_str() {
        "read" => permission::Type::Read,
        "write" => permission::Type::Write,
        "readwrite" => permission::Type::Readwrite,
        other => {
            return Err(Failure::arguments(format!("invalid permission type: {other}"))
                .cure("It is read, write, or readwrite."));
        }
    };
    let (role, range) = (text(role)?, permitted(keys, permission)?);
    let request = AuthRoleGrantPermissionRequest {
        name: role.clone(),
        perm: Some(Granted {
            perm_type: kind.into(),
            key: range.key.into(),
            range_end: range.range_end.into(),
        }),
    };
    let answer = context.connect().await?.role_grant_permission(request).await?;
    context.show(&Answer::RoleGrant(role, answer))
}

fn grant_needs() -> Failure {
    Failure::arguments(
        "role grant command requires role name, permission type, and key [endkey] as its argument",
    )
}

async fn revoke(context: &Context, permission: &Permission) -> Result<(), Failure> {
    const NEEDS: &str = "role revoke-permission command requires role name and key [endkey] as its argument";
    let (role, keys) = match &permission.words[..] {
        [role, keys @ ..] if !keys.is_empty() => (text(role)?, keys),
        _ => return Err(Failure::arguments(NEEDS)),
    };
    let range = permitted(keys, permission)?;
    let request = AuthRoleRevokePermissionRequest {
        role: role.clone(),
        key: range.key.into(),
        range_end: range.range_end.clone().into(),
    };
    let response = context.connect().await?.role_revoke_permission(request).await?;
    context.show(&Answer::RoleRevoke {
        role,
        key: bytes(&keys[0]),
        range_end: range.range_end,
        response,
    })
}

/// The keys that a permission is about. An empty key stands for the first there may be.
fn permitted(words: &[std::ffi::OsString], flags: &Permission) -> Result<Range, Failure> {
    let (prefix, from_key) = (flags.prefix, flags.from_key);
    let key = bytes(&words[0]);
    match words.get(1) {
        _ if prefix && from_key => Err(Failure::arguments(
            "--from-key and --prefix flags are mutually exclusive",
        )),
        _ if key.is_empty() && (prefix || from_key) => Ok(ranges::from(&key)),
        _ if key.is_empty() => Ok(ranges::between(vec![0], None)),
        Some(_) if prefix => Err(Failure::arguments(
            "unexpected endkey argument with --prefix flag",
        )),
        Some(_) if from_key => Err(Failure::arguments(
            "unexpected endkey argument with --from-key flag",
        )),
        None if prefix => Ok(ranges::under(&key)),
        None if from_key => Ok(ranges::from(&key)),
        end => Ok(ranges::between(key, end)),
    }
}
