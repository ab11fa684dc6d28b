//! A DNS server for tests, with records for one test.

use std::io;
use std::net::{IpAddr, SocketAddr};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
pub use hickory_resolver::proto::rr::Record;
use hickory_resolver::proto::rr::rdata::{PTR, SRV};
use hickory_resolver::proto::rr::{Name, RData};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Longer questions than this are not asked in tests.
const QUESTION_BYTES_MAX: usize = 4096;

/// The server. Dropping it ends it.
#[derive(Debug)]
pub struct Authority {
    /// Where it listens, by UDP.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Authority {
    /// Starts a server that knows these records and nothing else.
    pub async fn start(address: SocketAddr, records: Vec<Record>) -> io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        let address = socket.local_addr()?;
        let serve = async move {
            let mut question = [0; QUESTION_BYTES_MAX];
            while let Ok((length, asker)) = socket.recv_from(&mut question).await {
                if let Some(answer) = answer(&question[..length], &records) {
                    // Whoever asks asks again.
                    let _ = socket.send_to(&answer, asker).await;
                }
            }
        };
        Ok(Self {
            address,
            task: tokio::spawn(serve),
        })
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A record that says where a service is, of no weight.
pub fn service(name: &str, priority: u16, target: &str, port: u16) -> Record {
    weighted(name, (priority, 0), target, port)
}

/// A record that says where a service is, with its priority and its weight.
pub fn weighted(name: &str, (priority, weight): (u16, u16), target: &str, port: u16) -> Record {
    let srv = SRV::new(priority, weight, port, domain(target));
    Record::from_rdata(domain(name), 60, RData::SRV(srv))
}

/// A record that says what a host's address is.
pub fn host(name: &str, address: IpAddr) -> Record {
    Record::from_rdata(domain(name), 60, RData::from(address))
}

/// A record that says what an address's name is.
pub fn pointer(address: IpAddr, name: &str) -> Record {
    Record::from_rdata(address.into(), 60, RData::PTR(PTR(domain(name))))
}

fn domain(name: &str) -> Name {
    Name::from_ascii(name).expect("a name for a test is one")
}

fn answer(question: &[u8], records: &[Record]) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?;
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.authoritative = true;
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.add_query(query.clone());
    let named: Vec<_> = records
        .iter()
        .filter(|record| record.name == *query.name())
        .collect();
    if named.is_empty() {
        answer.metadata.response_code = ResponseCode::NXDomain;
    }
    let asked = named
        .into_iter()
        .filter(|record| record.record_type() == query.query_type());
    answer.add_answers(asked.cloned());
    answer.to_vec().ok()
}
