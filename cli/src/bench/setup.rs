//! Before the load: topic and group, and connections.

use std::time::Duration;

use client::{Client, Filter, Options, Producer, SimpleConsumer};

use super::{Load, Receiving};
use crate::admin::api::{Api, ApiError};
use crate::admin::{group, topic};
use crate::args::Target;
use crate::exit::{Exit, Failure};
use crate::runtime;
use crate::values::{TopicSpec, TopicType};

/// Under load a server may take longer than for a person; calls that take this long show in the latency.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A group that a server makes at its first poll begins at what is sent after that poll.
const PRIMING_POLL: Duration = Duration::from_millis(200);

/// Where load goes to.
#[derive(Debug, Clone)]
pub struct Place {
    pub grpc: String,
    pub topic: String,
}

/// Creates topic and group where the admin API can be reached; a server without one has to have them.
pub fn prepare(
    load: &Load,
    target: &Target,
    topic: (String, TopicType),
    receiving: Option<&Receiving>,
) -> Result<Place, Failure> {
    let place = Place { grpc: target.grpc.clone(), topic: topic.0.clone() };
    if load.no_create {
        return Ok(place);
    }
    let spec = TopicSpec { name: topic.0, topic_type: topic.1, queues: load.queues };
    runtime::block_on(async {
        let mut api = Api::new(&target.http);
        match api.get("/topics?limit=1").await {
            Ok(_) => {}
            Err(error @ (ApiError::Unreachable { .. } | ApiError::TimedOut { .. } | ApiError::NotOurs { .. })) => {
                eprintln!("note: topic and group are not created: {error}");
                return Ok(());
            }
            Err(error @ ApiError::Refused(_)) => return Err(error.into()),
        }
        topic::create(&mut api, &spec).await?;
        match receiving {
            Some(receiving) => group::create_plain(&mut api, &receiving.consumer_group).await,
            None => Ok(()),
        }
    })
    .or_else(exists_otherwise)?;
    Ok(place)
}

/// Topic and group may be there with settings of their own, as long as they serve: the load itself will tell.
fn exists_otherwise(failure: Failure) -> Result<(), Failure> {
    if failure.exit != Exit::Refused {
        return Err(failure);
    }
    eprintln!("note: {failure}; used as it is");
    Ok(())
}

pub async fn connect(place: &Place) -> Result<Client, Failure> {
    let options = Options { request_timeout: CALL_TIMEOUT, ..Options::default() };
    Ok(Client::connect(&place.grpc, options).await?)
}

/// `count` producers with a connection each; at least one, as each thread needs its own.
pub async fn producers(place: &Place, count: usize) -> Result<Vec<Producer>, Failure> {
    let mut producers = Vec::with_capacity(count.max(1));
    for _ in 0..count.max(1) {
        producers.push(connect(place).await?.producer(&[&place.topic]).await?);
    }
    Ok(producers)
}

/// `count` consumers with a connection each, known to the server as members of the group.
pub async fn consumers(place: &Place, group: &str, count: usize) -> Result<Vec<SimpleConsumer>, Failure> {
    let mut consumers = Vec::with_capacity(count.max(1));
    for _ in 0..count.max(1) {
        consumers.push(connect(place).await?.simple_consumer(group, &place.topic, Filter::All).await?);
    }
    Ok(consumers)
}

/// Makes the server know the group before anything is sent. What was left over is settled.
pub async fn prime(consumer: &SimpleConsumer, receiving: &Receiving) -> Result<(), Failure> {
    let left = consumer.receive(1, receiving.invisible, PRIMING_POLL).await?;
    for message in &left {
        consumer.ack(message).await?;
    }
    Ok(())
}
