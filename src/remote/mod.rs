//! Copies of a store elsewhere: a directory, or an object store. Files go as chunks named by the hash of their content, so that a copy
//! sends only what the target lacks, whatever wrote it and however it is called; a small manifest, written last, makes it whole.
#![forbid(unsafe_code)]

mod copy;
mod objects;
mod receive;
mod send;
#[cfg(feature = "kafka")]
mod topic;
mod upload;

pub use copy::Copy;
pub(crate) use receive::Fetched;
pub(crate) use send::Source;
pub use upload::Upload;

use std::sync::Arc;

use objects::Objects;

use crate::error::Result;

/// Bytes of a file that go as one object.
const CHUNK_BYTES: u64 = 4 << 20;
/// Objects sent or fetched at once: so many chunks are held in memory.
const AT_ONCE: usize = 8;

/// How far a transfer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes of the copy.
    pub total: u64,
    /// Bytes that are where they should be, those that were there before included.
    pub done: u64,
    /// Bytes that had to be sent or fetched.
    pub moved: u64,
}

/// A place elsewhere that holds copies of stores.
///
/// ```
/// use embedrock::{At, Remote, Store, StoreOptions, TableSchema, Update};
/// # let dir = std::env::temp_dir().join(format!("embedrock-doc-remote-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir).unwrap();
/// let store = Store::open(dir.join("store"), StoreOptions::default())?;
/// store.create_table(TableSchema::new("t", 1))?.assign(&[1], &[1.0], &Update::at(1))?;
/// let commit = store.commit(b"")?;
/// let remote = Remote::open(dir.join("copies").to_str().expect("a plain name"))?;
/// let sent = store.upload(&remote, &mut |_| ())?;
/// assert!(sent.moved > 0);
/// assert_eq!(store.upload(&remote, &mut |_| ())?.moved, 0); // all of it is there
///
/// assert_eq!(remote.copies()?[0].commit, commit);
/// let report = remote.restore(At::Latest, dir.join("restored"), |restore| restore, &mut |_| ())?;
/// assert_eq!(report.commit, commit);
/// # drop(store); std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), embedrock::Error>(())
/// ```
pub struct Remote {
    objects: Arc<Objects>,
    /// Only copies of the store whose id begins so.
    store: Option<String>,
}

impl Remote {
    /// Opens a directory, which is made if need be, or a URL: `s3://bucket/prefix`, `gs://...` and `az://...` with the Cargo features `s3`,
    /// `gcs` and `azure`, with credentials from the environment; `kafka://host:port/topic` with `kafka`, a topic that holds nothing else and
    /// that its broker compacts, of which the whole is read into the directory for temporary files; or `memory:`, a place of its own that ends with the process.
    ///
    /// # Errors
    /// [`Error::Remote`](crate::Error::Remote): a place that this build does not know or cannot reach.
    pub fn open(place: &str) -> Result<Remote> {
        Ok(Remote { objects: Arc::new(Objects::open(place)?), store: None })
    }

    /// The same place with the copies of one store only: of the one whose [`Copy::store_id`] begins with `id`. Where the copies of several
    /// stores lie in one place, the newest of all of them is nobody's: a restore must name the store.
    #[must_use]
    pub fn of_store(&self, id: &str) -> Remote {
        Remote { objects: Arc::clone(&self.objects), store: Some(id.to_ascii_lowercase()) }
    }

    /// Makes the `nth` call from now, and all after it, fail; 0 mends it.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn fail_from(&self, nth: u64) {
        self.objects.fail_from(nth);
    }

    /// Names and sizes of all objects, for tests.
    ///
    /// # Errors
    /// The place cannot be read.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn objects(&self) -> Result<Vec<(String, u64)>> {
        let mut all = self.objects.list(copy::COPIES)?;
        all.extend(self.objects.list(copy::CHUNKS)?);
        Ok(all)
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Remote").field(&self.objects.place()).finish()
    }
}
