//! Who runs blocking work, and how much of it at most.
//!
//! Each worker waits on a channel of its own. A job goes to the worker that became idle last, whose caches
//! are warm, and wakes no other; when none is idle it waits in the queue. (One channel shared by all workers
//! means a lock around its receiver, and a second wake-up per job to hand that lock on.)
//!
//! As many jobs run as there are places. A job that may last gives its place up once it has lasted: then one
//! more worker may run beside it. So short jobs keep to a few warm workers, whatever comes at once, and jobs
//! that last keep nobody out. Jobs that wait for that are watched by the overseer, a thread that sleeps while
//! none does.

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
    /// Workers that there always are, and places.
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
    /// How many run of those jobs that keep their places.
    steady: usize,
    /// Those that run of the others and have not lasted yet, the oldest first.
    brief: VecDeque<(u64, Instant)>,
    /// The others that were started so far.
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

/// A job to run, and what it takes up.
type Started<J> = (J, Place);

/// What a job that runs takes up.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// A place until it ends.
    Steady,
    /// A place until it has lasted. It has this number.
    Brief(u64),
}

/// What comes of a job.
enum Fate<J> {
    /// This worker takes it.
    Idle(SyncSender<Work<J>>, Started<J>),
    /// A new worker takes it.
    New(Started<J>),
    /// There is no room for it.
    Refused(J),
}

impl<J> State<J> {
    /// Takes note of a job that starts.
    fn start(&mut self, job: J, may_last: bool, now: Instant) -> Started<J> {
        if !may_last {
            self.steady += 1;
            return (job, Place::Steady);
        }
        self.started += 1;
        self.brief.push_back((self.started, now));
        (job, Place::Brief(self.started))
    }

    /// Takes note of a job that has ended.
    fn end(&mut self, place: Place) {
        match place {
            Place::Steady => self.steady -= 1,
            Place::Brief(number) => self.brief.retain(|(other, _)| *other != number),
        }
    }

    /// Whether one more job may run beside the others.
    fn has_place(&mut self, now: Instant) -> bool {
        while self.brief.front().is_some_and(|(_, since)| now.duration_since(*since) >= LASTING) {
            self.brief.pop_front();
        }
        self.steady + self.brief.len() < self.limits.workers
    }

    /// Decides about a job for which there is a place, if there is a worker.
    fn place(&mut self, job: J, may_last: bool, now: Instant) -> Fate<J> {
        match self.idle.pop() {
            Some(worker) => Fate::Idle(worker, self.start(job, may_last, now)),
            None if !self.has_worker() => Fate::Refused(job),
            None => {
                self.count += 1;
                Fate::New(self.start(job, may_last, now))
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

    /// The job that has waited longest, if there is a place for it.
    fn dequeue(&mut self, now: Instant) -> Option<Waiting<J>> {
        if self.queue.is_empty() || !self.has_place(now) {
            return None;
        }
        let waiting = self.queue.pop_front()?;
        self.queued_weight -= waiting.weight;
        Some(waiting)
    }

    /// What comes of the job that has waited longest, if there is a place for it.
    fn promote(&mut self, now: Instant) -> Option<Fate<J>> {
        if !self.has_place(now) || !(self.has_worker() || self.queue.front()?.may_last) {
            return None;
        }
        let waiting = self.dequeue(now)?;
        Some(self.place(waiting.job, waiting.may_last, now))
    }

    /// Whether a worker is idle, or one more may come.
    fn has_worker(&self) -> bool {
        !self.idle.is_empty() || (self.count < self.limits.workers_max && !self.stopping)
    }

    /// Whether a job waits for others to have lasted.
    fn is_overseen(&self) -> bool {
        !self.queue.is_empty() && !self.brief.is_empty()
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
            steady: 0,
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
        {
            let mut state = self.0.state();
            state.stopping = true;
            for worker in state.idle.drain(..) {
                // It waits for exactly this, and its channel has room for one.
                let _ = worker.try_send(Work::End);
            }
            self.0.0.overseen.notify_all();
        }
        // A worker may just be starting while the others are waited for.
        while let Some(thread) = self.0.take_thread() {
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

    fn take_thread(&self) -> Option<JoinHandle<()>> {
        self.state().threads.pop()
    }

    /// Hands a job that keeps its place to a worker, or lets it wait. Gives it back when as much waits as may
    /// wait. Never blocks.
    pub(crate) fn try_submit(&self, job: J, weight: usize) -> Result<(), J> {
        self.hand_in(job, weight, false)
    }

    /// The same for a job that may last, and which weighs nothing: it is given back, too, when there are as many
    /// workers as there may be.
    pub(crate) fn try_start(&self, job: J) -> Result<(), J> {
        self.hand_in(job, 0, true)
    }

    fn hand_in(&self, job: J, weight: usize, may_last: bool) -> Result<(), J> {
        let now = Instant::now();
        let mut state = self.state();
        let starts = state.queue.is_empty() && state.has_place(now) && (may_last || state.has_worker());
        if starts {
            let fate = state.place(job, may_last, now);
            drop(state);
            return self.settle(fate);
        }
        state.enqueue(job, weight, may_last)?;
        self.tell_overseer(&mut state);
        Ok(())
    }

    /// Wakes the overseer if there is something for it to look at.
    fn tell_overseer(&self, state: &mut State<J>) {
        if state.is_overseen() && std::mem::take(&mut state.overseer_sleeps) {
            self.0.overseen.notify_one();
        }
    }

    fn settle(&self, fate: Fate<J>) -> Result<(), J> {
        let (worker, started) = match fate {
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
            let now = Instant::now();
            if let Some(fate) = state.promote(now) {
                drop(state);
                if let Err(job) = self.settle(fate) {
                    refused(job);
                }
                state = self.state();
                continue;
            }
            let overseen = &self.0.overseen;
            state = match state.brief.front().filter(|_| state.is_overseen()) {
                Some((_, since)) => {
                    let left = (*since + LASTING).saturating_duration_since(now);
                    overseen.wait_timeout(state, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0
                }
                // A worker that has done its job takes what waits.
                None => {
                    state.overseer_sleeps = true;
                    overseen.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner())
                }
            };
        }
    }

    /// What the worker with this channel does next, having done its job. `None` when it is to wait: it counts as
    /// idle from here.
    fn next(&self, done: Place, worker: &SyncSender<Work<J>>) -> Option<Work<J>> {
        let mut state = self.state();
        state.end(done);
        let now = Instant::now();
        if let Some(waiting) = state.dequeue(now) {
            let started = state.start(waiting.job, waiting.may_last, now);
            self.tell_overseer(&mut state);
            return Some(Work::Job(started));
        }
        // Whether it waits or ends: what is queued is for those who free a place.
        if state.stopping || state.idle.len() >= state.limits.workers {
            state.count -= 1;
            return Some(Work::End);
        }
        state.idle.push(worker.clone());
        None
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
}

fn work<J: Send + 'static>(intake: &Intake<J>, own: &SyncSender<Work<J>>, works: &Receiver<Work<J>>) {
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
        busy_pool_by(|intake| intake.try_submit(0, 1))
    }

    fn busy_pool_by(
        start: impl Fn(&Intake<u32>) -> Result<(), u32>,
    ) -> (Pool<u32>, mpsc::Sender<()>, mpsc::Receiver<u32>) {
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
        assert_eq!(start(&pool.intake()), Ok(()));
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
        let (pool, free, results) = busy_pool_by(|intake| intake.try_start(0));
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
    fn jobs_that_last_keep_no_other_job_out() {
        let (started, has_started) = mpsc::channel();
        let (free, is_free) = mpsc::channel::<()>();
        let is_free = Mutex::new(is_free);
        let run = move |job: u32| {
            let _ = started.send(job);
            if job == 0 {
                let _ = is_free.lock().unwrap().recv();
            }
        };
        let pool = Pool::start(LIMITS, |_| false, |job| panic!("job {job} is refused"), run).unwrap();
        let intake = pool.intake();
        assert_eq!(intake.try_start(0), Ok(()));
        assert_eq!(has_started.recv(), Ok(0));
        // Whether it has lasted by now or not.
        assert_eq!(intake.try_submit(1, 1), Ok(()));
        assert_eq!(has_started.recv(), Ok(1));
        assert_eq!(intake.try_start(2), Ok(()));
        assert_eq!(has_started.recv(), Ok(2));
        drop(free);
        pool.join();
    }

    #[test]
    fn jobs_that_do_not_last_never_run_beside_more_than_there_are_places() {
        let (pool, free, results) = busy_pool();
        let intake = pool.intake();
        assert_eq!(intake.try_start(1), Ok(()));
        assert_eq!(intake.try_submit(2, 0), Ok(()));
        // The one that runs keeps its place however long it takes.
        assert!(!intake.state().has_place(Instant::now() + 10 * LASTING));
        assert_eq!(intake.state().queue.len(), 2);
        assert_eq!(intake.state().count, 1);
        drop(free);
        pool.join();
        assert_eq!(results.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
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
