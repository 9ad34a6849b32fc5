//! Copies of an open store elsewhere.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::engine::Engine;
use crate::error::{Error, Result};
use crate::fs::Scratch;
use crate::options::StoreOptions;
use crate::pins::Pins;
use crate::quantized::write_quantized;
use crate::recovery::{choose, survey};
use crate::remote::{Remote, Source, Transfer, Upload};
use crate::types::At;

impl Engine {
    pub(super) fn upload(&self, remote: &Remote, upload: &Upload, progress: &mut dyn FnMut(Transfer)) -> Result<Transfer> {
        let Engine { catalog, fs, dir, identity, log, .. } = self;
        catalog.context.check_process()?;
        let pins = Pins::all(&**fs, dir)?;
        let tip = log.tip().0.id;
        let Some(codec) = upload.quantization.filter(|_| tip.sequence > 0) else {
            return remote.send(&Source { fs: &**fs, dir, identity: *identity, tip }, upload, progress);
        };
        let scratch = Arc::new(Scratch::new(fs, upload.scratch.as_deref())?);
        let survey = survey(&**fs, dir, identity.uuid)?;
        let chain = choose(&survey, dir, At::Commit(tip))?;
        let mut options = StoreOptions { fs: Arc::clone(fs), twin: self.twin, ..StoreOptions::default() };
        options = options.memory_budget(upload.memory_budget).threads(1);
        if chain.target().0 != tip {
            return Err(Error::UnknownCommit { id: tip, why: "the log does not lead to it".into() });
        }
        write_quantized(fs, (dir, *identity), (&survey, &chain), &options, (&scratch, codec))?;
        drop(pins);
        remote.send(&Source { fs: &**fs, dir: scratch.path(), identity: *identity, tip }, upload, progress)
    }
}
