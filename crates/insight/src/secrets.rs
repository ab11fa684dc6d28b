//! Settings that hold a password, as they are shown: in the log, at `/debug/vars`, by `etcd check-config`.

/// Stands for a password.
const MASK: &str = "***";

/// A value without the password in it, if the setting of this name, a flag's, has one.
pub fn masked(name: &str, value: &str) -> String {
    let user = value.split_once(':').filter(|_| name.ends_with("discovery-user"));
    match user {
        Some((user, _)) => format!("{user}:{MASK}"),
        None if name.ends_with("-password") && !value.is_empty() => MASK.into(),
        None => value.to_owned(),
    }
}

/// A command line without passwords.
pub fn command_line(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut shown = Vec::new();
    let mut flag = String::new();
    for argument in arguments {
        let value_of = std::mem::take(&mut flag);
        let is_flag = argument.starts_with('-');
        shown.push(match argument.split_once('=') {
            _ if !value_of.is_empty() => masked(&value_of, &argument),
            Some((name, value)) if is_flag => format!("{name}={}", masked(name, value)),
            _ => {
                if is_flag {
                    flag = argument.clone();
                }
                argument
            }
        });
    }
    shown
}

/// The command line of this process, without passwords.
pub fn own_command_line() -> Vec<String> {
    command_line(std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sees_a_password_on_a_command_line() {
        let line = [
            ("etcd", "etcd"),
            ("--discovery-password=one", "--discovery-password=***"),
            ("--discovery-password", "--discovery-password"),
            ("two", "***"),
            ("-discovery-user=u:three", "-discovery-user=u:***"),
            ("--experimental-discovery-user", "--experimental-discovery-user"),
            ("u:fo=ur", "u:***"),
            ("--discovery-user", "--discovery-user"),
            ("nobody", "nobody"),
            ("--pre-vote", "--pre-vote"),
            ("--name=a:b", "--name=a:b"),
            ("--name", "--name"),
            ("a:b", "a:b"),
        ];
        let shown = command_line(line.map(|(argument, _)| argument.to_owned()));
        assert_eq!(shown, line.map(|(_, shown)| shown));
    }

    #[test]
    fn no_password_is_shown_as_none() {
        assert_eq!(masked("discovery-password", ""), "");
    }
}
