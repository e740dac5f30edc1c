//! Who runs blocking work, and how much of it at most.
//!
//! Each worker waits on a channel of its own. A job goes to the worker that became idle last, whose caches
//! are warm, and wakes no other; when none is idle it waits in the queue. (One channel shared by all workers
//! means a lock around its receiver, and a second wake-up per job to hand that lock on.)
//!
//! A job that may last gives its place up once it has lasted: then one more worker may run beside it. So short
//! jobs keep to a few warm workers, whatever comes at once, and jobs that last keep nobody out. Jobs that wait
//! for that are watched by the overseer, a thread that sleeps while none does.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A job that has run for this long counts as one that lasts.
const LASTING: Duration = Duration::from_millis(20);

/// The overseer needs next to nothing.
const OVERSEER_STACK: usize = 64 << 10;

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
    /// There is something for the overseer to look at.
    overseen: Condvar,
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
    /// Jobs that wait.
    queue: VecDeque<Waiting<J>>,
    queued_weight: usize,
    /// The jobs that run and have not lasted yet, the oldest first.
    brief: VecDeque<(u64, Instant)>,
    /// Jobs that were started so far.
    started: u64,
    /// The overseer sleeps until it is told.
    overseer_sleeps: bool,
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

struct Waiting<J> {
    job: J,
    weight: usize,
    /// It gives its place up when it has lasted.
    may_last: bool,
}

/// A job to run, and its number.
type Started<J> = (J, u64);

/// What comes of a job that may last.
enum Fate<J> {
    /// This worker takes it.
    Idle(SyncSender<Work<J>>, Started<J>),
    /// A new worker takes it.
    New(Started<J>),
    /// It waits.
    Waits,
    /// There is no room for it.
    Refused(J),
}

impl<J> State<J> {
    /// Takes note of a job that starts.
    fn start(&mut self, job: J, now: Instant) -> Started<J> {
        self.started += 1;
        self.brief.push_back((self.started, now));
        (job, self.started)
    }

    /// Takes note of a job that has ended.
    fn end(&mut self, number: u64) {
        self.brief.retain(|(other, _)| *other != number);
    }

    /// Whether one more job that may last may run beside the others.
    fn has_place(&mut self, now: Instant) -> bool {
        while self.brief.front().is_some_and(|(_, since)| now.duration_since(*since) >= LASTING) {
            self.brief.pop_front();
        }
        self.brief.len() < self.limits.workers
    }

    /// Decides about a job that may last, for which there is a place.
    fn place(&mut self, job: J, now: Instant) -> Fate<J> {
        match self.idle.pop() {
            Some(worker) => Fate::Idle(worker, self.start(job, now)),
            None if self.stopping || self.count >= self.limits.workers_max => Fate::Refused(job),
            None => {
                self.count += 1;
                Fate::New(self.start(job, now))
            }
        }
    }

    /// Lets a job wait, if it may.
    fn enqueue(&mut self, job: J, weight: usize, may_last: bool) -> Result<(), J> {
        // Those for which there may be a worker in a moment do not count.
        let spare = if may_last { self.limits.workers_max.saturating_sub(self.count) } else { 0 };
        if self.is_full(weight, spare) {
            self.drop_stale();
        }
        if self.stopping || self.is_full(weight, spare) {
            return Err(job);
        }
        self.queued_weight += weight;
        self.queue.push_back(Waiting { job, weight, may_last });
        Ok(())
    }

    /// The job that has waited longest.
    fn dequeue(&mut self) -> Option<J> {
        let Waiting { job, weight, .. } = self.queue.pop_front()?;
        self.queued_weight -= weight;
        Some(job)
    }

    /// Whether one more job of this weight may not wait.
    fn is_full(&self, weight: usize, spare: usize) -> bool {
        let heavy = self.queued_weight > 0 && self.queued_weight + weight > self.limits.weight;
        heavy || self.queue.len() >= self.limits.jobs + spare
    }

    /// Makes room: what a lost session left behind must not keep its successor's requests out.
    fn drop_stale(&mut self) {
        let is_stale = self.is_stale;
        self.queue.retain(|waiting| !is_stale(&waiting.job));
        self.queued_weight = self.queue.iter().map(|waiting| waiting.weight).sum();
    }
}

/// What a worker does next.
#[derive(Debug)]
enum Work<J> {
    Job(Started<J>),
    End,
}

impl<J: Send + 'static> Pool<J> {
    /// Starts the workers. A job that waited, and for which there is no worker after all, is `refused`.
    pub(crate) fn start(
        limits: Limits,
        is_stale: fn(&J) -> bool,
        refused: fn(J),
        run: impl Fn(J) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let state = State {
            limits,
            queue: VecDeque::new(),
            queued_weight: 0,
            brief: VecDeque::with_capacity(limits.workers),
            started: 0,
            overseer_sleeps: false,
            idle: Vec::new(),
            count: limits.workers,
            threads: Vec::with_capacity(limits.workers),
            stopping: false,
            is_stale,
        };
        let (state, overseen) = (Mutex::new(state), Condvar::new());
        let pool = Pool(Intake(Arc::new(Shared { state, overseen, run: Box::new(run) })));
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
        if limits.workers_max > limits.workers {
            let intake = pool.0.clone();
            let overseer = thread::Builder::new().name("overseer".to_owned()).stack_size(OVERSEER_STACK);
            match overseer.spawn(move || intake.oversee(refused)) {
                Ok(thread) => pool.0.state().threads.push(thread),
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
            self.0.0.overseen.notify_all();
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

    /// Hands a job that may last to a worker, perhaps a new one, or lets it wait until one of those that run has
    /// lasted. Gives it back when there are as many workers, or as much waits, as there may be.
    pub(crate) fn try_start(&self, job: J) -> Result<(), J> {
        let now = Instant::now();
        let fate = {
            let mut state = self.state();
            if state.queue.is_empty() && state.has_place(now) {
                state.place(job, now)
            } else {
                state.enqueue(job, 0, true)?;
                if std::mem::take(&mut state.overseer_sleeps) {
                    self.0.overseen.notify_one();
                }
                Fate::Waits
            }
        };
        self.settle(fate)
    }

    fn settle(&self, fate: Fate<J>) -> Result<(), J> {
        let (worker, started) = match fate {
            Fate::Waits => return Ok(()),
            Fate::Refused(job) => return Err(job),
            Fate::Idle(worker, started) => (worker, started),
            Fate::New(started) => match self.start_worker() {
                Ok(worker) => (worker, started),
                Err(error) => {
                    log::warn!("no thread for a request: {error}");
                    let mut state = self.state();
                    state.count -= 1;
                    state.end(started.1);
                    return Err(started.0);
                }
            },
        };
        hand(&worker, started)
    }

    /// Starts what waits as soon as what runs has lasted.
    fn oversee(&self, refused: fn(J)) {
        let mut state = self.state();
        while !state.stopping {
            if !state.queue.front().is_some_and(|waiting| waiting.may_last) {
                // A worker takes what comes first, and looks again.
                state.overseer_sleeps = true;
                state = self.0.overseen.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
                continue;
            }
            let now = Instant::now();
            if state.has_place(now) {
                let fate = state.dequeue().map(|job| state.place(job, now));
                drop(state);
                if let Some(Err(job)) = fate.map(|fate| self.settle(fate)) {
                    refused(job);
                }
                state = self.state();
            } else {
                let oldest = state.brief.front().map_or(now, |(_, since)| *since);
                let left = (oldest + LASTING).saturating_duration_since(now);
                let waited = self.0.overseen.wait_timeout(state, left);
                state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            }
        }
    }
}

/// Hands a job to a worker that waits.
fn hand<J>(worker: &SyncSender<Work<J>>, started: Started<J>) -> Result<(), J> {
    // It waits for exactly this, and its channel has room for one.
    match worker.try_send(Work::Job(started)) {
        Err(TrySendError::Full(Work::Job((job, _))) | TrySendError::Disconnected(Work::Job((job, _)))) => {
            Err(job)
        }
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
            let started = state.start(job, Instant::now());
            drop(state);
            return hand(&worker, started);
        }
        state.enqueue(job, weight, false)
    }

    /// What the worker with this channel does next, having done its job. `None` when it is to wait: it counts as
    /// idle from here.
    fn next(&self, done: u64, worker: &SyncSender<Work<J>>) -> Option<Work<J>> {
        let mut state = self.state();
        state.end(done);
        if let Some(job) = state.dequeue() {
            if !state.queue.is_empty() && std::mem::take(&mut state.overseer_sleeps) {
                self.0.overseen.notify_one();
            }
            return Some(Work::Job(state.start(job, Instant::now())));
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
    while let Work::Job((job, number)) = next {
        // The panic hook has reported it, and the job has answered as it was dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| (intake.0.run)(job)));
        next = intake.next(number, own).unwrap_or_else(wait);
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
            |job| panic!("job {job} is refused"),
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
            drop,
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
        // All run, once those before them have lasted.
        while intake.state().count < 3 {
            thread::yield_now();
        }
        // Another one is refused, at once or when those before it have lasted.
        while !intake.state().has_place(Instant::now()) {
            thread::yield_now();
        }
        assert_eq!(intake.try_start(3), Err(3));
        drop(free);
        let mut done: Vec<_> = results.iter().take(3).collect();
        done.sort_unstable();
        assert_eq!(done, [0, 1, 2]);
        pool.join();
        assert_eq!(intake.state().threads.len(), 0);
    }

    #[test]
    fn short_jobs_keep_to_the_workers_there_are() {
        let (done, results) = mpsc::channel();
        let limits = Limits { workers: 2, workers_max: 100, jobs: 200, weight: 0 };
        let pool =
            Pool::start(limits, |_| false, drop, move |job: u32| done.send(job).unwrap_or_default()).unwrap();
        let intake = pool.intake();
        for job in 0..200 {
            assert_eq!(intake.try_start(job), Ok(()));
            // However slowly this machine runs them, two at a time may run.
            assert!(intake.state().brief.len() <= 2);
        }
        let mut done: Vec<_> = results.iter().take(200).collect();
        done.sort_unstable();
        assert!(done.into_iter().eq(0..200));
        pool.join();
    }
}
