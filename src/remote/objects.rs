//! Objects by name, wherever they are.
#![forbid(unsafe_code)]

use std::sync::Arc;
#[cfg(feature = "testing")]
use std::sync::atomic::Ordering;

use object_store::path::Path;
use object_store::{Error as Cause, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::error::{Error, Result};
#[cfg(feature = "testing")]
use crate::sync::atomic::AtomicU64;
use crate::sync::thread;

/// See the module.
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    /// What all names begin with.
    prefix: String,
    place: String,
    runtime: Runtime,
    /// Calls until one fails, for tests; 0 for never.
    #[cfg(feature = "testing")]
    left: AtomicU64,
}

impl Objects {
    pub(super) fn open(place: &str) -> Result<Objects> {
        let failed = |message: String| Error::Remote { action: "open", place: place.to_owned(), message };
        let (store, prefix) = connect(place).map_err(failed)?;
        // Object stores over a network are driven by it too; a directory needs but its thread.
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| failed(error.to_string()))?;
        Ok(Objects {
            store,
            prefix,
            place: place.to_owned(),
            runtime,
            #[cfg(feature = "testing")]
            left: AtomicU64::new(0),
        })
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Writes objects, each whole or not at all. What is there under a name is replaced by the same.
    pub(super) fn put_all(&self, objects: Vec<(String, Vec<u8>)>) -> Result<()> {
        let puts = objects.into_iter().map(|(name, bytes)| {
            let (store, path) = (Arc::clone(&self.store), self.path(&name));
            (name, async move { store.put(&path, PutPayload::from(bytes)).await.map(drop) })
        });
        self.all("write", puts.collect()).map(drop)
    }

    /// Writes an object that must not be there.
    pub(super) fn create(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        let put = async move { store.put_opts(&path, PutPayload::from(bytes), PutMode::Create.into()).await.map(drop) };
        self.all("write", vec![(name.to_owned(), put)]).map(drop)
    }

    /// Reads objects of at most `limit` bytes each, in the order of their names given.
    pub(super) fn get_all(&self, names: &[String], limit: u64) -> Result<Vec<Vec<u8>>> {
        let gets = names.iter().map(|name| {
            let (store, path) = (Arc::clone(&self.store), self.path(name));
            let get = async move {
                let found = store.get(&path).await?;
                if found.meta.size > limit {
                    let source = format!("it has {} bytes, at most {limit} were expected", found.meta.size).into();
                    return Err(Cause::Generic { store: "object", source });
                }
                Ok(found.bytes().await?.to_vec())
            };
            (name.clone(), get)
        });
        self.all("read", gets.collect())
    }

    /// Names below a directory, without it, and sizes; in no order.
    pub(super) fn list(&self, dir: &str) -> Result<Vec<(String, u64)>> {
        let (store, path) = (Arc::clone(&self.store), self.path(dir));
        let list = async move { store.list_with_delimiter(Some(&path)).await };
        let found = self.all("list", vec![(dir.to_owned(), list)])?;
        let named = |meta: &object_store::ObjectMeta| Some((meta.location.filename()?.to_owned(), meta.size));
        Ok(found.iter().flat_map(|list| &list.objects).filter_map(named).collect())
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.prefix))
    }

    /// Runs calls side by side; results in their order, or the first failure.
    fn all<T: Send + 'static>(
        &self,
        action: &'static str,
        calls: Vec<(String, impl Future<Output = object_store::Result<T>> + Send + 'static)>,
    ) -> Result<Vec<T>> {
        let count = calls.len();
        for (name, _) in &calls {
            self.check(action, name)?;
        }
        let names: Vec<String> = calls.iter().map(|(name, _)| name.clone()).collect();
        let work = async move {
            let mut set = JoinSet::new();
            for (at, (_, call)) in calls.into_iter().enumerate() {
                set.spawn(async move { (at, call.await) });
            }
            let mut results: Vec<Option<object_store::Result<T>>> = (0..count).map(|_| None).collect();
            while let Some(Ok((at, result))) = set.join_next().await {
                results[at] = Some(result);
            }
            results
        };
        // On a thread of its own: the caller may be inside a runtime, in which another cannot be waited for.
        let results = thread::scope(|scope| scope.spawn(|| self.runtime.block_on(work)).join());
        let results = results.map_err(|_| self.failed(action, "", "the call panicked".into()))?;
        let each = results.into_iter().zip(&names);
        each.map(|(result, name)| match result {
            Some(Ok(value)) => Ok(value),
            Some(Err(cause)) => Err(self.failed(action, name, cause.to_string())),
            None => Err(self.failed(action, name, "the call panicked".into())),
        })
        .collect()
    }

    fn failed(&self, action: &'static str, name: &str, message: String) -> Error {
        Error::Remote { action, place: format!("{}/{name}", self.place), message }
    }

    #[cfg(feature = "testing")]
    pub(super) fn fail_from(&self, nth: u64) {
        self.left.store(nth, Ordering::SeqCst);
    }

    #[cfg(feature = "testing")]
    fn check(&self, action: &'static str, name: &str) -> Result<()> {
        match self.left.load(Ordering::SeqCst) {
            0 => Ok(()),
            1 => Err(self.failed(action, name, "it fails for a test".into())),
            left => {
                self.left.store(left - 1, Ordering::SeqCst);
                Ok(())
            }
        }
    }

    #[cfg(not(feature = "testing"))]
    fn check(&self, _: &'static str, _: &str) -> Result<()> {
        Ok(())
    }
}

type Connection = (Arc<dyn ObjectStore>, String);

fn connect(place: &str) -> Result<Connection, String> {
    if place == "memory:" {
        return Ok((Arc::new(object_store::memory::InMemory::new()), String::new()));
    }
    let Some((scheme, rest)) = place.split_once("://") else { return directory(place) };
    let prefix = rest.split_once('/').map_or("", |(_, prefix)| prefix).trim_matches('/').to_owned();
    match scheme {
        "file" => directory(rest),
        "s3" => s3(place).map(|store| (store, prefix)),
        "gs" => gcs(place).map(|store| (store, prefix)),
        "az" => azure(place).map(|store| (store, prefix)),
        "kafka" => kafka(place).map(|store| (store, String::new())),
        _ => Err("its scheme is none of file, s3, gs, az, kafka".into()),
    }
}

fn directory(path: &str) -> Result<Connection, String> {
    std::fs::create_dir_all(path).map_err(|error| error.to_string())?;
    let store = object_store::local::LocalFileSystem::new_with_prefix(path).map_err(|error| error.to_string())?;
    Ok((Arc::new(store.with_fsync(true)), String::new()))
}

#[cfg(feature = "s3")]
fn s3(url: &str) -> Result<Arc<dyn ObjectStore>, String> {
    let built = object_store::aws::AmazonS3Builder::from_env().with_url(url).build();
    built.map(|store| Arc::new(store) as _).map_err(|error| error.to_string())
}

#[cfg(not(feature = "s3"))]
fn s3(_: &str) -> Result<Arc<dyn ObjectStore>, String> {
    Err("this program was built without the Cargo feature s3".into())
}

#[cfg(feature = "gcs")]
fn gcs(url: &str) -> Result<Arc<dyn ObjectStore>, String> {
    let built = object_store::gcp::GoogleCloudStorageBuilder::from_env().with_url(url).build();
    built.map(|store| Arc::new(store) as _).map_err(|error| error.to_string())
}

#[cfg(not(feature = "gcs"))]
fn gcs(_: &str) -> Result<Arc<dyn ObjectStore>, String> {
    Err("this program was built without the Cargo feature gcs".into())
}

#[cfg(feature = "azure")]
fn azure(url: &str) -> Result<Arc<dyn ObjectStore>, String> {
    let built = object_store::azure::MicrosoftAzureBuilder::from_env().with_url(url).build();
    built.map(|store| Arc::new(store) as _).map_err(|error| error.to_string())
}

#[cfg(not(feature = "azure"))]
fn azure(_: &str) -> Result<Arc<dyn ObjectStore>, String> {
    Err("this program was built without the Cargo feature azure".into())
}

#[cfg(feature = "kafka")]
fn kafka(url: &str) -> Result<Arc<dyn ObjectStore>, String> {
    super::topic::TopicObjects::open(url).map(|store| Arc::new(store) as _).map_err(|error| error.to_string())
}

#[cfg(not(feature = "kafka"))]
fn kafka(_: &str) -> Result<Arc<dyn ObjectStore>, String> {
    Err("this program was built without the Cargo feature kafka".into())
}
