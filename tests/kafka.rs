//! Copies and examples through a broker: the one that librdkafka mocks in this process, which speaks the real protocol.
#![cfg(all(feature = "kafka", feature = "cli", feature = "testing"))]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod command;

use std::fs;

use command::Place;
use embedrock::kafka::Topic;
use embedrock::{Remote, Replica, Store, StoreOptions, TableSchema, Update};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

const T: u64 = 1_700_000_000;

fn broker(topics: &[&str]) -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    topics.iter().for_each(|topic| cluster.create_topic(topic, 2, 1).unwrap());
    cluster
}

fn options() -> StoreOptions {
    StoreOptions::default().memory_budget(24 << 20).threads(1).twin(true)
}

#[test]
fn messages_come_in_order_from_any_offset_of_a_partition() {
    let cluster = broker(&["t"]);
    let place = format!("kafka://{}/t?partition=1", cluster.bootstrap_servers());
    let topic = Topic::open(&place).unwrap();
    let message = |i: u64| (vec![i as u8], (!i.is_multiple_of(3)).then(|| vec![i as u8; i as usize]));
    let all: Vec<_> = (0..50).map(message).collect();
    topic.write(&all[..20]).unwrap();
    let found = topic.read(0, 7).unwrap();
    assert_eq!((found.next, found.ended, found.records.len()), (7, false, 7));
    topic.write(&all[20..]).unwrap();
    for from in [7, 0, 41, 50] {
        let (mut next, mut offsets) = (from, Vec::new());
        loop {
            let found = topic.read(next, 11).unwrap();
            for record in &found.records {
                assert_eq!((record.key.clone(), record.value.clone()), message(record.offset));
            }
            offsets.extend(found.records.iter().map(|record| record.offset));
            next = found.next;
            if found.ended {
                break;
            }
        }
        assert_eq!(offsets, (from..50).collect::<Vec<_>>());
    }
    // The other partition is another one.
    let other = Topic::open(&place.replace("partition=1", "partition=0")).unwrap();
    assert!(other.read(0, 1).unwrap().records.is_empty());
    assert!(topic.read(1000, 1).is_err(), "no such offset");
}

#[test]
fn a_serving_copy_follows_a_store_through_a_topic() {
    let (cluster, dir) = (broker(&["copies"]), tempfile::tempdir().unwrap());
    let place = format!("kafka://{}/copies", cluster.bootstrap_servers());
    let store = Store::open(dir.path().join("store"), options()).unwrap();
    let table = store.create_table(TableSchema::new("user", 4)).unwrap();
    let (keys, mut rows) = ((0..500).collect::<Vec<u64>>(), vec![0.0; 2000]);
    let change = |round: u64| {
        let grads: Vec<f32> = (0..2000).map(|i| (i * (round as usize + 3) % 17) as f32 - 8.0).collect();
        table.apply_gradients(&keys, &grads, &Update::at(T + round)).unwrap();
        table.remove(&keys[..round as usize]).unwrap();
        store.commit(b"").unwrap()
    };
    let first = change(1);
    let remote = Remote::open(&place).unwrap();
    assert!(store.upload(&remote, &mut |_| ()).unwrap().moved > 0);
    assert_eq!(store.upload(&remote, &mut |_| ()).unwrap().moved, 0, "all of it is there");
    // As in another process: a view of its own.
    let replica = Replica::open_copies(Remote::open(&place).unwrap(), dir.path().join("replica"), options()).unwrap();
    assert_eq!(replica.at(), first);
    for round in 2..5 {
        let commit = change(round);
        store.upload(&remote, &mut |_| ()).unwrap();
        assert_eq!(replica.catch_up().unwrap().at, commit);
        let mut served = vec![f32::NAN; 2000];
        let hits = table.lookup(&keys, &mut rows).unwrap();
        assert_eq!(replica.lookup("user", &keys, &mut served).unwrap(), hits);
        assert_eq!(rows, served);
    }
    // Whoever else writes there is noticed, and what was served is served on.
    Topic::open(&place).unwrap().write(&[(b"chunks/../../x".to_vec(), Some(b"x".to_vec()))]).unwrap();
    let error = replica.catch_up().unwrap_err().to_string();
    assert!(error.contains("other writers"), "{error}");
    assert_eq!(replica.lookup("user", &keys, &mut rows).unwrap(), 496);
}

#[test]
fn events_of_a_topic_become_examples_in_another_and_come_again_with_the_same_key_only_after_a_crash() {
    let (cluster, place) = (broker(&["events", "examples"]), Place::new());
    let url = |topic: &str| format!("kafka://{}/{topic}", cluster.bootstrap_servers());
    let event = |at: u64| match at % 2 {
        0 => format!("{{\"request\": {}, \"time\": {}, \"keys\": [{at}]}}", at / 2, T + at),
        _ => format!("{{\"request\": {}, \"time\": {}, \"label\": {}}}", at / 2, T + at, at / 2 % 2),
    };
    let (events, examples) = (Topic::open(&url("events")).unwrap(), Topic::open(&url("examples")).unwrap());
    let send = |range: std::ops::Range<u64>| {
        let messages: Vec<_> = range.map(|at| (Vec::new(), Some(event(at).into_bytes()))).collect();
        events.write(&messages).unwrap();
    };
    let line = format!("--keys 1 --memory-budget 24MiB --commit-every 300 --store s --out {}", url("examples"));
    send(0..1000);
    let first = place.json(&format!("join {} {line}", url("events")));
    assert_eq!((first["position"].as_u64(), first["examples"].as_u64()), (Some(1000), Some(500)));
    send(1000..3001);
    let second = place.json(&format!("join {} {line}", url("events")));
    assert_eq!((second["position"].as_u64(), second["examples"].as_u64()), (Some(3001), Some(1500)));
    fs::write(place.path("lines"), (0..3001).map(|at| event(at) + "\n").collect::<String>()).unwrap();
    place.ok("join lines --keys 1 --memory-budget 24MiB --store other --out expected");
    let found = examples.read(0, 5000).unwrap();
    let expected = fs::read_to_string(place.path("expected")).unwrap();
    assert_eq!(found.records.len(), expected.lines().count());
    for (record, line) in found.records.iter().zip(expected.lines()) {
        assert_eq!(record.value.as_deref(), Some(line.as_bytes()));
        let request = serde_json::from_str::<serde_json::Value>(line).unwrap()["request"].to_string();
        assert_eq!(record.key, request.into_bytes());
    }
}
