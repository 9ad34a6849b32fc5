//! The trainer's state in a commit: from it a job goes on exactly where the committed rows are.
//!
//! Layout, little-endian: magic `EMBRKDFM`, version u32, total length u64, the options as text, the input's name, its fingerprint
//! (32 bytes), samples consumed u64, batches u64, state of the random generator u64, metrics, dense weights with their optimizer.
//! The options are those that change what is learned, not how often it is committed or shown.
#![forbid(unsafe_code)]

use super::bytes::{Reader, Writer, damaged};
use super::data::synthetic::Counter;
use super::deepfm::DeepFm;
use super::metrics::Metrics;
use crate::{Error, Result};

const HEAD: Head = Head { magic: *b"EMBRKDFM", version: 1, writer: "train deepfm" };
/// Where the total length is.
const LENGTH_AT: usize = 12;

/// What the states of all kinds of jobs begin with: magic, version, total length, options, input, its fingerprint.
pub(crate) struct Head {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
    /// The command that writes such states.
    pub(crate) writer: &'static str,
}

impl Head {
    pub(crate) fn write(&self, [options, input]: [&str; 2], fingerprint: &[u8; 32]) -> Writer {
        let mut out = Writer::default();
        out.bytes.extend_from_slice(&self.magic);
        out.u32(self.version);
        out.u64(0);
        out.text(options);
        out.text(input);
        out.bytes.extend_from_slice(fingerprint);
        out
    }

    /// The whole state, its length in its place.
    pub(crate) fn finish(mut out: Writer) -> Vec<u8> {
        let length = out.bytes.len() as u64;
        out.bytes[LENGTH_AT..LENGTH_AT + 8].copy_from_slice(&length.to_le_bytes());
        out.bytes
    }

    /// Reads up to the fingerprint, which comes next; returns the input's name. The options must be these.
    pub(crate) fn read<'a>(&self, bytes: &'a [u8], options: &str) -> Result<(Reader<'a>, &'a str)> {
        let mut reader = Reader::new(bytes);
        if reader.take()? != self.magic {
            return Err(damaged(format!("it was not written by `{}`", self.writer)));
        }
        let version = reader.u32()?;
        if version != self.version {
            return Err(damaged(format!("it has version {version}, this program reads {}", self.version)));
        }
        let length = reader.u64()?;
        if length != bytes.len() as u64 {
            return Err(damaged(format!("it has {} bytes where {length} were written", bytes.len())));
        }
        let (begun, input) = (reader.text()?, reader.text()?);
        if begun != options {
            return Err(Error::OtherJob(differences(begun, options)));
        }
        Ok((reader, input))
    }
}

/// All of a job that is not in the store's tables.
pub(crate) struct State {
    /// A line for each option.
    pub(crate) options: String,
    pub(crate) input: String,
    pub(crate) fingerprint: [u8; 32],
    /// Samples consumed: the next one to learn.
    pub(crate) position: u64,
    pub(crate) batches: u64,
    pub(crate) random: Counter,
    pub(crate) metrics: Metrics,
    pub(crate) model: DeepFm,
}

impl State {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = HEAD.write([&self.options, &self.input], &self.fingerprint);
        out.u64(self.position);
        out.u64(self.batches);
        out.u64(self.random.state());
        self.metrics.write(&mut out);
        self.model.write(&mut out);
        Head::finish(out)
    }

    /// Takes over a committed state. `self` is the fresh state of the same job: options and input must be equal.
    pub(crate) fn resume(&mut self, bytes: &[u8]) -> Result<()> {
        let (mut reader, input) = HEAD.read(bytes, &self.options)?;
        if reader.take()? != self.fingerprint {
            let what = if input == self.input {
                format!("was begun with {input}, which has changed since")
            } else {
                format!("was begun with {input}, not with {}", self.input)
            };
            return Err(Error::OtherJob(what));
        }
        self.position = reader.u64()?;
        self.batches = reader.u64()?;
        self.random = Counter::new(reader.u64()?);
        self.metrics = Metrics::read(&mut reader)?;
        self.model.read(&mut reader)?;
        reader.end()
    }
}

/// The lines that differ, e.g. "was begun with factors 16, not with factors 8".
fn differences(begun: &str, now: &str) -> String {
    let unlike: Vec<_> = begun.lines().zip(now.lines()).filter(|(begun, now)| begun != now).collect();
    let list = |lines: Vec<&str>| lines.join(", ");
    let (begun, now) = unlike.into_iter().unzip();
    format!("was begun with {}, not with {}", list(begun), list(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::Shape;
    use crate::train::deepfm::Architecture;

    fn fresh() -> State {
        let mut random = Counter::new(1);
        let architecture = Architecture { shape: Shape { keys: 2, dense: 1 }, factors: 2, hidden: vec![3] };
        let model = DeepFm::new(architecture, 0.01, &mut random).unwrap();
        State {
            options: "a 1\nb 2".into(),
            input: "x".into(),
            fingerprint: [2; 32],
            position: 0,
            batches: 0,
            random,
            metrics: Metrics::default(),
            model,
        }
    }

    #[test]
    fn a_state_round_trips_and_every_cut_is_an_error() {
        let mut state = fresh();
        (state.position, state.batches) = (77, 3);
        state.metrics.add(0.5, true);
        let bytes = state.to_bytes();
        let mut resumed = fresh();
        resumed.resume(&bytes).unwrap();
        assert_eq!(resumed.to_bytes(), bytes);
        for cut in 0..bytes.len() {
            assert!(matches!(fresh().resume(&bytes[..cut]), Err(Error::TrainerState(_))), "{cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(fresh().resume(&longer), Err(Error::TrainerState(_))));
    }

    #[test]
    fn another_job_is_refused() {
        let bytes = fresh().to_bytes();
        let other = |change: fn(&mut State)| {
            let mut state = fresh();
            change(&mut state);
            state.resume(&bytes)
        };
        let said = |change: fn(&mut State)| match other(change) {
            Err(Error::OtherJob(what)) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(said(|s| s.options = "a 1\nb 3".into()), "was begun with b 2, not with b 3");
        assert_eq!(said(|s| s.fingerprint[0] = 9), "was begun with x, which has changed since");
        assert_eq!(said(|s| (s.fingerprint[0], s.input) = (9, "y".into())), "was begun with x, not with y");
        let mut newer = bytes.clone();
        newer[8] = 9;
        assert!(matches!(fresh().resume(&newer), Err(Error::TrainerState(what)) if what.contains("version 9")));
    }
}
