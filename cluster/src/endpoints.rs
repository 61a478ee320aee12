//! Where clients reach a broker, and the queues of routes that say so.

use std::net::{IpAddr, SocketAddr};

use proto::v2;

use crate::message_type;
use crate::table::Place;

/// `host:port`, or `host` alone with `port`, as an endpoint of exactly one address. None when it is neither.
pub fn parse(text: &str, port: u16) -> Option<v2::Endpoints> {
    // A bare IPv6 address has colons but no port.
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(of_address(SocketAddr::new(ip, port)));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return (address.port() != 0).then(|| of_address(address));
    }
    if let Some(ip) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return ip.parse::<IpAddr>().ok().map(|ip| of_address(SocketAddr::new(ip, port)));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, digits)) => (host, digits.parse::<u16>().ok().filter(|&port| port != 0)?),
        None => (text, port),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || host.len() > 253 || !host.chars().all(is_name) {
        return None;
    }
    Some(endpoints(v2::AddressScheme::DomainName, host.into(), port))
}

/// The first address of an access point, as one that every client understands. None when it has none that could be.
pub fn first_of(access_point: &v2::Endpoints) -> Option<v2::Endpoints> {
    let address = access_point.addresses.first()?;
    let port = u16::try_from(address.port).ok().filter(|&port| port != 0)?;
    if let Ok(ip) = address.host.parse::<IpAddr>() {
        return Some(of_address(SocketAddr::new(ip, port)));
    }
    parse(&format!("{}:{port}", address.host), port)
}

/// An address as clients are told it.
pub fn of_address(address: SocketAddr) -> v2::Endpoints {
    // A dual-stack socket shows IPv4 peers as mapped IPv6 addresses; clients split those at colons (§2.1).
    let ip = address.ip().to_canonical();
    let scheme = if ip.is_ipv4() { v2::AddressScheme::IPv4 } else { v2::AddressScheme::IPv6 };
    endpoints(scheme, ip.to_string(), address.port())
}

/// `host:port` for people and for `store_host`.
pub fn text(endpoints: &v2::Endpoints) -> String {
    let addresses = endpoints.addresses.iter();
    let address = |address: &v2::Address| match address.host.contains(':') {
        true => format!("[{}]:{}", address.host, address.port),
        false => format!("{}:{}", address.host, address.port),
    };
    addresses.map(address).next().unwrap_or_default()
}

/// The queues of a route: of each place 0 … n − 1, always in this order. Clients compare lists by position. `here`: where the
/// answering broker is reached, for places without an address.
pub fn queues(places: &[Place], topic: &v2::Resource, here: &v2::Endpoints) -> Vec<v2::MessageQueue> {
    places.iter().flat_map(|place| (0..place.queues).map(|id| queue(id.into(), place, topic, here))).collect()
}

/// What a member polls. A poll on any queue is served from all of them (D7), so a standard group needs one poll for each
/// broker: queue −1. Members of an ordered group get one for each queue, so that they hold several batches at a time.
pub fn assignments(
    places: &[Place],
    is_ordered: bool,
    topic: &v2::Resource,
    here: &v2::Endpoints,
) -> Vec<v2::Assignment> {
    let queues = match is_ordered {
        true => queues(places, topic, here),
        false => places.iter().map(|place| queue(-1, place, topic, here)).collect(),
    };
    queues.into_iter().map(|queue| v2::Assignment { message_queue: Some(queue) }).collect()
}

/// An address of a table, as a client sees it that found who answers at `here`.
pub fn at(address: &str, here: &v2::Endpoints) -> v2::Endpoints {
    if let Some(port) = address.strip_prefix(':').and_then(|port| port.parse().ok()) {
        let mut there = here.clone();
        there.addresses.truncate(1);
        for address in &mut there.addresses {
            address.port = port;
        }
        return there;
    }
    // Addresses in a table were parsed before they got there.
    parse(address, 0).unwrap_or_else(|| here.clone())
}

fn queue(id: i32, place: &Place, topic: &v2::Resource, here: &v2::Endpoints) -> v2::MessageQueue {
    let permission = if place.is_writable { v2::Permission::ReadWrite } else { v2::Permission::Read };
    let endpoints = place.grpc.as_deref().map_or_else(|| here.clone(), |address| at(address, here));
    v2::MessageQueue {
        topic: Some(topic.clone()),
        id,
        permission: permission.into(),
        broker: Some(v2::Broker { name: place.broker.to_string(), id: 0, endpoints: Some(endpoints) }),
        accept_message_types: place.accepts.iter().map(|&kind| message_type::to_protocol(kind).into()).collect(),
    }
}

fn endpoints(scheme: v2::AddressScheme, host: String, port: u16) -> v2::Endpoints {
    v2::Endpoints { scheme: scheme.into(), addresses: vec![v2::Address { host, port: port.into() }] }
}

#[cfg(test)]
mod tests {
    use base::MessageType;

    use super::*;

    #[test]
    fn an_access_point_is_repeated_when_it_makes_sense() {
        use v2::AddressScheme::{DomainName, IPv4};
        let point = |scheme, host: &str, port| v2::Endpoints {
            scheme: v2::AddressScheme::into(scheme),
            addresses: vec![v2::Address { host: host.into(), port }, v2::Address { host: "second".into(), port: 1 }],
        };
        assert_eq!(
            first_of(&point(v2::AddressScheme::Unspecified, "127.0.0.1", 8081)),
            Some(endpoints(IPv4, "127.0.0.1".into(), 8081))
        );
        assert_eq!(first_of(&point(IPv4, "mq.example", 80)), Some(endpoints(DomainName, "mq.example".into(), 80)));
        for (host, port) in [("", 80), ("a b", 80), ("127.0.0.1", 0), ("127.0.0.1", 70_000), ("x:y", 80)] {
            assert_eq!(first_of(&point(IPv4, host, port)), None, "{host}:{port}");
        }
        assert_eq!(first_of(&v2::Endpoints::default()), None);
    }

    #[test]
    fn an_authority_becomes_one_address_of_the_right_scheme() {
        use v2::AddressScheme::{DomainName, IPv4, IPv6};
        for (text, scheme, host, port) in [
            ("127.0.0.1:8081", IPv4, "127.0.0.1", 8081),
            ("10.0.0.1", IPv4, "10.0.0.1", 99),
            ("[::1]:8081", IPv6, "::1", 8081),
            ("[::1]", IPv6, "::1", 99),
            ("::1", IPv6, "::1", 99),
            ("[::ffff:10.0.0.1]:80", IPv4, "10.0.0.1", 80),
            ("broker-0.mq.svc:8081", DomainName, "broker-0.mq.svc", 8081),
            ("localhost", DomainName, "localhost", 99),
        ] {
            let parsed = parse(text, 99).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(parsed.scheme(), scheme, "{text}");
            assert_eq!(parsed.addresses, [v2::Address { host: host.into(), port }], "{text}");
        }
        for bad in ["", ":80", "a:b", "host:0", "127.0.0.1:0", "user@host:80", "a,b:80", "host:70000"] {
            assert_eq!(parse(bad, 99), None, "{bad:?}");
        }
        assert_eq!(text(&parse("[::1]:5", 1).unwrap()), "[::1]:5");
        assert_eq!(text(&parse("a:5", 1).unwrap()), "a:5");
    }

    fn place(broker: &str, grpc: Option<&str>, is_writable: bool) -> Place {
        let accepts = vec![MessageType::Normal, MessageType::Delay];
        Place { broker: broker.into(), grpc: grpc.map(Into::into), queues: 3, accepts, is_writable }
    }

    #[test]
    fn queues_are_numbered_from_zero_complete_and_echo_the_namespace() {
        let topic = v2::Resource { resource_namespace: "ns".into(), name: "t".into() };
        let here = parse("here:1", 1).unwrap();
        let places = [place("a", None, true), place("b", Some("[::1]:2"), false), place("c", Some(":3"), false)];
        let queues = queues(&places, &topic, &here);
        assert_eq!(queues.iter().map(|queue| queue.id).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
        for (number, queue) in queues.iter().enumerate() {
            let (name, endpoints, permission) = match number / 3 {
                0 => ("a", here.clone(), v2::Permission::ReadWrite),
                1 => ("b", parse("[::1]:2", 1).unwrap(), v2::Permission::Read),
                _ => ("c", parse("here:3", 1).unwrap(), v2::Permission::Read),
            };
            assert_eq!(queue.permission(), permission);
            assert_eq!(queue.topic.as_ref(), Some(&topic));
            assert_eq!(queue.broker, Some(v2::Broker { name: name.into(), id: 0, endpoints: Some(endpoints) }));
            let types: Vec<_> = queue.accept_message_types().collect();
            assert_eq!(types, [v2::MessageType::Normal, v2::MessageType::Delay]);
        }
    }

    #[test]
    fn an_ordered_group_polls_each_queue_and_another_one_the_whole_broker() {
        let topic = v2::Resource { name: "t".into(), ..v2::Resource::default() };
        let places = [place("a", None, true), place("b", Some("b:2"), true)];
        for (is_ordered, expected) in [(true, vec![0, 1, 2, 0, 1, 2]), (false, vec![-1, -1])] {
            let assignments = assignments(&places, is_ordered, &topic, &v2::Endpoints::default());
            let ids = assignments.into_iter().map(|assignment| assignment.message_queue.unwrap().id);
            assert_eq!(ids.collect::<Vec<_>>(), expected);
        }
    }
}
