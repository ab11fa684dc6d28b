//! Members that find each other at a discovery service, all of them ours.

use std::path::Path;

use conformance::cluster::eventually;
use conformance::discovery::{names, put, values};
use conformance::server::{Place, Ports, Server};

/// The program.
fn ours() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_etcd"))
}

/// A discovery service, not started yet.
fn service() -> Server {
    let ports = Ports::free();
    let place = Place {
        cluster: ports.initial_cluster(),
        ..Place::found(ports.name(), ports)
    };
    Server::prepared(ours(), &[], ports, place).expect("a folder")
}

/// A member that will ask the service for the others, after somebody who is not there.
fn member(name: &str, token: &str, service: &Server) -> Server {
    let ports = Ports::free();
    let endpoints = format!("127.0.0.1:{},{}", Ports::next(), service.endpoint());
    let flags = [
        format!("--discovery-token={token}"),
        format!("--discovery-endpoints={endpoints}"),
    ];
    Server::prepared(ours(), &flags, ports, Place::found(name, ports)).expect("a folder")
}

async fn set_size(service: &Server, token: &str, size: &str) {
    let key = format!("/_etcd/registry/{token}/_config/size");
    put(service.ports.client, &key, size).await.expect("it is put");
}

/// Waits until so many members have registered.
async fn registered(service: &Server, token: &str, count: usize) {
    eventually("members register", async || {
        let members = values(service.ports.client, &format!("/_etcd/registry/{token}/members")).await?;
        match members.len() == count {
            true => Ok(()),
            false => Err(format!("{members:?}")),
        }
    })
    .await
    .expect("they do");
}

async fn logs(server: &Server, text: &str) {
    let look = async || match server.has_logged(text) {
        true => Ok(()),
        false => Err(server.last_words()),
    };
    eventually(text, look).await.expect("it is logged");
}

/// Waits for a member that can't start, and wants to know why.
async fn is_refused(member: &mut Server, reason: &str) {
    let status = member.gone().await.expect("it ends");
    assert_eq!(status.code(), Some(1));
    assert!(member.has_logged(reason), "{}", member.last_words());
}

#[tokio::test]
async fn members_on_one_token_found_a_cluster_whatever_becomes_of_them_and_the_service_meanwhile() {
    let mut service = service();
    service.resume().await.expect("it serves");
    set_size(&service, "t", "3").await;
    service.kill();

    let [mut first, mut second, mut third] = ["m1", "m2", "m3"].map(|name| member(name, "t", &service));
    first.spawn().expect("it runs");
    logs(&first, "retry connecting to discovery service").await;
    service.resume().await.expect("it serves again");
    registered(&service, "t", 1).await;
    logs(&first, "waiting for peers from discovery service").await;
    service.kill();
    logs(&first, "\"reason\":\"watch for members\"").await;
    service.resume().await.expect("it serves again");

    second.spawn().expect("it runs");
    registered(&service, "t", 2).await;
    second.kill();
    third.spawn().expect("it runs");
    registered(&service, "t", 3).await;
    second.spawn().expect("it has kept its place");
    for member in [&mut first, &mut second, &mut third] {
        member.ready().await.expect("it serves");
    }

    let all = eventually("all have told their names", async || {
        let names = names(second.ports.client).await?;
        match names == ["m1", "m2", "m3"] {
            true => Ok(()),
            false => Err(format!("{names:?}")),
        }
    });
    all.await.expect("they have");
    put(first.ports.client, "key", "value").await.expect("it is put");
    assert_eq!(
        values(third.ports.client, "key").await,
        Ok(vec!["value".to_owned()])
    );

    let mut fourth = member("m4", "t", &service);
    fourth.spawn().expect("it runs");
    is_refused(
        &mut fourth,
        "failed to bootstrap; discovery token was already used",
    )
    .await;
    assert!(fourth.has_logged("failed to join discovery cluster (discovery: cluster is full)"));
    registered(&service, "t", 3).await;

    service.kill();
    first.stop().await.expect("it stops");
    first.resume().await.expect("it needs the service no more");
    assert!(first.has_logged("discovery token is ignored since cluster already initialized"));
}

#[tokio::test]
async fn a_register_that_makes_no_sense_is_refused() {
    let mut service = service();
    service.resume().await.expect("it serves");
    set_size(&service, "bad", "three").await;
    for (token, reason) in [
        (
            "none",
            "failed to join discovery cluster (discovery: size key not found)",
        ),
        (
            "bad",
            "failed to join discovery cluster (discovery: size key is bad)",
        ),
    ] {
        let mut member = member("m1", token, &service);
        member.spawn().expect("it runs");
        is_refused(&mut member, reason).await;
    }
    let mut joining = member("m1", "none", &service);
    joining.set_place(Place {
        joins: true,
        ..Place::found("m1", joining.ports)
    });
    joining.spawn().expect("it runs");
    is_refused(
        &mut joining,
        "discovery URL should not be set when joining existing initial cluster",
    )
    .await;
}

#[tokio::test]
async fn two_members_of_one_name_are_refused() {
    let mut service = service();
    service.resume().await.expect("it serves");
    set_size(&service, "t", "2").await;
    let mut members = ["same", "same"].map(|name| member(name, "t", &service));
    for member in &mut members {
        member.spawn().expect("it runs");
    }
    for member in &mut members {
        is_refused(member, "has two members named \\\"same\\\"").await;
    }
}
