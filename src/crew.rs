//! The store's own threads, and when they are worth asking. The only file that names `rayon`.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The most calls in a row that the caller does by itself before helpers are asked again.
const MOST_ALONE: u32 = 512;
/// A wait that says nothing: the kernel takes so long to wake a thread.
const HANDOVER: Duration = Duration::from_micros(50);

/// See the module. One thread fewer than it counts, the caller being one.
pub(crate) struct Crew {
    pool: rayon::ThreadPool,
    patience: Patience,
}

impl Crew {
    /// Threads named after their number.
    pub(crate) fn new(threads: usize) -> Result<Crew, String> {
        let name = |index| format!("embedrock-{index}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build();
        Ok(Crew { pool: pool.map_err(|error| error.to_string())?, patience: Patience::default() })
    }

    pub(crate) fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` on the caller and on up to `helpers` of the crew, and returns when it has returned on all of them. It must be whole
    /// where only the caller runs it: helpers are left out for a while where they keep the caller waiting.
    pub(crate) fn help(&self, helpers: usize, work: impl Fn() + Sync) {
        if helpers == 0 || !self.patience.asks() {
            return work();
        }
        let begun = Instant::now();
        let done = self.pool.in_place_scope(|scope| {
            (0..helpers).for_each(|_| scope.spawn(|_| work()));
            work();
            Instant::now()
        });
        self.patience.note(done - begun, done.elapsed());
    }

    /// Runs `work` when a thread is free.
    pub(crate) fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        self.pool.spawn(work);
    }
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("threads", &self.threads()).finish()
    }
}

/// How long the caller goes on alone: twice as long each time that helpers kept it waiting longer than it had worked itself, half as long
/// each time that they did not. Helpers share their cores with whatever else runs, and one that lost its core comes back milliseconds later.
#[derive(Default)]
struct Patience {
    alone: AtomicU32,
    /// How many calls alone the next disappointment costs, but for the first.
    next: AtomicU32,
}

impl Patience {
    fn asks(&self) -> bool {
        self.alone.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err()
    }

    fn note(&self, worked: Duration, waited: Duration) {
        let next = self.next.load(Relaxed);
        if waited > worked.max(HANDOVER) {
            let alone = next.max(1);
            self.alone.store(alone, Relaxed);
            self.next.store((2 * alone).min(MOST_ALONE), Relaxed);
        } else {
            self.next.store(next / 2, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn the_caller_goes_on_alone_for_longer_the_more_often_it_was_kept_waiting() {
        let (patience, short, long) = (Patience::default(), Duration::from_millis(1), Duration::from_millis(2));
        let alone = || (0..).take_while(|_| !patience.asks()).count();
        assert_eq!(alone(), 0);
        for expected in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 512] {
            patience.note(short, long);
            assert_eq!(alone(), expected);
        }
        for _ in 0..10 {
            patience.note(long, short);
            assert_eq!(alone(), 0);
        }
        // A short call waits for the handover, which is nobody's fault.
        patience.note(Duration::from_micros(5), HANDOVER);
        assert_eq!(alone(), 0);
        patience.note(short, long);
        assert_eq!(alone(), 1);
    }

    #[test]
    fn work_is_done_whoever_comes() {
        for threads in [1, 2, 5] {
            let crew = Crew::new(threads).unwrap();
            for call in 0..20 {
                if call == 10 {
                    crew.patience.note(Duration::ZERO, Duration::from_secs(1));
                }
                let left = AtomicUsize::new(100);
                crew.help(threads - 1, || while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {});
                assert_eq!(left.into_inner(), 0);
            }
        }
    }
}
