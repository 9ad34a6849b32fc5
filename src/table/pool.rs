//! Work for the threads of the store.
#![forbid(unsafe_code)]

use crate::context::lock;
use crate::sync::Mutex;

/// Does all jobs, with the pool's help where there is one, and returns what they gave, in their order.
///
/// The caller takes jobs too, one after the other as all do: a thread of the pool that wakes up late, or shares its core with
/// others, does less of them and keeps nobody waiting for its share.
pub(super) fn run_all<J: Send, R: Send>(pool: Option<&rayon::ThreadPool>, jobs: Vec<J>, work: impl Fn(J) -> R + Sync) -> Vec<R> {
    let (Some(pool), true) = (pool, jobs.len() > 1) else { return jobs.into_iter().map(work).collect() };
    let helpers = (pool.current_num_threads() - 1).min(jobs.len() - 1);
    let mut results: Vec<Option<R>> = Vec::new();
    results.resize_with(jobs.len(), || None);
    let left = Mutex::new(jobs.into_iter().zip(&mut results));
    let take_jobs = || {
        loop {
            // The lock is held while a job is taken, not while it is done.
            let Some((job, result)) = lock(&left).next() else { return };
            *result = Some(work(job));
        }
    };
    pool.in_place_scope(|scope| {
        (0..helpers).for_each(|_| scope.spawn(|_| take_jobs()));
        take_jobs();
    });
    drop(left);
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::run_all;

    #[test]
    fn every_job_is_done_once_and_results_keep_their_order() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for jobs in [0usize, 1, 2, 3, 100] {
                let done: Vec<usize> = run_all(Some(&pool), (0..jobs).collect(), |job| job * 3);
                assert_eq!(done, (0..jobs).map(|job| job * 3).collect::<Vec<_>>(), "{threads} threads");
            }
        }
    }
}
