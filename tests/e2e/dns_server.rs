//! A scripted name server, over UDP and TCP.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};

/// One query.
pub(crate) struct Question {
    /// Without the trailing dot.
    pub(crate) name: String,
    /// 1 for IPv4 addresses, 28 for IPv6.
    pub(crate) record_type: u16,
    pub(crate) over_tcp: bool,
    /// How often the same was queried before.
    pub(crate) earlier_queries: usize,
    message: Vec<u8>,
}

/// The TC flag.
pub(crate) const TRUNCATED: u16 = 0x0200;

impl Question {
    fn read(message: &[u8], over_tcp: bool) -> Self {
        let mut labels = Vec::new();
        let mut at = 12;
        while message[at] > 0 {
            let end = at + 1 + usize::from(message[at]);
            labels.push(String::from_utf8_lossy(&message[at + 1..end]).into_owned());
            at = end;
        }
        let kind = u16::from_be_bytes([message[at + 1], message[at + 2]]);
        let message = message[..at + 5].to_vec();
        Self { name: labels.join("."), record_type: kind, over_tcp, earlier_queries: 0, message }
    }

    /// A response with flags or a response code, and records.
    pub(crate) fn response(&self, flags: u16, records: &[Vec<u8>]) -> Vec<u8> {
        let counts = [0x8180 | flags, 1, records.len() as u16, 0, 0];
        [&self.message[..2], &counts.map(u16::to_be_bytes).concat(), &self.message[12..], &records.concat()].concat()
    }

    /// A response with the address, if it is of the queried type, or without records.
    pub(crate) fn address_response(&self, addr: &str) -> Vec<u8> {
        let record = address_record(&self.name, addr.parse().unwrap(), 60);
        self.response(
            0,
            if (self.record_type == 1) == addr.contains('.') { std::slice::from_ref(&record) } else { &[] },
        )
    }
}

fn labels(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
    [name.split('.').flat_map(label).collect(), vec![0]].concat()
}

fn record_of_type(name: &str, kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let kind = [kind, 1].map(u16::to_be_bytes).concat();
    [&labels(name), &kind, &ttl.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat()
}

/// An A or AAAA record.
pub(crate) fn address_record(name: &str, addr: IpAddr, ttl: u32) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => record_of_type(name, 1, ttl, &addr.octets()),
        IpAddr::V6(addr) => record_of_type(name, 28, ttl, &addr.octets()),
    }
}

/// A CNAME record.
pub(crate) fn cname_record(name: &str, target: &str) -> Vec<u8> {
    record_of_type(name, 5, 60, &labels(target))
}

pub(crate) struct DnsServer {
    pub(crate) addr: SocketAddr,
    queries: Arc<Mutex<Vec<(String, u16)>>>,
}

impl DnsServer {
    /// Responds to each query with the messages of `respond`.
    pub(crate) fn start(respond: impl Fn(&Question) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1", respond).unwrap()
    }

    /// Starts a server at an address, if the machine has it.
    pub(crate) fn start_at(
        ip: &str,
        respond: impl Fn(&Question) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Option<Self> {
        let ip: IpAddr = ip.parse().unwrap();
        let mut bound = (0..100).filter_map(|_| {
            let udp = UdpSocket::bind((ip, 0)).ok()?;
            Some((TcpListener::bind(udp.local_addr().ok()?).ok()?, udp))
        });
        let (tcp, udp) = bound.next()?;
        let addr = udp.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<(String, u16)>>> = Arc::default();
        let all = asked.clone();
        let respond_to = Arc::new(move |message: &[u8], over_tcp| {
            let mut question = Question::read(message, over_tcp);
            let key = (question.name.clone(), question.record_type);
            {
                let mut all = all.lock().unwrap();
                question.earlier_queries = all.iter().filter(|known| **known == key).count();
                all.push(key);
            }
            respond(&question)
        });
        let over_udp = respond_to.clone();
        std::thread::spawn(move || {
            let mut buf = [0; 512];
            while let Ok((count, from)) = udp.recv_from(&mut buf) {
                over_udp(&buf[..count], false).iter().for_each(|message| drop(udp.send_to(message, from)));
            }
        });
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().map_while(Result::ok) {
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_err() {
                    continue;
                }
                let mut message = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut message).unwrap();
                for message in respond_to(&message, true) {
                    // In two segments.
                    let framed = [&(message.len() as u16).to_be_bytes(), &message[..]].concat();
                    let (first, second) = framed.split_at(framed.len() / 2);
                    let _ = stream.write_all(first).and_then(|()| stream.write_all(second));
                }
            }
        });
        Some(Self { addr, queries: asked })
    }

    /// Returns how often a name was queried for records of a type.
    pub(crate) fn query_count(&self, name: &str, kind: u16) -> usize {
        self.queries.lock().unwrap().iter().filter(|(known, of)| known == name && *of == kind).count()
    }
}
