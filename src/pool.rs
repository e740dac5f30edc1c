//! Who runs blocking work, and how much of it at most.
//!
//! Each worker waits on a channel of its own. A job goes to the worker that became idle last, whose caches
//! are warm, and wakes no other; when none is idle it waits in the queue. (One channel shared by all workers
//! means a lock around its receiver, and a second wake-up per job to hand that lock on.)

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

/// A worker's stack. What runs on it are HTTP exchanges and JSON, neither of which recurses deeply.
const STACK: usize = 512 << 10;

/// Worker threads behind a bounded queue: a fixed number of them, and more for jobs that may last, each of
/// which ends when its job is done and enough others are idle.
///
/// Jobs are plain data; what is done with one is decided once, when the pool starts. A panic in a job costs
/// that job alone.
#[derive(Debug)]
pub(crate) struct Pool<J>(Intake<J>);

/// Where jobs are handed in. Clones share one queue.
pub(crate) struct Intake<J>(Arc<Shared<J>>);

struct Shared<J> {
    state: Mutex<State<J>>,
    run: Box<dyn Fn(J) + Send + Sync>,
}

impl<J> std::fmt::Debug for Intake<J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Intake")
    }
}

impl<J> Clone for Intake<J> {
    fn clone(&self) -> Self {
        Intake(self.0.clone())
    }
}

/// How many workers there are, and the most that may wait for one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Workers that there always are.
    pub(crate) workers: usize,
    /// Workers at most, with those for jobs that may last.
    pub(crate) workers_max: usize,
    /// Jobs.
    pub(crate) jobs: usize,
    /// Their weight in all; one job always fits.
    pub(crate) weight: usize,
}

struct State<J> {
    limits: Limits,
    /// Jobs that wait, with their weights. Empty while any worker is idle.
    queue: VecDeque<(J, usize)>,
    queued_weight: usize,
    /// The channels of the workers that wait; the last became idle last.
    idle: Vec<SyncSender<Work<J>>>,
    /// Workers that there are or that are being started.
    count: usize,
    /// Their threads, and perhaps some that have ended.
    threads: Vec<JoinHandle<()>>,
    stopping: bool,
    /// Whether nobody waits for a job any more.
    is_stale: fn(&J) -> bool,
}

impl<J> State<J> {
    /// Whether one more job of this weight may not wait.
    fn is_full(&self, weight: usize) -> bool {
        let heavy = self.queued_weight > 0 && self.queued_weight + weight > self.limits.weight;
        heavy || self.queue.len() >= self.limits.jobs
    }

    /// Makes room: what a lost session left behind must not keep its successor's requests out.
    fn drop_stale(&mut self) {
        let is_stale = self.is_stale;
        self.queue.retain(|(job, _)| !is_stale(job));
        self.queued_weight = self.queue.iter().map(|(_, weight)| weight).sum();
    }
}

/// What a worker does next.
#[derive(Debug)]
enum Work<J> {
    Job(J),
    End,
}

impl<J: Send + 'static> Pool<J> {
    /// Starts the workers.
    pub(crate) fn start(
        limits: Limits,
        is_stale: fn(&J) -> bool,
        run: impl Fn(J) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let state = State {
            limits,
            queue: VecDeque::new(),
            queued_weight: 0,
            idle: Vec::new(),
            count: limits.workers,
            threads: Vec::with_capacity(limits.workers),
            stopping: false,
            is_stale,
        };
        let pool = Pool(Intake(Arc::new(Shared { state: Mutex::new(state), run: Box::new(run) })));
        for _ in 0..limits.workers {
            match pool.0.start_worker() {
                // It is idle from the start, so that no job is refused while threads are still starting.
                Ok(worker) => pool.0.state().idle.push(worker),
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
        self.0.clone()
    }

    /// Waits until what is queued is done and every worker has ended. Jobs that come later are refused.
    pub(crate) fn join(self) {
        let threads = {
            let mut state = self.0.state();
            state.stopping = true;
            for worker in state.idle.drain(..) {
                // It waits for exactly this, and its channel has room for one.
                let _ = worker.try_send(Work::End);
            }
            std::mem::take(&mut state.threads)
        };
        for thread in threads {
            // A worker that panicked outside a job has said so on its own.
            let _ = thread.join();
        }
    }
}

impl<J: Send + 'static> Intake<J> {
    /// Starts a worker, which waits for what its channel brings.
    fn start_worker(&self) -> io::Result<SyncSender<Work<J>>> {
        let (sender, jobs) = sync_channel(1);
        let (intake, own) = (self.clone(), sender.clone());
        let thread = thread::Builder::new()
            .name("worker".to_owned())
            .stack_size(STACK)
            .spawn(move || work(&intake, &own, &jobs))?;
        let mut state = self.state();
        state.threads.retain(|thread| !thread.is_finished());
        state.threads.push(thread);
        Ok(sender)
    }

    /// Hands a job that may last to an idle worker or to a new one, or gives it back when there are as many as
    /// there may be.
    pub(crate) fn try_start(&self, job: J) -> Result<(), J> {
        let worker = {
            let mut state = self.state();
            match state.idle.pop() {
                Some(worker) => Ok(worker),
                None if state.stopping || state.count >= state.limits.workers_max => return Err(job),
                None => {
                    state.count += 1;
                    Err(())
                }
            }
        };
        let worker = worker.or_else(|()| self.start_worker());
        match worker {
            Ok(worker) => hand(&worker, job),
            Err(error) => {
                self.state().count -= 1;
                log::warn!("no thread for a request: {error}");
                Err(job)
            }
        }
    }
}

/// Hands a job to a worker that waits.
fn hand<J>(worker: &SyncSender<Work<J>>, job: J) -> Result<(), J> {
    // It waits for exactly this, and its channel has room for one.
    match worker.try_send(Work::Job(job)) {
        Err(TrySendError::Full(Work::Job(job)) | TrySendError::Disconnected(Work::Job(job))) => Err(job),
        _ => Ok(()),
    }
}

impl<J> Intake<J> {
    fn state(&self) -> MutexGuard<'_, State<J>> {
        // Nothing panics while the lock is held.
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Hands a job to an idle worker or queues it, or gives it back when as much waits as may wait. Never
    /// blocks.
    pub(crate) fn try_submit(&self, job: J, weight: usize) -> Result<(), J> {
        let mut state = self.state();
        if let Some(worker) = state.idle.pop() {
            drop(state);
            return hand(&worker, job);
        }
        if state.is_full(weight) {
            state.drop_stale();
        }
        if state.stopping || state.is_full(weight) {
            return Err(job);
        }
        state.queued_weight += weight;
        state.queue.push_back((job, weight));
        Ok(())
    }

    /// What the worker with this channel does next. `None` when it is to wait: it counts as idle from here.
    fn next(&self, worker: &SyncSender<Work<J>>) -> Option<Work<J>> {
        let mut state = self.state();
        if let Some((job, weight)) = state.queue.pop_front() {
            state.queued_weight -= weight;
            return Some(Work::Job(job));
        }
        if state.stopping || state.idle.len() >= state.limits.workers {
            state.count -= 1;
            return Some(Work::End);
        }
        state.idle.push(worker.clone());
        None
    }
}

fn work<J>(intake: &Intake<J>, own: &SyncSender<Work<J>>, works: &Receiver<Work<J>>) {
    let wait = || works.recv().unwrap_or(Work::End);
    let mut next = wait();
    while let Work::Job(job) = next {
        // The panic hook has reported it, and the job has answered as it was dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| (intake.0.run)(job)));
        next = intake.next(own).unwrap_or_else(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const LIMITS: Limits = Limits { workers: 1, workers_max: 3, jobs: 2, weight: 100 };

    /// From this number on nobody waits for a job.
    const STALE: u32 = 100;

    /// A pool of one worker that is busy until `free` is dropped, and what it has done.
    fn busy_pool() -> (Pool<u32>, mpsc::Sender<()>, mpsc::Receiver<u32>) {
        let (started, has_started) = mpsc::channel();
        let (free, is_free) = mpsc::channel::<()>();
        let (done, results) = mpsc::channel();
        let is_free = Mutex::new(is_free);
        let pool = Pool::start(
            LIMITS,
            |&job| job >= STALE,
            move |job| {
                let _ = started.send(());
                let _ = is_free.lock().unwrap().recv();
                let _ = done.send(job);
            },
        )
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
        drop(free);
        pool.join();
        assert_eq!(results.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn refuses_more_weight_than_may_wait_but_one_job_always_fits() {
        let (pool, free, results) = busy_pool();
        let intake = pool.intake();
        assert_eq!(intake.try_submit(1, 1000), Ok(()));
        assert_eq!(intake.try_submit(2, 1), Err(2));
        drop(free);
        pool.join();
        assert_eq!(results.try_iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn jobs_that_nobody_waits_for_make_room() {
        let (pool, free, results) = busy_pool();
        let intake = pool.intake();
        assert_eq!(intake.try_submit(STALE, 90), Ok(()));
        assert_eq!(intake.try_submit(1, 5), Ok(()));
        assert_eq!(intake.try_submit(2, 90), Ok(()));
        assert_eq!(intake.try_submit(3, 5), Err(3));
        drop(free);
        pool.join();
        assert_eq!(results.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_panic_costs_one_job() {
        let (done, results) = mpsc::channel();
        let limits = Limits { jobs: 10, ..LIMITS };
        let pool = Pool::start(
            limits,
            |_| false,
            move |job: u32| {
                assert_ne!(job, 1, "this job is meant to panic");
                let _ = done.send(job);
            },
        )
        .unwrap();
        for job in 0..3 {
            assert!(pool.intake().try_submit(job, 0).is_ok());
        }
        pool.join();
        assert_eq!(results.try_iter().collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn more_workers_come_for_jobs_that_last_and_go_again() {
        let (pool, free, results) = busy_pool();
        let intake = pool.intake();
        assert_eq!(intake.try_start(1), Ok(()));
        assert_eq!(intake.try_start(2), Ok(()));
        assert_eq!(intake.try_start(3), Err(3));
        assert_eq!(intake.state().count, 3);
        drop(free);
        let mut done: Vec<_> = results.iter().take(3).collect();
        done.sort_unstable();
        assert_eq!(done, [0, 1, 2]);
        pool.join();
        assert_eq!(intake.state().threads.len(), 0);
    }
}
