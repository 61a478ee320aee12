//! Settings of a client: what the broker has to know of them, and the complete answer (§5.2).
//!
//! The answer repeats what the client said and overwrites what the server decides. No field of the request is taken
//! for granted: every language leaves out others.

use std::time::Duration;

use proto::v2;
use proto::v2::retry_policy::Strategy;
use proto::v2::settings::PubSub;

use super::caller::{UserAgent, printable};
use super::{decode, encode};
use crate::api::{ClientSettings, GroupSettings, Language, ServerSettings};
use crate::membership::ClientKind;
use crate::refusal::Refusal;

/// What producers are told: three tries between 10 ms and 1 s, which is what their libraries expect (§5.2).
const PRODUCER_ATTEMPTS: i32 = 3;
const PRODUCER_FIRST: Duration = Duration::from_millis(10);
const PRODUCER_LAST: Duration = Duration::from_secs(1);

/// The last Node library that reads whole seconds of an exponential policy and waits as many milliseconds (§5.4).
const NODE_TAKES_SECONDS_FOR_MS: [u32; 3] = [1, 0, 7];

/// The part of `settings` that matters to the broker.
pub(super) fn of_client(settings: &v2::Settings) -> Result<ClientSettings, Refusal> {
    let said = settings.client_type.and_then(decode::client_kind);
    match settings.pub_sub.as_ref().ok_or(Refusal::SettingsWithoutSide)? {
        PubSub::Publishing(publishing) => {
            let topics = publishing.topics.iter().map(|topic| topic.name.clone()).collect();
            Ok(ClientSettings { kind: ClientKind::Producer, group: None, topics })
        }
        PubSub::Subscription(subscription) => {
            // The side decides: it is what the answer has to fit.
            let kind = said.filter(|&kind| kind != ClientKind::Producer).unwrap_or(ClientKind::PushConsumer);
            let group = subscription.group.as_ref().map(|group| group.name.clone()).filter(|name| !name.is_empty());
            let topics = subscription.subscriptions.iter().filter_map(|entry| entry.topic.as_ref());
            Ok(ClientSettings { kind, group, topics: topics.map(|topic| topic.name.clone()).collect() })
        }
    }
}

/// What the client says about its library. None without a language: then its headers say it.
pub(super) fn user_agent(settings: &v2::Settings) -> Option<UserAgent> {
    let agent = settings.user_agent.as_ref()?;
    Some(UserAgent { language: decode::language(agent.language)?, version: printable(agent.version.as_bytes()) })
}

/// The reply to `settings`.
pub(super) fn answer(mut settings: v2::Settings, language: Language, server: &ServerSettings) -> v2::Settings {
    let version = settings.user_agent.as_ref().map_or("", |agent| agent.version.as_str());
    let unit = if language == Language::NodeJs && takes_seconds_for_ms(version) { 1000 } else { 1 };
    let is_lite = settings
        .client_type
        .and_then(decode::client_kind)
        .is_some_and(|kind| matches!(kind, ClientKind::LitePushConsumer | ClientKind::LiteSimpleConsumer));
    match &mut settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            publishing.max_body_size = i32::try_from(server.body_bytes_max).unwrap_or(i32::MAX);
            publishing.validate_message_type = true;
            settings.backoff_policy = Some(for_producers());
        }
        Some(PubSub::Subscription(subscription)) => {
            if let Some(group) = &server.group {
                subscription.fifo = Some(group.is_ordered);
                subscription.receive_batch_size = Some(i32::try_from(group.receive_messages_max).unwrap_or(i32::MAX));
                subscription.long_polling_timeout = Some(encode::duration(group.polling));
                settings.backoff_policy = Some(for_consumers(group, language, unit));
            }
            if is_lite {
                // Lite topics are not served; without these fields Python would wait for ever instead of saying so.
                subscription.lite_subscription_quota = Some(0);
                subscription.max_lite_topic_size = Some(0);
            }
        }
        None => {}
    }
    // Off, and without endpoints: Java and C# throw on empty ones (D16).
    settings.metric = Some(v2::Metric { on: false, endpoints: None });
    settings
}

fn for_producers() -> v2::RetryPolicy {
    let strategy = exponential(PRODUCER_FIRST, PRODUCER_LAST, 2.0, 1);
    v2::RetryPolicy { max_attempts: PRODUCER_ATTEMPTS, strategy: Some(strategy) }
}

/// Python understands steps only, Node an exponential policy only (§5.4); both are told the same schedule.
fn for_consumers(group: &GroupSettings, language: Language, unit: u32) -> v2::RetryPolicy {
    let strategy = match (language, group.backoff.as_slice()) {
        (Language::NodeJs, &[first, .., last]) => exponential(first, last, factor(&group.backoff), unit),
        (Language::NodeJs, &[only]) => exponential(only, only, 1.0, unit),
        (_, steps) => {
            let next = steps.iter().map(|&step| encode::duration(step)).collect();
            Strategy::CustomizedBackoff(v2::CustomizedBackoff { next })
        }
    };
    v2::RetryPolicy { max_attempts: i32::try_from(group.attempts_max).unwrap_or(i32::MAX), strategy: Some(strategy) }
}

fn exponential(first: Duration, last: Duration, multiplier: f32, unit: u32) -> Strategy {
    let (initial, max) = (encode::duration(first.saturating_mul(unit)), encode::duration(last.saturating_mul(unit)));
    Strategy::ExponentialBackoff(v2::ExponentialBackoff { initial: Some(initial), max: Some(max), multiplier })
}

/// The factor that describes `steps` best: their own when they are exponential up to a cap, else the one that leads from
/// the first step to the last in as many steps.
fn factor(steps: &[Duration]) -> f32 {
    let [first, second, .., last] = steps else {
        return match steps {
            [first, last] if !first.is_zero() => (last.as_secs_f32() / first.as_secs_f32()).max(1.0),
            _ => 1.0,
        };
    };
    if first.is_zero() {
        return 1.0;
    }
    let (first, second, last) = (first.as_secs_f32(), second.as_secs_f32(), last.as_secs_f32());
    let own = second / first;
    let is_exponential = steps.windows(2).all(|pair| {
        let expected = (pair[0].as_secs_f32() * own).min(last);
        (pair[1].as_secs_f32() - expected).abs() <= expected * 0.01
    });
    let factor = if is_exponential { own } else { (last / first).powf(1.0 / (steps.len() - 1) as f32) };
    factor.max(1.0)
}

/// For Node up to 1.0.7 the policy is given in thousandfold, so that its wrong unit comes out right: an unscaled one
/// burns all attempts of a message within milliseconds. Later versions, and those that do not say, are taken to be
/// mended: thousandfold waits would be the worse mistake.
fn takes_seconds_for_ms(version: &str) -> bool {
    let release = version.trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
    let numbers: Option<Vec<u32>> = release.split('.').map(|number| number.parse().ok()).collect();
    numbers.is_some_and(|numbers| numbers.as_slice() <= NODE_TAKES_SECONDS_FOR_MS.as_slice())
}

#[cfg(test)]
mod tests {
    use base::GroupName;

    use super::*;

    fn seconds(steps: &[u64]) -> Vec<Duration> {
        steps.iter().map(|&step| Duration::from_secs(step)).collect()
    }

    fn server(backoff: &[u64]) -> ServerSettings {
        let group = GroupSettings {
            name: GroupName::parse("g").unwrap(),
            is_ordered: true,
            attempts_max: 5,
            backoff: seconds(backoff),
            receive_messages_max: 32,
            polling: Duration::from_secs(20),
        };
        ServerSettings { body_bytes_max: 4 << 20, group: Some(group) }
    }

    fn consumer(language: v2::Language, version: &str) -> v2::Settings {
        let entry = v2::SubscriptionEntry { topic: Some(encode::resource("t")), expression: None };
        let subscription =
            v2::Subscription { group: Some(encode::resource("g")), subscriptions: vec![entry], ..Default::default() };
        v2::Settings {
            client_type: Some(v2::ClientType::PushConsumer.into()),
            user_agent: Some(v2::Ua { language: language.into(), version: version.into(), ..Default::default() }),
            pub_sub: Some(PubSub::Subscription(subscription)),
            ..Default::default()
        }
    }

    #[test]
    fn a_producer_gets_an_exponential_policy_and_its_own_words_back() {
        let publishing = v2::Publishing { topics: vec![encode::resource("t")], ..Default::default() };
        let settings = v2::Settings {
            client_type: Some(v2::ClientType::Producer.into()),
            request_timeout: Some(encode::duration(Duration::from_secs(3))),
            pub_sub: Some(PubSub::Publishing(publishing)),
            metric: Some(v2::Metric { on: true, endpoints: Some(v2::Endpoints::default()) }),
            ..Default::default()
        };
        let asked = of_client(&settings).unwrap();
        assert_eq!((asked.kind, asked.group, asked.topics), (ClientKind::Producer, None, vec!["t".to_string()]));

        let reply = answer(settings.clone(), Language::Java, &ServerSettings { body_bytes_max: 4 << 20, group: None });

        let Some(PubSub::Publishing(publishing)) = &reply.pub_sub else { panic!("{reply:?}") };
        assert_eq!((publishing.max_body_size, publishing.validate_message_type), (4 << 20, true));
        assert_eq!(publishing.topics, [encode::resource("t")]);
        let policy = reply.backoff_policy.unwrap();
        assert_eq!(policy.max_attempts, 3);
        let Some(Strategy::ExponentialBackoff(backoff)) = policy.strategy else { panic!("not exponential") };
        assert_eq!(
            (backoff.initial.unwrap().nanos, backoff.max.unwrap().seconds, backoff.multiplier),
            (10_000_000, 1, 2.0)
        );
        assert_eq!(reply.metric, Some(v2::Metric { on: false, endpoints: None }));
        assert_eq!((reply.client_type, reply.request_timeout), (settings.client_type, settings.request_timeout));
    }

    #[test]
    fn node_gets_an_exponential_policy_and_every_other_language_steps() {
        for language in [v2::Language::Java, v2::Language::Python, v2::Language::Golang, v2::Language::Cpp] {
            let settings = consumer(language, "5.0.0");
            let reply = answer(settings.clone(), user_agent(&settings).unwrap().language, &server(&[1, 2]));
            let Some(Strategy::CustomizedBackoff(steps)) = reply.backoff_policy.unwrap().strategy else { panic!() };
            assert_eq!(steps.next.iter().map(|step| step.seconds).collect::<Vec<_>>(), [1, 2]);
        }
        let reply = answer(consumer(v2::Language::NodeJs, "1.0.8"), Language::NodeJs, &server(&[5, 10, 20, 40, 60]));
        let Some(PubSub::Subscription(subscription)) = &reply.pub_sub else { panic!("{reply:?}") };
        assert_eq!((subscription.fifo, subscription.receive_batch_size), (Some(true), Some(32)));
        assert_eq!(subscription.long_polling_timeout.unwrap().seconds, 20);
        let policy = reply.backoff_policy.unwrap();
        assert_eq!(policy.max_attempts, 5);
        let Some(Strategy::ExponentialBackoff(backoff)) = policy.strategy else { panic!("not exponential") };
        assert_eq!((backoff.initial.unwrap().seconds, backoff.max.unwrap().seconds, backoff.multiplier), (5, 60, 2.0));
    }

    #[test]
    fn the_node_library_that_takes_seconds_for_milliseconds_gets_a_thousandfold() {
        for (version, first) in
            [("1.0.7", 5_000), ("v1.0.3", 5_000), ("1.0.7-beta", 5_000), ("1.0.8", 5), ("2.0.0", 5), ("", 5)]
        {
            let reply = answer(consumer(v2::Language::NodeJs, version), Language::NodeJs, &server(&[5]));
            let Some(Strategy::ExponentialBackoff(backoff)) = reply.backoff_policy.unwrap().strategy else { panic!() };
            assert_eq!(backoff.initial.unwrap().seconds, first, "{version:?}");
        }
        let java = answer(consumer(v2::Language::Java, "1.0.7"), Language::Java, &server(&[5]));
        let Some(Strategy::CustomizedBackoff(steps)) = java.backoff_policy.unwrap().strategy else { panic!() };
        assert_eq!(steps.next[0].seconds, 5);
    }

    #[test]
    fn a_factor_describes_the_steps() {
        assert_eq!(factor(&seconds(&[5, 10, 20, 40, 50])), 2.0, "the last one is capped");
        assert!((factor(&seconds(&[1, 5, 10, 30, 60])) - 60_f32.powf(0.25)).abs() < 0.01);
        assert_eq!(factor(&seconds(&[1, 4])), 4.0);
        assert_eq!(factor(&seconds(&[0, 4, 5])), 1.0);
        assert_eq!(factor(&seconds(&[9, 3, 1])), 1.0, "never shrinks");
    }

    #[test]
    fn settings_of_nobody_are_refused_and_a_missing_type_follows_from_the_side() {
        let nobody = v2::Settings { client_type: Some(v2::ClientType::Producer.into()), ..Default::default() };
        assert_eq!(of_client(&nobody).unwrap_err(), Refusal::SettingsWithoutSide);
        let mut settings = consumer(v2::Language::Java, "5");
        for kind in [None, Some(v2::ClientType::Producer.into()), Some(77)] {
            settings.client_type = kind;
            let asked = of_client(&settings).unwrap();
            assert_eq!((asked.kind, asked.group.as_deref()), (ClientKind::PushConsumer, Some("g")));
        }
    }
}
