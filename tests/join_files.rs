//! The joiner's events from a Parquet file, as others write them, beside the same from lines of JSON.
#![cfg(feature = "cli")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod command;

use std::fs;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use command::Place;
use embedrock::{Error, EventFile};
use parquet::data_type::{FloatType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

const SCHEMA: &str = "message events {
    required int64 request; required int64 time (TIMESTAMP(MILLIS, true));
    optional group keys (LIST) { repeated group list { optional int64 element; } }
    optional group dense (LIST) { repeated group list { optional float element; } }
    optional float label;
}";
const T: i64 = 1_700_000_000;
/// Row groups of the file: of these many requests.
const GROUPS: [i64; 3] = [1500, 1, 700];

/// Features of every request, and of two in three an action; in order of time.
fn lines() -> String {
    let mut lines = String::new();
    for request in 0..GROUPS.iter().sum() {
        let at = T + request;
        lines +=
            &format!("{{\"request\": {request}, \"time\": {at}, \"keys\": [{request}, 7], \"dense\": [{}.5]}}\n", request % 9);
        if request % 3 > 0 {
            lines += &format!("{{\"request\": {request}, \"time\": {at}, \"label\": {}}}\n", request % 2);
        }
    }
    lines
}

/// Columns of one row group; a list is there from level 1 on, and has an element at level 3.
#[derive(Default)]
struct Group {
    requests: Vec<i64>,
    times: Vec<i64>,
    keys: (Vec<i64>, Vec<i16>, Vec<i16>),
    dense: (Vec<f32>, Vec<i16>, Vec<i16>),
    labels: (Vec<f32>, Vec<i16>),
}

impl Group {
    fn of(requests: std::ops::Range<i64>) -> Group {
        let mut group = Group::default();
        for request in requests {
            for action in 0..=i64::from(request % 3 > 0) {
                group.requests.push(request);
                group.times.push((T + request) * 1000 + 999);
                if action == 1 {
                    group.labels.0.push((request % 2) as f32);
                    // No list, or an empty one: neither has keys.
                    group.keys.1.push((request % 2) as i16);
                } else {
                    group.keys.0.extend([request, 7]);
                    group.keys.1.extend([3, 3]);
                    group.dense.0.push((request % 9) as f32 + 0.5);
                }
                group.keys.2.extend(if action == 1 { vec![0] } else { vec![0, 1] });
                group.dense.1.push(if action == 1 { 0 } else { 3 });
                group.dense.2.push(0);
                group.labels.1.push(action as i16);
            }
        }
        group
    }

    fn write(&self, writer: &mut SerializedFileWriter<File>) {
        let mut rows = writer.next_row_group().unwrap();
        for column in 0..5 {
            let mut writer = rows.next_column().unwrap().unwrap();
            match column {
                0 => writer.typed::<Int64Type>().write_batch(&self.requests, None, None),
                1 => writer.typed::<Int64Type>().write_batch(&self.times, None, None),
                2 => writer.typed::<Int64Type>().write_batch(&self.keys.0, Some(&self.keys.1), Some(&self.keys.2)),
                3 => writer.typed::<FloatType>().write_batch(&self.dense.0, Some(&self.dense.1), Some(&self.dense.2)),
                _ => writer.typed::<FloatType>().write_batch(&self.labels.0, Some(&self.labels.1), None),
            }
            .unwrap();
            writer.close().unwrap();
        }
        rows.close().unwrap();
    }
}

fn write(path: &Path) {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::default()).unwrap();
    let mut begin = 0;
    for count in GROUPS {
        Group::of(begin..begin + count).write(&mut writer);
        begin += count;
    }
    writer.close().unwrap();
}

#[test]
fn a_parquet_file_gives_the_examples_of_the_same_lines_and_is_read_on_where_it_was_left() {
    let place = Place::new();
    write(&place.path("events.parquet"));
    fs::write(place.path("events"), lines()).unwrap();
    let options = "--keys 2 --dense 1 --wait 5m --memory-budget 24MiB --commit-every 700";
    let mut of_lines = place.json(&format!("join events {options} --store lines --out expected"));
    let mut of_rows = place.json(&format!("join events.parquet {options} --store rows --out out"));
    let rows = EventFile::open(place.path("events.parquet")).unwrap().read(1).unwrap();
    assert_eq!((rows[0].request, rows[0].time, rows[0].label), (0, T as u32, None));
    let position = of_rows["position"].take();
    of_lines["position"].take();
    assert_eq!((of_rows, position.as_u64()), (of_lines, Some(lines().lines().count() as u64)));
    let read = |name: &str| fs::read(place.path(name)).unwrap();
    assert!(read("out") == read("expected"), "the examples differ");
    // All of it is taken: nothing comes again.
    let again = place.json(&format!("join events.parquet {options} --store rows --out out"));
    assert_eq!(again["position"], position);
    assert!(read("out") == read("expected"), "examples came again");
    // Another file, of which not as much was read as is there.
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let file = File::create(place.path("events.parquet")).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    Group::of(0..3).write(&mut writer);
    writer.close().unwrap();
    place.fails(&format!("join events.parquet {options} --store rows --out out"), 1, &["is shorter than what was read of it"]);
    fs::write(place.path("odd.parquet"), "no such thing").unwrap();
    place.fails(&format!("join odd.parquet {options} --store odd --out odd"), 1, &["odd.parquet"]);
}

#[test]
fn damaged_files_of_events_are_errors_and_never_panics() {
    let place = Place::new();
    write(&place.path("events.parquet"));
    let whole = fs::read(place.path("events.parquet")).unwrap();
    let all = |path: &Path| -> Result<usize, Error> {
        let (mut file, mut count) = (EventFile::open(path)?, 0);
        loop {
            match file.read(997)?.len() {
                0 => return Ok(count),
                read => count += read,
            }
        }
    };
    assert_eq!(all(&place.path("events.parquet")).unwrap(), lines().lines().count());
    let (mut refused, mut at) = (0, 0);
    while at < whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(place.path("damaged"), &bytes).unwrap();
        // Parquet sums no pages by default: some damage is another number. What is read is whole rows all the same.
        refused += usize::from(all(&place.path("damaged")).is_err());
        fs::write(place.path("damaged"), &whole[..at]).unwrap();
        assert!(all(&place.path("damaged")).is_err(), "cut at {at}");
        at += 1 + whole.len() / 400;
    }
    assert!(refused > 20, "{refused}");
}
