//! Ports of servers that come and go.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A free port of loopback, kept by a socket that is bound and never listens: a server may listen there, and nobody is
/// given it by chance, also while that server is down. A client that tries again and again must not find another one
/// there, or itself.
pub struct Port {
    address: SocketAddr,
    _held: TcpSocket,
}

impl Port {
    pub fn free() -> Self {
        let held = TcpSocket::new_v4().expect("a socket");
        held.set_reuseaddr(true).expect("an option");
        held.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        Self { address: held.local_addr().expect("it is bound"), _held: held }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
