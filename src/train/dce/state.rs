//! The state of a job in a commit: from it the job goes on exactly where the committed rows are.
//!
//! Layout, little-endian: magic `EMBRKDCE`, version u32, total length u64, the options as text, the input's name, its fingerprint
//! (32 bytes), the stage u32, batches done in it and in all u64, means and deviations of the session vectors, the decay, the weight
//! of everybody, the last moment of the roll, losses of the passes, then the weights with their optimizers: session encoder, customer encoder, heads.
#![forbid(unsafe_code)]

use super::autoencoder::{Autoencoder, Said};
use super::customer::CustomerEncoder;
use super::heads::Heads;
use crate::train::bytes::damaged;
use crate::train::state::Head;
use crate::{Error, Result, UnixSeconds};

const HEAD: Head = Head { magic: *b"EMBRKDCE", version: 2, writer: "train dce" };

/// What a job is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum Stage {
    /// The session encoder learns.
    Sessions,
    /// All sessions become vectors.
    Encoding,
    /// The customer encoder learns.
    Customers,
    /// Customers' vectors are rolled through time; what is known at each moment is kept.
    Rolling,
    /// The heads learn.
    Heads,
    /// Nothing is left to do.
    Done,
}

const STAGES: [Stage; 6] = [Stage::Sessions, Stage::Encoding, Stage::Customers, Stage::Rolling, Stage::Heads, Stage::Done];

impl Stage {
    pub(crate) fn next(self) -> Stage {
        STAGES[(self as usize + 1).min(STAGES.len() - 1)]
    }
}

/// All of a job that is not in the store's tables.
pub(crate) struct State {
    pub(crate) options: String,
    pub(crate) input: String,
    pub(crate) fingerprint: [u8; 32],
    pub(crate) stage: Stage,
    /// Batches done in the stage.
    pub(crate) step: u64,
    /// Batches done in all.
    pub(crate) batches: u64,
    /// Mean of each lane of the session vectors, then one over its deviation.
    pub(crate) norms: Vec<f32>,
    /// A day's decay of the decayed mean.
    pub(crate) decay: f32,
    /// How many events of everybody the likelihood adds to a customer's own.
    pub(crate) weight: f32,
    /// When the last batch of the roll began: labels known by then are counted.
    pub(crate) rolled: UnixSeconds,
    /// What the session encoder said in its current pass.
    pub(crate) said: Said,
    /// Sum of squared distances and lanes of the customer encoder's current pass.
    pub(crate) foretold: (f64, u64),
    pub(crate) autoencoder: Autoencoder,
    pub(crate) customers: CustomerEncoder,
    pub(crate) heads: Heads,
}

impl State {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = HEAD.write([&self.options, &self.input], &self.fingerprint);
        out.u32(self.stage as u32);
        out.u64(self.step);
        out.u64(self.batches);
        out.f32s(&self.norms);
        out.f32s(&[self.decay, self.weight]);
        out.u32(self.rolled);
        out.f64(self.said.loss);
        out.u64(self.said.right);
        out.u64(self.said.events);
        out.f64(self.foretold.0);
        out.u64(self.foretold.1);
        self.autoencoder.write(&mut out);
        self.customers.write(&mut out);
        self.heads.write(&mut out);
        Head::finish(out)
    }

    /// Takes over a committed state. `self` is the fresh state of the same job: options and input must be equal.
    pub(crate) fn resume(&mut self, bytes: &[u8]) -> Result<()> {
        let (mut reader, input) = HEAD.read(bytes, &self.options)?;
        if reader.take()? != self.fingerprint {
            return Err(Error::OtherJob(format!("was begun with {input}, as it was then, not with {} of now", self.input)));
        }
        let stage = reader.u32()?;
        self.stage = *STAGES.get(stage as usize).ok_or_else(|| damaged(format!("there is no stage {stage}")))?;
        self.step = reader.u64()?;
        self.batches = reader.u64()?;
        reader.f32s(&mut self.norms)?;
        let mut learned = [0.0; 2];
        reader.f32s(&mut learned)?;
        [self.decay, self.weight] = learned;
        self.rolled = reader.u32()?;
        self.said = Said { loss: reader.f64()?, right: reader.u64()?, events: reader.u64()? };
        self.foretold = (reader.f64()?, reader.u64()?);
        self.autoencoder.read(&mut reader)?;
        self.customers.read(&mut reader)?;
        self.heads.read(&mut reader)?;
        reader.end()
    }
}
