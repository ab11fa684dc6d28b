//! Leases.

use std::ffi::OsString;

use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
};

use super::context::{self, Context, only, text};
use super::ids;
use crate::arguments::Lease;
use crate::failure::{Failure, Status};
use crate::output::Answer;

pub async fn run(context: &Context, lease: Lease) -> Result<(), Failure> {
    match lease {
        Lease::Grant(arguments) => {
            let ttl = text(only(&arguments.words, "lease grant command needs TTL argument")?)?;
            let ttl = ttl
                .parse()
                .map_err(|_| Failure::arguments(format!("bad TTL ({ttl:?} is not a number of seconds)")))?;
            let request = LeaseGrantRequest { ttl, id: 0 };
            let granted = context.connect().await?.lease_grant(request).await;
            let granted = granted.map_err(|error| Failure::from(error).behind("failed to grant lease"))?;
            context.show(&Answer::Grant(granted))
        }
        Lease::Revoke(arguments) => {
            let id = ids::lease_argument(only(&arguments.words, "lease revoke command needs 1 argument")?)?;
            let revoked = context
                .connect()
                .await?
                .lease_revoke(LeaseRevokeRequest { id })
                .await;
            let revoked = revoked.map_err(|error| Failure::from(error).behind("failed to revoke lease"))?;
            context.show(&Answer::Revoke(id, revoked))
        }
        Lease::Timetolive { words, keys } => {
            let id = ids::lease_argument(only(
                &words,
                "lease timetolive command needs lease ID as argument",
            )?)?;
            let request = LeaseTimeToLiveRequest { id, keys };
            let answer = context.connect().await?.lease_time_to_live(request).await;
            context.show(&Answer::TimeToLive(answer.map_err(as_connection)?, keys))
        }
        Lease::List => {
            let client = context.connect_to_members().await?;
            let answer = client.lease_leases(LeaseLeasesRequest {}).await;
            context.show(&Answer::Leases(answer.map_err(as_connection)?))
        }
        Lease::KeepAlive { words, once } => keep_alive(context, &words, once).await,
    }
}

/// These commands end with the status of a connection that failed, whatever it was.
fn as_connection(error: client::Error) -> Failure {
    Failure {
        status: Status::Connection as u8,
        ..error.into()
    }
}

async fn keep_alive(context: &Context, words: &[OsString], once: bool) -> Result<(), Failure> {
    let id = ids::lease_argument(only(
        words,
        "lease keep-alive command needs lease ID as argument",
    )?)?;
    let client = context.connect_to_members().await?;
    if once {
        let answer = client.keep_alive_once(id).await.map_err(as_connection)?;
        return context.show(&Answer::KeepAlive(answer));
    }
    let mut kept = client.keep_alive(id).await.map_err(as_connection)?;
    loop {
        match kept.next().await {
            Some(Ok(answer)) => context.show(&Answer::KeepAlive(answer))?,
            Some(Err(client::Error::LeaseGone { .. })) | None => break,
            Some(Err(error)) => return Err(as_connection(error)),
        }
    }
    match context.is_simple() {
        true => context::print(format!("lease {id:016x} expired or revoked.\n").as_bytes()),
        false => Ok(()),
    }
}
