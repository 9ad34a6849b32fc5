//! Tests of the training loop: resuming, refusals, and real ratings where they are at hand.
#![forbid(unsafe_code)]

use super::*;
use crate::train::data::Shape;
use crate::train::data::synthetic::{Clicks, Synthetic};
use crate::{Error, StoreOptions};

fn source(samples: u64) -> Box<dyn Source> {
    Box::new(Synthetic::new(Clicks { samples, users: 300, items: 100, ..Clicks::default() }).unwrap())
}

fn other_source(samples: u64) -> Box<dyn Source> {
    Box::new(Synthetic::new(Clicks { samples, users: 301, items: 100, ..Clicks::default() }).unwrap())
}

const SHAPE: Shape = Shape { keys: 2, dense: 0 };

fn options() -> DeepFmOptions {
    DeepFmOptions { factors: 4, hidden: vec![8], batch_size: 32, commit_every: 7, read_ahead: 3, ..DeepFmOptions::default() }
}

/// A store that can crash: what no commit holds is gone, and the next one finds the rest.
struct Fragile {
    dir: tempfile::TempDir,
    store: Option<Store>,
}

impl Fragile {
    fn new() -> Fragile {
        let mut fragile = Fragile { dir: tempfile::tempdir().unwrap(), store: None };
        fragile.crash();
        fragile
    }

    fn crash(&mut self) {
        self.store = None;
        let options = StoreOptions::default().memory_budget(32 << 20).hot_rows(100).max_clock_step(u32::MAX);
        self.store = Some(Store::open(self.dir.path().join("store"), options).unwrap());
    }
}

impl std::ops::Deref for Fragile {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store.as_ref().unwrap()
    }
}

fn rows(store: &Store) -> crate::Digest {
    store.digest().unwrap()
}

fn last(store: &Store) -> Vec<u8> {
    store.last_commit().unwrap().state.to_vec()
}

#[test]
fn a_resumed_job_ends_with_the_bits_of_one_never_interrupted() {
    let whole = Fragile::new();
    let report = train_deepfm(&whole, source(3_000), &options(), &mut |_| ()).unwrap();
    assert_eq!((report.samples, report.batches, report.resumed_at), (3_000, 94, None));
    let mut parts = Fragile::new();
    for most in [700, 701, 1_999] {
        let stop = DeepFmOptions { max_samples: Some(most), commit_every: 5, ..options() };
        train_deepfm(&parts, source(3_000), &stop, &mut |_| ()).unwrap();
        // What is learned after the last commit and then lost in a crash leaves no trace.
        let table = parts.create_table(options().schema(SHAPE)).unwrap();
        table.apply_gradients(&[1, 2], &[1.0; 10], &Update::at(2_000_000_000)).unwrap();
        drop(table);
        parts.crash();
    }
    let resumed = train_deepfm(&parts, source(3_000), &options(), &mut |_| ()).unwrap();
    assert!(resumed.resumed_from.is_some() && resumed.samples == 3_000 && resumed.samples_of_this_run < 1_001);
    assert_eq!(rows(&parts), rows(&whole));
    assert_eq!(last(&parts), last(&whole));
    assert_eq!((resumed.auc, resumed.logloss), (report.auc, report.logloss));
}

#[test]
fn a_longer_stream_goes_on_where_the_shorter_ended() {
    let (whole, parts) = (Fragile::new(), Fragile::new());
    train_deepfm(&whole, source(2_048), &options(), &mut |_| ()).unwrap();
    train_deepfm(&parts, source(1_024), &options(), &mut |_| ()).unwrap();
    train_deepfm(&parts, source(2_048), &options(), &mut |_| ()).unwrap();
    assert_eq!(rows(&parts), rows(&whole));
    let shorter = train_deepfm(&parts, source(1_024), &options(), &mut |_| ());
    assert!(matches!(shorter, Err(Error::InvalidOption { option: "data", .. })));
}

#[test]
fn a_crash_between_commits_goes_back_to_the_last_one() {
    struct Broken(Box<dyn Source>, u64);
    impl Source for Broken {
        fn description(&self) -> &Description {
            self.0.description()
        }
        fn fingerprint(&self) -> [u8; 32] {
            self.0.fingerprint()
        }
        fn position(&self) -> u64 {
            self.0.position()
        }
        fn seek(&mut self, position: u64) -> Result<()> {
            self.0.seek(position)
        }
        fn next(&mut self, into: &mut Samples, most: usize) -> Result<usize> {
            if self.position() >= self.1 {
                return Err(Error::Input { path: "x".into(), line: self.1, what: "broken".into() });
            }
            self.0.next(into, most)
        }
    }
    let (whole, mut broken) = (Fragile::new(), Fragile::new());
    train_deepfm(&whole, source(2_000), &options(), &mut |_| ()).unwrap();
    for at in [1_000, 1_500] {
        let result = train_deepfm(&broken, Box::new(Broken(source(2_000), at)), &options(), &mut |_| ());
        assert!(matches!(result, Err(Error::Input { .. })));
        broken.crash();
    }
    let mut shown = Vec::new();
    let report = train_deepfm(&broken, source(2_000), &options(), &mut |p| shown.push((p.samples, p.committed))).unwrap();
    assert_eq!(report.resumed_at, Some(1_344));
    assert!(shown.contains(&(1_344 + 7 * 32, true)) && shown.last() == Some(&(2_000, true)));
    assert_eq!((rows(&broken), last(&broken)), (rows(&whole), last(&whole)));
}

#[test]
fn another_input_or_other_options_are_refused() {
    let store = Fragile::new();
    train_deepfm(&store, source(100), &options(), &mut |_| ()).unwrap();
    let other = DeepFmOptions { batch_size: 33, ..options() };
    let options_error = train_deepfm(&store, source(100), &other, &mut |_| ());
    assert!(matches!(options_error, Err(Error::OtherJob(what)) if what.contains("batch size 32, not with batch size 33")));
    let data_error = train_deepfm(&store, other_source(100), &options(), &mut |_| ());
    assert!(matches!(data_error, Err(Error::OtherJob(what)) if what.contains("301 users")));
    let faster = DeepFmOptions { commit_every: 1, read_ahead: 0, ..options() };
    assert_eq!(train_deepfm(&store, source(100), &faster, &mut |_| ()).unwrap().samples_of_this_run, 0);
    let senseless = DeepFmOptions { learning_rate: Some(f32::NAN), ..options() };
    assert!(senseless.validate().is_err());
}

#[test]
fn it_learns_real_ratings_better_than_biases_do() {
    let data = std::path::Path::new("../shared/data/movielens-latest-small");
    if !data.is_dir() {
        println!("SKIPPED: {} is not there, so nothing was learned from real ratings", data.display());
        return;
    }
    let source = crate::train::data::open(data).unwrap();
    let report = train_deepfm(&Fragile::new(), source, &DeepFmOptions::default(), &mut |_| ()).unwrap();
    println!("{report}");
    assert!(report.auc.unwrap() > 0.788 && report.auc_second_half.unwrap() > 0.812 && report.logloss.unwrap() < 0.534);
}
