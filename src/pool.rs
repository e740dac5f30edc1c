//! Who runs blocking work, and how much of it at most.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// A worker's stack. What runs on it are HTTP exchanges and JSON, neither of which recurses deeply.
const STACK: usize = 512 << 10;

/// A fixed number of worker threads behind a bounded queue.
///
/// Jobs are plain data; what is done with one is decided once, when the pool starts. A panic in a job costs
/// that job alone.
#[derive(Debug)]
pub(crate) struct Pool<J> {
    intake: Intake<J>,
    workers: Vec<JoinHandle<()>>,
}

/// Where jobs are handed in. Clones share one queue.
#[derive(Debug)]
pub(crate) struct Intake<J> {
    queue: SyncSender<Weighed<J>>,
    weight: Arc<AtomicUsize>,
    weight_max: usize,
}

impl<J> Clone for Intake<J> {
    fn clone(&self) -> Self {
        Intake { queue: self.queue.clone(), weight: self.weight.clone(), weight_max: self.weight_max }
    }
}

#[derive(Debug)]
struct Weighed<J> {
    job: J,
    weight: usize,
}

/// The most that may wait for a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimits {
    /// Jobs.
    pub(crate) jobs: usize,
    /// Their weight in all; one job always fits.
    pub(crate) weight: usize,
}

impl<J: Send + 'static> Pool<J> {
    /// Starts the workers.
    pub(crate) fn start(
        workers: usize,
        limits: QueueLimits,
        run: impl Fn(J) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(limits.jobs);
        let (jobs, run) = (Arc::new(Mutex::new(jobs)), Arc::new(run));
        let weight = Arc::new(AtomicUsize::new(0));
        let mut pool = Pool {
            intake: Intake { queue, weight: weight.clone(), weight_max: limits.weight },
            workers: Vec::with_capacity(workers),
        };
        for number in 0..workers {
            let (jobs, run, weight) = (jobs.clone(), run.clone(), weight.clone());
            let worker = thread::Builder::new()
                .name(format!("worker-{number}"))
                .stack_size(STACK)
                .spawn(move || work(&jobs, &weight, &*run));
            match worker {
                Ok(worker) => pool.workers.push(worker),
                Err(error) => {
                    pool.join();
                    return Err(error);
                }
            }
        }
        Ok(pool)
    }

    /// Where jobs are handed in.
    pub(crate) fn intake(&self) -> Intake<J> {
        self.intake.clone()
    }

    /// Waits until what is queued is done and every worker has ended. Every other [`Intake`] must be gone.
    pub(crate) fn join(self) {
        drop(self.intake);
        for worker in self.workers {
            // A worker that panicked outside a job has said so on its own.
            let _ = worker.join();
        }
    }
}

impl<J> Intake<J> {
    /// Queues a job, or gives it back when as much waits as may wait. Never blocks.
    pub(crate) fn try_submit(&self, job: J, weight: usize) -> Result<(), J> {
        let waiting = self.weight.fetch_add(weight, Ordering::Relaxed);
        if waiting > 0 && waiting + weight > self.weight_max {
            self.weight.fetch_sub(weight, Ordering::Relaxed);
            return Err(job);
        }
        self.queue.try_send(Weighed { job, weight }).map_err(|error| {
            self.weight.fetch_sub(weight, Ordering::Relaxed);
            match error {
                TrySendError::Full(refused) | TrySendError::Disconnected(refused) => refused.job,
            }
        })
    }
}

fn work<J>(jobs: &Mutex<Receiver<Weighed<J>>>, weight: &AtomicUsize, run: &impl Fn(J)) {
    loop {
        // A statement of its own, so that the lock is released before the job runs.
        let next = jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
        let Ok(next) = next else { return };
        weight.fetch_sub(next.weight, Ordering::Relaxed);
        // The panic hook has reported it, and the job has answered as it was dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| run(next.job)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const LIMITS: QueueLimits = QueueLimits { jobs: 2, weight: 100 };

    /// A pool of one worker that is busy until `free` is dropped, and what it has done.
    fn busy_pool() -> (Pool<u32>, mpsc::Sender<()>, mpsc::Receiver<u32>) {
        let (started, has_started) = mpsc::channel();
        let (free, is_free) = mpsc::channel::<()>();
        let (done, results) = mpsc::channel();
        let is_free = Mutex::new(is_free);
        let pool = Pool::start(1, LIMITS, move |job| {
            let _ = started.send(());
            let _ = is_free.lock().unwrap().recv();
            let _ = done.send(job);
        })
        .unwrap();
        assert!(pool.intake().try_submit(0, 1).is_ok());
        has_started.recv().unwrap();
        (pool, free, results)
    }

    #[test]
    fn refuses_more_than_may_wait_and_finishes_the_rest() {
        let (pool, free, results) = busy_pool();
        let intake = pool.intake();
        assert_eq!(intake.try_submit(1, 0), Ok(()));
        assert_eq!(intake.try_submit(2, 0), Ok(()));
        assert_eq!(intake.try_submit(3, 0), Err(3));
        drop((free, intake));
        pool.join();
        assert_eq!(results.iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn refuses_more_weight_than_may_wait_but_one_job_always_fits() {
        let (pool, free, results) = busy_pool();
        let intake = pool.intake();
        assert_eq!(intake.try_submit(1, 1000), Ok(()));
        assert_eq!(intake.try_submit(2, 1), Err(2));
        drop((free, intake));
        pool.join();
        assert_eq!(results.iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_panic_costs_one_job() {
        let (done, results) = mpsc::channel();
        let limits = QueueLimits { jobs: 10, weight: 10 };
        let pool = Pool::start(1, limits, move |job: u32| {
            assert_ne!(job, 1, "this job is meant to panic");
            let _ = done.send(job);
        })
        .unwrap();
        for job in 0..3 {
            assert!(pool.intake().try_submit(job, 0).is_ok());
        }
        pool.join();
        assert_eq!(results.iter().collect::<Vec<_>>(), [0, 2]);
    }
}
