//! Where a replica reads: the store's own directory, or copies of it elsewhere, fetched into a directory of the replica's.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::fs::{Fs, names};
use crate::log::Mark;
#[cfg(feature = "remote")]
use crate::remote::{Fetched, Remote};
use crate::types::CommitId;

/// See the module.
pub(super) struct Feed {
    store: PathBuf,
    #[cfg(feature = "remote")]
    copies: Option<Copies>,
}

#[cfg(feature = "remote")]
struct Copies {
    remote: Remote,
    /// What is in the directory.
    fetched: crate::sync::Mutex<Fetched>,
}

impl Feed {
    pub(super) fn of_store(store: &Path) -> Feed {
        Feed {
            store: store.to_path_buf(),
            #[cfg(feature = "remote")]
            copies: None,
        }
    }

    /// Of the newest copy, fetched into `dir`.
    #[cfg(feature = "remote")]
    pub(super) fn of_copies(remote: Remote, dir: PathBuf) -> Feed {
        Feed { store: dir, copies: Some(Copies { remote, fetched: Default::default() }) }
    }

    /// The directory to read.
    pub(super) fn store(&self) -> &Path {
        &self.store
    }

    /// Brings what is new into the directory; returns the bytes that came.
    pub(super) fn fetch(&self) -> Result<Option<u64>> {
        #[cfg(feature = "remote")]
        if let Some(Copies { remote, fetched }) = &self.copies {
            return remote.fetch_newest(&self.store, &mut crate::context::lock(fetched)).map(Some);
        }
        Ok(None)
    }

    /// The newest commit that could be had; `None` where nothing says it.
    pub(super) fn newest(&self, fs: &dyn Fs) -> Result<Option<CommitId>> {
        #[cfg(feature = "remote")]
        if let Some(Copies { remote, fetched }) = &self.copies {
            return remote.newest(&crate::context::lock(fetched)).map(|copy| Some(copy.commit));
        }
        Ok(Mark::read(fs, &names::durable(&self.store))?.map(|mark| mark.id))
    }
}
