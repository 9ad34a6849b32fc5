//! A partition of a broker's topic, read from an offset on and written to its end. The only file that names `rdkafka`.
//!
//! Through one, examples flow (`embedrock join` reads events from it and writes examples to it), and copies of a store:
//! [`Remote`](crate::Remote) takes `kafka://...` as it takes a directory, and a serving copy follows them.
#![forbid(unsafe_code)]

use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};

use crate::context::lock;
use crate::error::{Error, Result};
use crate::sync::Mutex;

/// The longest message: a chunk of a copy and what stands before it.
const MAX_MESSAGE_BYTES: usize = 6 << 20;
/// How long a broker may not answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long more is waited for where the broker said that there is none.
const AT_THE_END: Duration = Duration::from_secs(3);
/// Room that is looked for again while a producer's queue is full.
const PAUSE: Duration = Duration::from_millis(20);

/// A message that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the partition.
    pub offset: u64,
    /// Its key; empty if it has none.
    pub key: Vec<u8>,
    /// What it says; `None` takes back what its key said before.
    pub value: Option<Vec<u8>>,
}

/// What [`Topic::read`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In order.
    pub records: Vec<Record>,
    /// Where to go on.
    pub next: u64,
    /// Whether these were the last ones that were there when it was asked.
    pub ended: bool,
}

/// See the module.
///
/// ```no_run
/// use embedrock::kafka::Topic;
/// let topic = Topic::open("kafka://127.0.0.1:9092/clicks?partition=0")?;
/// topic.write(&[(b"key".to_vec(), Some(b"value".to_vec()))])?; // durable as the topic is set when it returns
/// let found = topic.read(0, 100)?;
/// assert_eq!(found.records[0].value.as_deref(), Some(&b"value"[..]));
/// # Ok::<(), embedrock::Error>(())
/// ```
pub struct Topic {
    place: String,
    name: String,
    partition: i32,
    servers: String,
    reading: Mutex<Option<Reading>>,
    writing: Mutex<Option<BaseProducer<Failures>>>,
}

/// A consumer, and the offset of what it gives next.
struct Reading {
    consumer: BaseConsumer,
    next: u64,
}

/// The first message since it was asked that did not arrive.
#[derive(Default)]
struct Failures(Mutex<Option<String>>);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            lock(&self.0).get_or_insert_with(|| error.to_string());
        }
    }
}

impl Topic {
    /// Takes `kafka://HOST:PORT[,HOST:PORT...]/TOPIC[?partition=N]`; partition 0 if it names none. Nothing is connected yet.
    ///
    /// # Errors
    /// [`Error::Remote`]: no such place.
    pub fn open(place: &str) -> Result<Topic> {
        let (servers, name, partition) =
            parse(place).map_err(|message| Error::Remote { action: "open", place: place.to_owned(), message })?;
        let (reading, writing) = (Mutex::default(), Mutex::default());
        Ok(Topic { place: place.to_owned(), name, partition, servers, reading, writing })
    }

    /// Reads at most `most` messages from offset `from` on, or from the first one that is left where it is 0. Waits for the broker, not
    /// for messages that are still to be written.
    ///
    /// # Errors
    /// [`Error::Remote`]: the broker cannot be reached, has no such topic, or no longer has what stood at `from`.
    pub fn read(&self, from: u64, most: usize) -> Result<Found> {
        let mut reading = lock(&self.reading);
        let current = match reading.take().filter(|reading| reading.next == from) {
            Some(current) => current,
            None => self.assign(from)?,
        };
        let reading = reading.insert(current);
        let (_, end) = reading
            .consumer
            .fetch_watermarks(&self.name, self.partition, PATIENCE)
            .map_err(|error| self.failed("read", error.to_string()))?;
        let end = u64::try_from(end).unwrap_or(0);
        if from > end {
            return Err(self.failed("read", format!("it ends at offset {end}, before the offset {from} that was reached")));
        }
        let (mut found, mut patience) = (Found { next: from, ..Found::default() }, PATIENCE);
        while found.records.len() < most && found.next < end {
            match reading.consumer.poll(patience) {
                None if patience < PATIENCE => break,
                None => return Err(self.failed("read", format!("the broker did not answer for {} s", PATIENCE.as_secs()))),
                // Of where the topic ended when it was said; or the last offsets are no messages.
                Some(Err(KafkaError::PartitionEOF(_))) => patience = AT_THE_END,
                Some(Err(error)) => return Err(self.failed("read", error.to_string())),
                Some(Ok(message)) => {
                    let offset = u64::try_from(message.offset()).unwrap_or(0);
                    let key = message.key().unwrap_or_default().to_vec();
                    found.records.push(Record { offset, key, value: message.payload().map(<[u8]>::to_vec) });
                    found.next = offset + 1;
                    patience = PATIENCE;
                }
            }
        }
        found.ended = found.next >= end || found.records.len() < most;
        reading.next = found.next;
        Ok(found)
    }

    fn assign(&self, from: u64) -> Result<Reading> {
        let failed = |error: KafkaError| self.failed("read", error.to_string());
        let mut config = self.config();
        // What is asked for and no longer there is an error, not silently something else.
        config.set("group.id", "embedrock").set("enable.auto.commit", "false").set("auto.offset.reset", "error");
        config.set("enable.partition.eof", "true").set("isolation.level", "read_committed");
        config.set("fetch.message.max.bytes", MAX_MESSAGE_BYTES.to_string());
        let consumer: BaseConsumer = config.create().map_err(failed)?;
        let offset = match i64::try_from(from) {
            Ok(0) | Err(_) => Offset::Beginning,
            Ok(offset) => Offset::Offset(offset),
        };
        let mut places = TopicPartitionList::new();
        places.add_partition_offset(&self.name, self.partition, offset).map_err(failed)?;
        consumer.assign(&places).map_err(failed)?;
        Ok(Reading { consumer, next: from })
    }

    /// Writes messages, keys and values, in their order, and waits until the broker has them all. A value of `None` takes the key back.
    ///
    /// # Errors
    /// [`Error::Remote`]: some of them may not be there; writing them all again gives equal ones.
    pub fn write(&self, messages: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<()> {
        let failed = |error: KafkaError| self.failed("write", error.to_string());
        let mut writing = lock(&self.writing);
        let producer = match writing.take() {
            Some(producer) => writing.insert(producer),
            None => {
                let mut config = self.config();
                config.set("enable.idempotence", "true").set("message.max.bytes", MAX_MESSAGE_BYTES.to_string());
                writing.insert(config.create_with_context(Failures::default()).map_err(failed)?)
            }
        };
        for (key, value) in messages {
            let mut record = BaseRecord::<[u8], [u8]>::to(&self.name).partition(self.partition).key(key);
            if let Some(value) = value {
                record = record.payload(value);
            }
            while let Err((error, refused)) = producer.send(record) {
                if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                    return Err(failed(error));
                }
                producer.poll(PAUSE);
                record = refused;
            }
        }
        producer.flush(PATIENCE).map_err(failed)?;
        let failure = lock(&producer.context().0).take();
        failure.map_or(Ok(()), |message| Err(self.failed("write", message)))
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers);
        config
    }

    fn failed(&self, action: &'static str, message: String) -> Error {
        Error::Remote { action, place: self.place.clone(), message }
    }
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Topic").field(&self.place).finish()
    }
}

/// Servers, topic, partition.
fn parse(place: &str) -> Result<(String, String, i32), String> {
    let wanted = || format!("expected kafka://HOST:PORT/TOPIC or kafka://HOST:PORT/TOPIC?partition=N, found {place}");
    let (servers, rest) = place.strip_prefix("kafka://").and_then(|rest| rest.split_once('/')).ok_or_else(wanted)?;
    let (topic, options) = rest.split_once('?').unwrap_or((rest, "partition=0"));
    let partition = options.strip_prefix("partition=").and_then(|number| number.parse().ok()).filter(|number| *number >= 0);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if servers.is_empty() || topic.is_empty() || topic.len() > 249 || !topic.bytes().all(plain) {
        return Err(wanted());
    }
    Ok((servers.to_owned(), topic.to_owned(), partition.ok_or_else(wanted)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_name_servers_a_topic_and_a_partition() {
        let ours = |servers: &str, topic: &str, partition| Ok((servers.to_owned(), topic.to_owned(), partition));
        assert_eq!(parse("kafka://a:1,b:2/clicks"), ours("a:1,b:2", "clicks", 0));
        assert_eq!(parse("kafka://a:1/clicks?partition=7"), ours("a:1", "clicks", 7));
        for odd in
            ["kafka://a:1", "kafka://a:1/", "kafka:///t", "kafka://a:1/t?partition=-1", "kafka://a:1/t?x=1", "kafka://a:1/t/u"]
        {
            assert!(parse(odd).is_err_and(|what| what.contains(odd)), "{odd}");
        }
    }
}
