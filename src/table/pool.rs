//! Work for the threads of the store.
#![forbid(unsafe_code)]

/// Does all jobs, on the pool where there is one, and returns what they gave, in their order.
pub(super) fn run_all<J: Send, R: Send>(pool: Option<&rayon::ThreadPool>, jobs: Vec<J>, work: impl Fn(J) -> R + Sync) -> Vec<R> {
    let (Some(pool), true) = (pool, jobs.len() > 1) else { return jobs.into_iter().map(work).collect() };
    let mut results: Vec<Option<R>> = Vec::new();
    results.resize_with(jobs.len(), || None);
    pool.scope(|scope| {
        let work = &work;
        for (job, result) in jobs.into_iter().zip(&mut results) {
            scope.spawn(move |_| *result = Some(work(job)));
        }
    });
    results.into_iter().flatten().collect()
}
