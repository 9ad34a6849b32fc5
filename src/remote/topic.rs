//! Objects as the messages of a topic: a name is a key, its bytes the value, and what was written last under a name stands. A topic that
//! its broker compacts (`cleanup.policy=compact`) keeps just that.
//!
//! Names and bytes are read into a temporary directory, all that there are once, then what came since.
#![forbid(unsafe_code)]

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as Cause, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as Outcome,
};

use crate::context::lock;
use crate::error::{Error, Result};
use crate::fs::{RealFs, Scratch};
use crate::kafka::{Record, Topic};
use crate::sync::Mutex;

use super::copy::{CHUNKS, COPIES};

/// Messages read at once: so many chunks are held in memory.
const AT_ONCE: usize = super::AT_ONCE;

/// See the module.
#[derive(Debug)]
pub(super) struct TopicObjects(Arc<Inner>);

struct Inner {
    topic: Topic,
    /// What the topic says up to `next`.
    view: LocalFileSystem,
    next: Mutex<u64>,
    _scratch: Scratch,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.topic.fmt(f)
    }
}

impl TopicObjects {
    pub(super) fn open(place: &str) -> Result<TopicObjects> {
        let topic = Topic::open(place)?;
        let scratch = Scratch::new(&(Arc::new(RealFs) as _), None)?;
        let view = LocalFileSystem::new_with_prefix(scratch.path()).map_err(|error| Error::Remote {
            action: "open",
            place: place.to_owned(),
            message: error.to_string(),
        })?;
        Ok(TopicObjects(Arc::new(Inner { topic, view, next: Mutex::new(0), _scratch: scratch })))
    }
}

fn cause(error: impl std::error::Error + Send + Sync + 'static) -> Cause {
    Cause::Generic { store: "kafka", source: Box::new(error) }
}

/// What a message says: the object, and its bytes or that it is gone. A name is that of a copy or a chunk: none leads anywhere else.
fn change(record: Record) -> Result<(Path, Option<Vec<u8>>), String> {
    let odd = || format!("the message at offset {} is no object of a copy: has the topic other writers?", record.offset);
    let name = std::str::from_utf8(&record.key).map_err(|_| odd())?;
    let ours = [CHUNKS, COPIES].into_iter().any(|dir| {
        let file = name.strip_prefix(dir).and_then(|rest| rest.strip_prefix('/'));
        file.is_some_and(|file| (1..=200).contains(&file.len()) && !file.contains('/'))
    });
    let path = Path::parse(name).ok().filter(|path| ours && path.as_ref() == name).ok_or_else(odd)?;
    Ok((path, record.value))
}

impl Inner {
    /// Brings the view up to the end of the topic.
    async fn catch_up(&self) -> Outcome<()> {
        loop {
            let from = *lock(&self.next);
            let found = self.topic.read(from, AT_ONCE).map_err(cause)?;
            for record in found.records {
                let said = change(record).map_err(|what| Cause::Generic { store: "kafka", source: what.into() })?;
                match said {
                    (path, Some(bytes)) => drop(self.view.put(&path, PutPayload::from(bytes)).await?),
                    (path, None) => match self.view.delete(&path).await {
                        Ok(()) | Err(Cause::NotFound { .. }) => {}
                        Err(error) => return Err(error),
                    },
                }
            }
            // Two callers may do the same at once: the same objects are written twice.
            let mut next = lock(&self.next);
            *next = found.next.max(*next);
            if found.ended {
                return Ok(());
            }
        }
    }

    fn write(&self, path: &Path, bytes: Option<Vec<u8>>) -> Outcome<()> {
        self.topic.write(&[(path.as_ref().as_bytes().to_vec(), bytes)]).map_err(cause)
    }
}

impl std::fmt::Display for TopicObjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.topic)
    }
}

fn not_supported(operation: &str) -> Cause {
    Cause::NotSupported { source: format!("{operation} of objects in a topic").into() }
}

#[async_trait]
impl ObjectStore for TopicObjects {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Outcome<PutResult> {
        match options.mode {
            PutMode::Overwrite => {}
            // Of two writers at once the later one wins: copies are named by their time and commit.
            PutMode::Create => {
                self.0.catch_up().await?;
                if self.0.view.head(path).await.is_ok() {
                    return Err(Cause::AlreadyExists { path: path.to_string(), source: "it is in the topic".into() });
                }
            }
            PutMode::Update(_) => return Err(not_supported("conditional updates")),
        }
        let bytes: Vec<u8> = payload.iter().flat_map(|part| part.iter().copied()).collect();
        self.0.write(path, Some(bytes))?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Outcome<Box<dyn MultipartUpload>> {
        Err(not_supported("writing in parts"))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Outcome<GetResult> {
        // Chunks are named by their content: what is there need not be asked for again.
        if let Ok(found) = self.0.view.get_opts(path, options.clone()).await {
            return Ok(found);
        }
        self.0.catch_up().await?;
        self.0.view.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Outcome<Path>>) -> BoxStream<'static, Outcome<Path>> {
        let inner = Arc::clone(&self.0);
        paths.map(move |path| path.and_then(|path| inner.write(&path, None).map(|()| path))).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Outcome<ObjectMeta>> {
        let (inner, prefix) = (Arc::clone(&self.0), prefix.cloned());
        let all = async move {
            match inner.catch_up().await {
                Ok(()) => inner.view.list(prefix.as_ref()),
                Err(error) => futures_util::stream::once(std::future::ready(Err(error))).boxed(),
            }
        };
        futures_util::stream::once(all).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Outcome<ListResult> {
        self.0.catch_up().await?;
        self.0.view.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Outcome<()> {
        Err(not_supported("copying"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_objects_of_copies_and_nothing_else() {
        let said = |key: &str| change(Record { offset: 3, key: key.into(), value: Some(vec![1]) });
        assert_eq!(said("chunks/ab01").unwrap(), (Path::from("chunks/ab01"), Some(vec![1])));
        assert!(said("copies/00-1").is_ok());
        for odd in ["", "chunks", "chunks/", "chunks/a/b", "chunks/../a", "/chunks/a", "other/a", "chunks/..", "copies/a%2Fb/c"] {
            assert!(said(odd).is_err_and(|what| what.contains("offset 3")), "{odd}");
        }
        assert!(change(Record { offset: 0, key: vec![0xff], value: None }).is_err());
    }
}
