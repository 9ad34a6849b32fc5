//! A bounded queue of work and the threads that do it: whoever brings work waits while too much of it waits.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, PoisonError};

use crate::sync::thread::{Builder, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard};

type Job = Box<dyn FnOnce() + Send>;

/// See the module. Threads begin with the work.
pub(crate) struct Queue {
    inner: Arc<Inner>,
    threads: usize,
    most: usize,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Work came, or no more will.
    work: Condvar,
    /// Work was taken.
    room: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(usize, Job)>,
    /// What the jobs that wait weigh together.
    weight: usize,
    idle: usize,
    workers: Vec<JoinHandle<()>>,
    closed: bool,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some((weight, job)) = state.jobs.pop_front() {
                state.weight -= weight;
                self.room.notify_all();
                drop(state);
                job();
                state = self.lock();
            } else if state.closed {
                return;
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

impl Queue {
    /// Up to so many threads; jobs that weigh up to `most` together may wait. Without threads whoever brings a job does it.
    pub(crate) fn new(threads: usize, most: usize) -> Queue {
        Queue { inner: Arc::default(), threads, most }
    }

    /// Hands a job over, and waits for room before that. Once the queue is closed jobs are dropped.
    pub(crate) fn push(&self, weight: usize, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        if self.threads == 0 {
            job();
            return Ok(());
        }
        let mut state = self.inner.lock();
        while !state.closed && state.weight > 0 && state.weight + weight > self.most {
            state = self.inner.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Ok(());
        }
        if state.idle <= state.jobs.len() && state.workers.len() < self.threads {
            let inner = Arc::clone(&self.inner);
            let name = format!("embedrock-ahead-{}", state.workers.len());
            match Builder::new().name(name).spawn(move || inner.work()) {
                Ok(worker) => state.workers.push(worker),
                // Fewer threads do the same work.
                Err(error) if state.workers.is_empty() => return Err(error),
                Err(_) => {}
            }
        }
        state.weight += weight;
        state.jobs.push_back((weight, Box::new(job)));
        self.inner.work.notify_one();
        Ok(())
    }

    /// Jobs that wait.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().jobs.len()
    }

    /// Drops what waits, and returns once what is being done is done.
    pub(crate) fn close(&self) {
        let workers = {
            let mut state = self.inner.lock();
            state.closed = true;
            state.weight = 0;
            self.inner.work.notify_all();
            self.inner.room.notify_all();
            // Jobs may own what takes a while to drop, but nothing that needs this lock.
            drop(std::mem::take(&mut state.jobs));
            std::mem::take(&mut state.workers)
        };
        workers.into_iter().for_each(|worker| drop(worker.join()));
    }

    /// As in a forked child, where the threads are not.
    pub(crate) fn abandon(&self) {
        if let Ok(mut state) = self.inner.state.try_lock() {
            state.closed = true;
            std::mem::forget(std::mem::take(&mut state.workers));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::{Arc, Barrier};

    use super::Queue;

    #[test]
    fn all_work_is_done_and_whoever_brings_too_much_waits() {
        for threads in [0, 1, 3] {
            let (queue, done, most) = (Queue::new(threads, 10), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            for _ in 0..200 {
                let done = Arc::clone(&done);
                queue
                    .push(3, move || {
                        done.fetch_add(1, SeqCst);
                    })
                    .unwrap();
                most.fetch_max(queue.len(), SeqCst);
            }
            while queue.len() > 0 {
                std::thread::yield_now();
            }
            queue.close();
            assert_eq!(done.load(SeqCst), 200, "{threads} threads");
            assert!(most.load(SeqCst) <= 3, "{threads} threads: {} waited", most.load(SeqCst));
        }
    }

    #[test]
    fn a_closed_queue_drops_what_waits_and_ends_what_runs() {
        let (queue, begun) = (Arc::new(Queue::new(1, 1)), Arc::new(Barrier::new(2)));
        let done = Arc::new(AtomicUsize::new(0));
        let (barrier, count) = (Arc::clone(&begun), Arc::clone(&done));
        queue
            .push(1, move || {
                barrier.wait();
                count.fetch_add(1, SeqCst);
            })
            .unwrap();
        // Closed before its thread took it, it would be dropped too.
        while queue.len() > 0 {
            std::thread::yield_now();
        }
        let waits = |weight| {
            let (queue, count) = (Arc::clone(&queue), Arc::clone(&done));
            std::thread::spawn(move || {
                queue
                    .push(weight, move || {
                        count.fetch_add(100, SeqCst);
                    })
                    .unwrap()
            })
        };
        let others = [waits(1), waits(1)];
        while queue.len() == 0 {
            std::thread::yield_now();
        }
        let closer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.close()
        });
        others.into_iter().for_each(|other| other.join().unwrap());
        begun.wait();
        closer.join().unwrap();
        queue.push(1, || panic!("the queue is closed")).unwrap();
        assert_eq!(done.load(SeqCst), 1);
    }
}
