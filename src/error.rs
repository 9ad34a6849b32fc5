//! Every way a call can fail: where, what was expected, what was found, and what to do.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use crate::types::{CommitId, Key};

/// The result of every fallible call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. After an error either nothing changed, or the store is [`Error::Poisoned`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, e.g. "create" or "sync".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk, a quota or a file-size limit is exhausted. Nothing was lost: free space and call again.
    #[error("no space left to {action} {}: nothing was lost; free some space and try again", path.display())]
    NoSpace {
        /// What was attempted.
        action: &'static str,
        /// The file that could not grow.
        path: PathBuf,
    },
    /// The directory cannot be written.
    #[error("{} cannot be written (opened to be read only, a read-only disk, or no permission): open a copy, or change its permissions", path.display())]
    ReadOnly {
        /// The file or directory.
        path: PathBuf,
    },
    /// Bytes on disk are not what was written there.
    #[error("{} is damaged at byte {offset}: {what}; restore an older commit or a copy (`embedrock verify` lists all damage)", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// The first byte of the unit that failed its check.
        offset: u64,
        /// What was expected and found.
        what: String,
    },
    /// The file was written by a newer version of this crate.
    #[error("{} has format version {found}, this program reads up to {supported}: use a newer embedrock", path.display())]
    FormatTooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known here.
        supported: u32,
    },
    /// The directory holds other files, or a store without its identity; no fresh store is made over them.
    #[error("{} is not an embedrock store: {why}", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What is missing or in the way.
        why: String,
    },
    /// Another process, or another `Store` or `Table` of this process, has the directory open.
    #[error("{} is in use{}: close the other store first, and let go of its tables", path.display(), pid.map(|p| format!(" by process {p}")).unwrap_or_default())]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// The process that holds it, where known.
        pid: Option<u32>,
    },
    /// The store was opened before a fork and is used in the child.
    #[error("this store was opened before a fork: open it in the process that uses it")]
    ForkedChild,
    /// A table exists with another schema.
    #[error("table '{table}' has another schema: {what}; open it with the schema it was created with, or choose another name")]
    SchemaMismatch {
        /// The table's name.
        table: String,
        /// The first difference.
        what: String,
    },
    /// A schema that no table can have.
    #[error("the schema of table '{table}' is not valid: {what}")]
    InvalidSchema {
        /// The table's name.
        table: String,
        /// What is wrong.
        what: String,
    },
    /// No table of this name.
    #[error("there is no table '{table}'")]
    UnknownTable {
        /// The name asked for.
        table: String,
    },
    /// The table was dropped.
    #[error("table '{table}' was dropped")]
    TableDropped {
        /// The table's name.
        table: String,
    },
    /// An option that cannot be met.
    #[error("option {option}: {what}")]
    InvalidOption {
        /// The option's name.
        option: &'static str,
        /// What is wrong with its value.
        what: String,
    },
    /// A slice has the wrong length.
    #[error("{what} has {found} values, expected {expected} ({keys} keys)")]
    WrongLength {
        /// Which slice.
        what: &'static str,
        /// The expected number of values.
        expected: usize,
        /// The given number of values.
        found: usize,
        /// The number of keys of the call.
        keys: usize,
    },
    /// Offsets that do not divide the keys into bags.
    #[error("offset {position} of the bags {what}: give one offset more than bags, from 0 up to the number of keys")]
    InvalidOffsets {
        /// Its place among the offsets.
        position: usize,
        /// What it is, and what was expected.
        what: String,
    },
    /// What is wrong with one request of a call over several tables; nothing changed in any of them.
    #[error("request {request} (table '{table}'): {source}")]
    InRequest {
        /// Its place among the requests.
        request: usize,
        /// The table's name.
        table: String,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// A table of one store was given to another.
    #[error("the table belongs to another store: use a handle that this store gave")]
    OtherStore,
    /// A gradient or a row is NaN or infinite; nothing of the batch was applied.
    #[error(
        "{what} of key {key} is not finite (position {position} of the batch): nothing was applied; clip it, or allow it with StoreOptions::allow_non_finite"
    )]
    NotFinite {
        /// "gradient" or "row".
        what: &'static str,
        /// The key.
        key: Key,
        /// Its place in the batch.
        position: usize,
    },
    /// An event time far ahead of the store's clock; nothing changed.
    #[error(
        "time {time} is {ahead} s ahead of the store's clock ({clock}): nothing was applied; times are unix seconds (not milliseconds), see StoreOptions::max_clock_step"
    )]
    ClockJump {
        /// The batch's time.
        time: u64,
        /// The store's clock.
        clock: u64,
        /// Their difference.
        ahead: u64,
    },
    /// The memory budget cannot hold what the call needs at once.
    #[error("the memory budget of {budget} bytes is too small: {needed} are needed at once; raise it, or use smaller batches")]
    BudgetTooSmall {
        /// The bytes needed.
        needed: usize,
        /// The bytes allowed.
        budget: usize,
    },
    /// No such commit can be restored any more.
    #[error("commit {id} cannot be restored: {why}")]
    UnknownCommit {
        /// The commit asked for.
        id: CommitId,
        /// What is known of it.
        why: String,
    },
    /// The target of a restore exists.
    #[error("{} exists: choose a directory that does not", path.display())]
    TargetExists {
        /// The target.
        path: PathBuf,
    },
    /// An earlier failure left it unknown what the disk holds; reads go on, nothing more is committed.
    #[error(
        "the store is poisoned by an earlier failure ({reason}): close it and open it again, it comes back at its last durable commit"
    )]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// A commit failed half way and waits to be tried again; so many rows changed meanwhile that training has to wait for it.
    #[error("a commit failed ({reason}) and training cannot go further without it: remove the cause and call commit again")]
    CommitFailed {
        /// How it failed.
        reason: String,
    },
    /// The cold tier failed.
    #[error("the cold tier failed to {action}: {message}")]
    Cold {
        /// What was attempted.
        action: &'static str,
        /// RocksDB's message.
        message: String,
    },
    /// A place that holds copies did not do what was asked of it. Call again once it does: what is there is used.
    #[error("cannot {action} {place}: {message}")]
    Remote {
        /// What was attempted, e.g. "read".
        action: &'static str,
        /// The place and the object.
        place: String,
        /// Its reason.
        message: String,
    },
    /// A file of another program that cannot be taken for what it should be.
    #[error("{} cannot be used: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        what: String,
    },
    /// Input that a reader cannot take, with its line or row.
    #[error("{}:{line}: {what}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// Its line or row, from 1.
        line: u64,
        /// What is wrong, and what was expected.
        what: String,
    },
    /// The store's job was begun with another input or other options, so going on would not be the same job.
    #[error("this store's job {0}; go on with the same, or train into another store")]
    OtherJob(String),
    /// The trainer's state in the last commit is not one that this program can go on from.
    #[error(
        "the trainer's state in the store's last commit cannot be used: {0}; train into another store, or restore another commit"
    )]
    TrainerState(String),
    /// Anything the trainer's dense part reports.
    #[error("the model failed: {0}")]
    Model(String),
}

impl Error {
    /// Wraps a system error, telling a full disk and a read-only one apart from the rest.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Error {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::NoSpace { action, path }
            }
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Error::ReadOnly { path },
            _ => Error::Io { action, path, source },
        }
    }

    /// Damage found in a file.
    pub(crate) fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> Error {
        Error::Corrupt { path: path.to_path_buf(), offset, what: what.into() }
    }
}
