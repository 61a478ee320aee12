//! Who makes a call: what its headers say, and what the client said about itself in its settings.
//!
//! Nearly every connection carries one client, so a connection remembers the last one: a call then costs a comparison
//! of its headers and two counters instead of allocations.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::limits::{CLIENT_ID_BYTES_MAX, CLIENTS_MAX};
use hashbrown::HashMap;
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;

use super::status::Denial;
use crate::api::{Caller, Language};
use crate::membership::Connection;

static CLIENT_ID: HeaderName = HeaderName::from_static("x-mq-client-id");
static LANGUAGE: HeaderName = HeaderName::from_static("x-mq-language");
static VERSION: HeaderName = HeaderName::from_static("x-mq-client-version");
static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The version is shown and counted, never interpreted; a longer one is nonsense.
const VERSION_BYTES_MAX: usize = 64;

/// What a client says about its library in its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UserAgent {
    pub(super) language: Language,
    pub(super) version: Arc<str>,
}

/// What clients said about themselves where their headers say otherwise (§2.2: Node's say `HTTP`, as others' do).
///
/// Bounded: of two halves the older is forgotten when the newer is full. Clients repeat their settings every few
/// minutes, and whoever is asked about moves to the newer half.
#[derive(Debug, Default)]
pub(super) struct UserAgents {
    /// Changes whenever an answer of [`UserAgents::of`] may have changed.
    epoch: AtomicU64,
    // Shared by all workers: a client's streams and calls may come over connections on different ones.
    halves: Mutex<Halves>,
}

#[derive(Debug, Default)]
struct Halves {
    newer: HashMap<Arc<str>, UserAgent>,
    older: HashMap<Arc<str>, UserAgent>,
}

/// The last client seen on a connection.
#[derive(Debug)]
pub(super) struct LastSeen {
    connection: Arc<Connection>,
    // Calls of a connection run on one thread, but the service that holds this has to be shareable.
    seen: Mutex<Option<Seen>>,
}

#[derive(Debug)]
struct Seen {
    epoch: u64,
    language: Box<[u8]>,
    version: Box<[u8]>,
    caller: Caller,
}

impl UserAgents {
    /// Remembers what `caller` says about itself now.
    pub(super) fn learn(&self, caller: &Caller, agent: UserAgent) {
        if caller.language == agent.language && caller.version == agent.version {
            return;
        }
        self.halves.lock().insert(caller.client_id.clone(), agent);
        // After the insertion: who sees the new epoch finds the new answer.
        self.epoch.fetch_add(1, Ordering::Release);
    }

    fn of(&self, client_id: &str) -> Option<UserAgent> {
        let mut halves = self.halves.lock();
        if let Some(agent) = halves.newer.get(client_id) {
            return Some(agent.clone());
        }
        let (id, agent) = halves.older.remove_entry(client_id)?;
        halves.insert(id, agent.clone());
        Some(agent)
    }
}

impl Halves {
    fn insert(&mut self, id: Arc<str>, agent: UserAgent) {
        if self.newer.len() >= CLIENTS_MAX / 2 && !self.newer.contains_key(&id) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(id, agent);
    }
}

impl LastSeen {
    pub(super) fn of(connection: Arc<Connection>) -> Self {
        Self { connection, seen: Mutex::default() }
    }

    /// Who calls, by the headers of a request that came from `peer`.
    pub(super) fn caller(&self, headers: &HeaderMap, agents: &UserAgents, peer: SocketAddr) -> Result<Caller, Denial> {
        let id = client_id(headers)?;
        let remaining = headers.get(&TIMEOUT).and_then(|value| timeout(value.as_bytes()));
        let language = headers.get(&LANGUAGE).map_or(&[][..], |value| value.as_bytes());
        let version = headers.get(&VERSION).map_or(&[][..], |value| value.as_bytes());

        let mut seen = self.seen.lock();
        // Before the agents are asked, so that an answer is never taken for newer than it is.
        let epoch = agents.epoch.load(Ordering::Acquire);
        if let Some(seen) = &*seen
            && seen.epoch == epoch
            && *seen.caller.client_id == *id
            && *seen.language == *language
            && *seen.version == *version
        {
            return Ok(Caller { remaining, ..seen.caller.clone() });
        }
        let agent =
            agents.of(id).unwrap_or_else(|| UserAgent { language: by_header(language), version: printable(version) });
        let (language, version) = (language.into(), version.into());
        let caller = Caller {
            client_id: id.into(),
            language: agent.language,
            version: agent.version,
            address: Some(peer),
            remaining,
        };
        self.connection.carries(&caller.client_id);
        *seen = Some(Seen { epoch, language, version, caller: caller.clone() });
        Ok(caller)
    }
}

fn client_id(headers: &HeaderMap) -> Result<&str, Denial> {
    let value = headers.get(&CLIENT_ID).ok_or(Denial::ClientIdRequired)?.as_bytes();
    if value.len() > CLIENT_ID_BYTES_MAX {
        return Err(Denial::ClientIdTooLong { size: value.len(), max: CLIENT_ID_BYTES_MAX });
    }
    match std::str::from_utf8(value) {
        Ok(id) if !id.trim().is_empty() => Ok(id),
        _ => Err(Denial::ClientIdRequired),
    }
}

/// The language behind a header's word; unknown words are no error (§2.2).
fn by_header(word: &[u8]) -> Language {
    match word.to_ascii_uppercase().as_slice() {
        b"JAVA" => Language::Java,
        b"CPP" => Language::Cpp,
        b"DOTNET" => Language::DotNet,
        b"GO" | b"GOLANG" => Language::Go,
        b"RUST" => Language::Rust,
        b"PYTHON" => Language::Python,
        b"PHP" => Language::Php,
        b"RUBY" => Language::Ruby,
        // Only the Node library says `HTTP`.
        b"HTTP" | b"NODE_JS" => Language::NodeJs,
        _ => Language::Other,
    }
}

/// A version as it may stand in a metric.
pub(super) fn printable(version: &[u8]) -> Arc<str> {
    let version = version.iter().take(VERSION_BYTES_MAX).filter(|byte| byte.is_ascii_graphic());
    version.map(|&byte| char::from(byte)).collect::<String>().into()
}

/// `grpc-timeout`: up to eight digits and a unit. What cannot be read counts as no deadline.
fn timeout(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count: u64, digit| count * 10 + u64::from(digit - b'0'));
    // The largest, 99,999,999 hours, are 3.6e11 seconds: nothing here can overflow.
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn caller(pairs: &[(&'static str, &str)]) -> Result<Caller, Denial> {
        LastSeen::of(Connection::unheard()).caller(
            &headers(pairs),
            &UserAgents::default(),
            "127.0.0.1:1".parse().unwrap(),
        )
    }

    #[test]
    fn a_call_without_a_client_id_is_denied_and_one_with_an_unknown_language_is_not() {
        assert_eq!(caller(&[]).unwrap_err(), Denial::ClientIdRequired);
        assert_eq!(caller(&[("x-mq-client-id", "  ")]).unwrap_err(), Denial::ClientIdRequired);
        let long = "c".repeat(CLIENT_ID_BYTES_MAX + 1);
        assert!(matches!(caller(&[("x-mq-client-id", &long)]), Err(Denial::ClientIdTooLong { size: 513, .. })));
        for (word, language) in
            [("JAVA", Language::Java), ("HTTP", Language::NodeJs), ("foo", Language::Other), ("", Language::Other)]
        {
            assert_eq!(caller(&[("x-mq-client-id", "a"), ("x-mq-language", word)]).unwrap().language, language);
        }
        let bare = caller(&[("x-mq-client-id", "a")]).unwrap();
        assert_eq!((&*bare.client_id, bare.language, bare.remaining), ("a", Language::Other, None));
    }

    #[test]
    fn settings_win_over_headers_from_the_next_call_on() {
        let (agents, here, there) =
            (UserAgents::default(), LastSeen::of(Connection::unheard()), LastSeen::of(Connection::unheard()));
        let headers = headers(&[("x-mq-client-id", "a"), ("x-mq-language", "JAVA"), ("x-mq-client-version", "5.0")]);
        let peer = "127.0.0.1:1".parse().unwrap();
        let before = here.caller(&headers, &agents, peer).unwrap();
        assert_eq!((before.language, &*before.version), (Language::Java, "5.0"));

        agents.learn(&before, UserAgent { language: Language::NodeJs, version: "1.0.7".into() });

        for connection in [&here, &there] {
            let after = connection.caller(&headers, &agents, peer).unwrap();
            assert_eq!((after.language, &*after.version), (Language::NodeJs, "1.0.7"));
        }
        let other = HeaderMap::from_iter([(CLIENT_ID.clone(), "b".parse().unwrap())]);
        assert_eq!(here.caller(&other, &agents, peer).unwrap().language, Language::Other);
    }

    #[test]
    fn the_memory_of_clients_is_bounded_and_keeps_those_in_use() {
        let agents = UserAgents::default();
        let agent = UserAgent { language: Language::NodeJs, version: "1".into() };
        let stranger = caller(&[("x-mq-client-id", "used")]).unwrap();
        agents.learn(&stranger, agent.clone());
        for n in 0..CLIENTS_MAX * 2 {
            let id: Arc<str> = n.to_string().into();
            agents.learn(&Caller { client_id: id, ..stranger.clone() }, agent.clone());
            if n % 1000 == 0 {
                assert_eq!(agents.of("used"), Some(agent.clone()));
            }
        }
        let halves = agents.halves.lock();
        assert!(halves.newer.len() + halves.older.len() <= CLIENTS_MAX);
    }

    #[test]
    fn deadlines_are_read_in_every_unit_and_nonsense_is_none() {
        for (text, duration) in [
            ("3S", Duration::from_secs(3)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("1M", Duration::from_secs(60)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("7n", Duration::from_nanos(7)),
        ] {
            assert_eq!(timeout(text.as_bytes()), Some(duration), "{text}");
        }
        for bad in ["", "S", "3", "3x", "-3S", "123456789S", "3.5S"] {
            assert_eq!(timeout(bad.as_bytes()), None, "{bad}");
        }
    }
}
