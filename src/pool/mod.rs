//! Threads for blocking work, and how much of it there may be.
//!
//! Each worker waits on a channel of its own. A few start with the pool, the others when a job wants one. A job goes to the
//! worker that became idle last, whose caches are warm, and wakes no other; when none is idle, and no more may start, it
//! waits in the queue. (One channel shared by all workers means a lock around its receiver, and a second wake-up per job to
//! hand that lock on.)
//!
//! A job that finds as many jobs just begun as keep the processors busy waits for one of them to end, for a millisecond at
//! most: a fast server needs a few warm threads, a slow one soon has all.
//!
//! As many jobs run as there are places. A job that may last gives its place up once it has lasted: then one
//! more worker may run beside it. So short jobs keep to a few warm workers, whatever comes at once, and jobs
//! that last keep no others out. What depends on time alone, such as a job that has waited for too long, is the
//! scheduler's: a thread that sleeps until then.

mod spec;
mod state;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Instant;

pub(crate) use self::spec::{JobSpec, PoolLimits, RefusalReason};
use self::state::{AfterJob, Dispatch, PoolPermit, PoolState, Started};
use crate::sync::{lock, wait, wait_timeout};

/// The scheduler does little more than refuse.
const SCHEDULER_STACK: usize = 128 << 10;

/// Warm threads at least.
const WARM_MIN: usize = 4;

/// A worker's stack. What runs on it are HTTP exchanges and JSON, neither of which recurses deeply.
const STACK: usize = 512 << 10;

/// How many threads keep all processors busy while others of theirs wait for a fast server. A pool starts with them.
pub(crate) fn warm_threads() -> usize {
    thread::available_parallelism().map_or(WARM_MIN, |cores| WARM_MIN.max(2 * cores.get()))
}

/// Worker threads behind a bounded queue: up to a fixed number of them, and more for jobs that may last, each of
/// which ends when its job is done and enough others are idle.
///
/// Jobs are plain data; what is done with one is decided once, when the pool starts. A panic in a job costs
/// that job alone.
#[derive(Debug)]
pub(crate) struct Pool<J>(Submitter<J>);

/// Where jobs are handed in. Clones share one queue.
pub(crate) struct Submitter<J>(Arc<PoolShared<J>>);

struct PoolShared<J> {
    state: Mutex<PoolThreads<J>>,
    /// There is something for the scheduler to look at.
    scheduled: Condvar,
    run: Box<dyn Fn(J) + Send + Sync>,
    refuse: fn(J, RefusalReason),
}

struct PoolThreads<J> {
    jobs: PoolState<J, Worker<J>>,
    /// Their threads, and perhaps some that have ended.
    threads: Vec<JoinHandle<()>>,
    /// When the scheduler looks again; not before it is woken, if at all.
    scheduler_deadline: Option<Instant>,
}

/// A worker's channel.
type Worker<J> = SyncSender<Work<J>>;

/// A message to a worker.
#[derive(Debug)]
enum Work<J> {
    Run(Started<J>),
    End,
}

impl<J> std::fmt::Debug for Submitter<J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Submitter")
    }
}

impl<J> Clone for Submitter<J> {
    fn clone(&self) -> Self {
        Submitter(self.0.clone())
    }
}

impl<J: Send + 'static> Pool<J> {
    /// Starts the pool with its warm workers. A job that has waited, and does not run after all, is passed to `refuse`.
    pub(crate) fn start(
        limits: PoolLimits,
        is_stale: fn(&J) -> bool,
        refuse: fn(J, RefusalReason),
        run: impl Fn(J) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let jobs = PoolState::new(limits, is_stale);
        let state = Mutex::new(PoolThreads { jobs, threads: Vec::new(), scheduler_deadline: None });
        let shared = PoolShared { state, scheduled: Condvar::new(), run: Box::new(run), refuse };
        let pool = Pool(Submitter(Arc::new(shared)));
        match pool.0.start_threads(limits.core_threads.min(limits.warm_threads)) {
            Ok(()) => Ok(pool),
            Err(error) => {
                pool.join();
                Err(error)
            }
        }
    }

    /// Where jobs are handed in.
    pub(crate) fn submitter(&self) -> Submitter<J> {
        self.0.clone()
    }

    /// Waits until what is queued is done and every worker has ended. Jobs that come later are refused, and
    /// those that are not to start yet are dropped.
    pub(crate) fn join(self) {
        for worker in self.0.state().jobs.stop() {
            // It waits for exactly this, and its channel has room for one.
            let _ = worker.try_send(Work::End);
        }
        self.0.0.scheduled.notify_all();
        // A worker may just be starting while the others are waited for.
        while let Some(thread) = self.0.take_thread() {
            // A worker that panicked outside a job has said so on its own.
            let _ = thread.join();
        }
        // Jobs answer as they are dropped, which is done without the lock.
        let rest = self.0.state().jobs.take_queued();
        drop(rest);
    }
}

impl<J: Send + 'static> Submitter<J> {
    /// Hands a job to a worker, or lets it wait. Gives it back when as much runs and waits as may. Never blocks.
    pub(crate) fn submit(&self, job: J, spec: JobSpec) -> Result<(), J> {
        let now = Instant::now();
        let mut state = self.state();
        let dispatch = state.jobs.submit(job, spec, now);
        if dispatch.is_none() {
            self.tell_scheduler(&mut state);
        }
        let stale = state.jobs.take_stale();
        drop(state);
        drop(stale);
        dispatch.map_or(Ok(()), |dispatch| self.settle(dispatch).map_err(|(job, _)| job))
    }

    /// How many jobs wait.
    pub(crate) fn queued(&self) -> usize {
        self.state().jobs.queued()
    }

    /// Whether a job waits that should have been started or refused long ago.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.state().jobs.is_overdue(now)
    }

    fn start_threads(&self, workers: usize) -> io::Result<()> {
        for _ in 0..workers {
            // It is idle from the start, so that no job is refused while threads are still starting.
            let worker = self.start_worker()?;
            self.state().jobs.add_idle(worker);
        }
        let submitter = self.clone();
        let scheduler = thread::Builder::new().name("scheduler".to_owned()).stack_size(SCHEDULER_STACK);
        let thread = scheduler.spawn(move || submitter.schedule())?;
        self.state().threads.push(thread);
        Ok(())
    }

    /// Starts a worker, which waits for what its channel brings.
    fn start_worker(&self) -> io::Result<Worker<J>> {
        let (sender, jobs) = sync_channel(1);
        let (submitter, own) = (self.clone(), sender.clone());
        let thread = thread::Builder::new()
            .name("worker".to_owned())
            .stack_size(STACK)
            .spawn(move || submitter.work(&own, &jobs))?;
        let mut state = self.state();
        state.threads.retain(|thread| !thread.is_finished());
        state.threads.push(thread);
        Ok(sender)
    }

    fn take_thread(&self) -> Option<JoinHandle<()>> {
        self.state().threads.pop()
    }

    fn work(&self, own: &Worker<J>, works: &Receiver<Work<J>>) {
        let wait = || works.recv().unwrap_or(Work::End);
        let mut next = wait();
        while let Work::Run(Started { job, place }) = next {
            // The panic hook has reported it, and the job has answered as it was dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.0.run)(job)));
            next = match self.done(place, own) {
                AfterJob::Run(started) => Work::Run(started),
                AfterJob::Wait => wait(),
                AfterJob::End => Work::End,
            };
        }
    }

    fn done(&self, place: PoolPermit, own: &Worker<J>) -> AfterJob<J> {
        let now = Instant::now();
        let mut state = self.state();
        let next = state.jobs.done(place, || own.clone(), now);
        self.tell_scheduler(&mut state);
        next
    }

    /// Hands a job to its worker, which may have to start. Gives back what is refused.
    fn settle(&self, dispatch: Dispatch<J, Worker<J>>) -> Result<(), (J, RefusalReason)> {
        let (worker, started) = match dispatch {
            Dispatch::Refused(job, reason) => return Err((job, reason)),
            Dispatch::Idle(worker, started) => (worker, started),
            Dispatch::New(started) => match self.start_worker() {
                Ok(worker) => (worker, started),
                Err(error) => {
                    log::warn!("no thread for a request, which waits for another one: {error}");
                    return self.spawn_failed(started);
                }
            },
        };
        // It waits for exactly this, and its channel has room for one.
        match worker.try_send(Work::Run(started)) {
            Err(TrySendError::Full(Work::Run(started)) | TrySendError::Disconnected(Work::Run(started))) => {
                self.spawn_failed(started)
            }
            _ => Ok(()),
        }
    }

    /// Has a job without a thread wait for another worker. Gives it back when there is none.
    fn spawn_failed(&self, started: Started<J>) -> Result<(), (J, RefusalReason)> {
        let mut state = self.state();
        let waits = state.jobs.spawn_failed(started, Instant::now());
        self.tell_scheduler(&mut state);
        waits.map_err(|job| (job, RefusalReason::Full))
    }

    /// Has the scheduler look in time.
    fn tell_scheduler(&self, state: &mut PoolThreads<J>) {
        let Some(time) = state.jobs.next_deadline() else { return };
        if state.scheduler_deadline.is_none_or(|looks| time < looks) {
            state.scheduler_deadline = Some(time);
            self.0.scheduled.notify_one();
        }
    }

    /// Starts and refuses what waits when it is time.
    fn schedule(&self) {
        let mut state = self.state();
        while !state.jobs.is_stopping() {
            let now = Instant::now();
            if let Some(dispatch) = state.jobs.dispatch_next(now) {
                drop(state);
                if let Err((job, reason)) = self.settle(dispatch) {
                    (self.0.refuse)(job, reason);
                }
                state = self.state();
                continue;
            }
            let scheduled = &self.0.scheduled;
            state.scheduler_deadline = state.jobs.next_deadline();
            state = match state.scheduler_deadline {
                Some(time) => {
                    let left = time.saturating_duration_since(now);
                    wait_timeout(scheduled, state, left)
                }
                None => wait(scheduled, state),
            };
        }
    }
}

impl<J> Submitter<J> {
    fn state(&self) -> MutexGuard<'_, PoolThreads<J>> {
        lock(&self.0.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    const LIMITS: PoolLimits = PoolLimits {
        core_threads: 1,
        warm_threads: usize::MAX,
        max_threads: 3,
        max_running: usize::MAX,
        queue_len: 2,
        queue_bytes: 100,
        queue_timeout: Duration::from_secs(600),
    };

    const LASTS: JobSpec = JobSpec::LASTING;

    /// How long a test waits for what must come.
    const LIMIT: Duration = Duration::from_secs(60);

    /// A pool in which job 0 runs until `free` is dropped, and what it has started.
    fn busy_pool(spec: JobSpec) -> (Pool<u32>, mpsc::Sender<()>, mpsc::Receiver<u32>) {
        let (started, has_started) = mpsc::channel();
        let (free, is_free) = mpsc::channel::<()>();
        let is_free = Mutex::new(is_free);
        let run = move |job: u32| {
            let _ = started.send(job);
            if job == 0 {
                let _ = is_free.lock().unwrap().recv();
            }
        };
        let pool = Pool::start(LIMITS, |_| false, |job, _| panic!("job {job} is refused"), run).unwrap();
        assert_eq!(pool.submitter().submit(0, spec), Ok(()));
        assert_eq!(has_started.recv_timeout(LIMIT), Ok(0));
        (pool, free, has_started)
    }

    #[test]
    fn finishes_what_waits_before_it_ends() {
        let (pool, free, started) = busy_pool(JobSpec::STEADY);
        let submitter = pool.submitter();
        assert_eq!(submitter.submit(1, JobSpec::STEADY), Ok(()));
        assert_eq!(submitter.submit(2, LASTS), Ok(()));
        drop(free);
        pool.join();
        assert_eq!(started.try_iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(submitter.submit(3, LASTS), Err(3));
        assert_eq!(submitter.state().threads.len(), 0);
    }

    /// A job that looks at the queue as it is dropped: it would wait for ever where that is done with the lock.
    struct NosyJob {
        is_stale: bool,
        queue: Option<Submitter<NosyJob>>,
        dropped: mpsc::Sender<usize>,
    }

    impl Drop for NosyJob {
        fn drop(&mut self) {
            let queued = self.queue.as_ref().map(Submitter::queued);
            let _ = self.dropped.send(queued.unwrap_or_default());
        }
    }

    #[test]
    fn stale_jobs_that_make_room_are_dropped_without_the_lock() {
        let (dropped, is_dropped) = mpsc::channel();
        let (free, is_free) = mpsc::channel::<()>();
        let is_free = Mutex::new(is_free);
        let run = move |job: NosyJob| {
            let _ = is_free.lock().unwrap().recv();
            drop(job);
        };
        let pool = Pool::start(LIMITS, |job: &NosyJob| job.is_stale, |job, _| drop(job), run).unwrap();
        let job = |is_stale| NosyJob { is_stale, queue: Some(pool.submitter()), dropped: dropped.clone() };
        // One runs, and as many wait as may.
        for is_stale in [false, true, true] {
            assert!(pool.submitter().submit(job(is_stale), JobSpec::STEADY).is_ok());
        }
        let (submitter, fresh) = (pool.submitter(), job(false));
        let submitting = std::thread::spawn(move || submitter.submit(fresh, JobSpec::STEADY).is_ok());
        // The new one waits in their place by then.
        assert_eq!(is_dropped.recv_timeout(LIMIT), Ok(1));
        assert_eq!(is_dropped.recv_timeout(LIMIT), Ok(1));
        assert!(submitting.join().unwrap());
        drop(free);
        pool.join();
    }

    #[test]
    fn a_panic_costs_one_job() {
        let (done, results) = mpsc::channel();
        let limits = PoolLimits { queue_len: 10, ..LIMITS };
        let run = move |job: u32| {
            assert_ne!(job, 1, "this job is meant to panic");
            let _ = done.send(job);
        };
        let pool = Pool::start(limits, |_| false, |_, _| {}, run).unwrap();
        for job in 0..3 {
            assert!(pool.submitter().submit(job, JobSpec::STEADY).is_ok());
        }
        pool.join();
        assert_eq!(results.try_iter().collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn jobs_that_last_keep_no_other_job_out() {
        let (pool, free, started) = busy_pool(LASTS);
        // Whether it has lasted by now or not.
        assert_eq!(pool.submitter().submit(1, JobSpec::STEADY), Ok(()));
        assert_eq!(started.recv_timeout(LIMIT), Ok(1));
        assert_eq!(pool.submitter().submit(2, LASTS), Ok(()));
        assert_eq!(started.recv_timeout(LIMIT), Ok(2));
        drop(free);
        pool.join();
    }

    #[test]
    fn a_job_starts_no_sooner_than_it_may() {
        let (pool, free, started) = busy_pool(LASTS);
        let time = Instant::now() + Duration::from_millis(30);
        let not_before = Some(time);
        assert_eq!(pool.submitter().submit(1, JobSpec { not_before, ..JobSpec::STEADY }), Ok(()));
        assert_eq!(started.recv_timeout(LIMIT), Ok(1));
        assert!(Instant::now() >= time);
        drop(free);
        pool.join();
    }

    #[test]
    fn a_job_that_has_waited_for_too_long_is_refused_while_the_workers_are_busy() {
        static REFUSED: Mutex<Option<mpsc::Sender<(u32, RefusalReason)>>> = Mutex::new(None);
        let (refused, refusals) = mpsc::channel();
        *REFUSED.lock().unwrap() = Some(refused);
        let refuse = |job, reason| REFUSED.lock().unwrap().as_ref().unwrap().send((job, reason)).unwrap();
        let (free, is_free) = mpsc::channel::<()>();
        let is_free = Mutex::new(is_free);
        let run = move |_| {
            let _ = is_free.lock().unwrap().recv();
        };
        let limits = PoolLimits { queue_timeout: Duration::from_millis(1), ..LIMITS };
        let pool = Pool::start(limits, |_| false, refuse, run).unwrap();
        assert_eq!(pool.submitter().submit(0, JobSpec::STEADY), Ok(()));
        assert_eq!(pool.submitter().submit(1, JobSpec::STEADY), Ok(()));
        assert_eq!(refusals.recv_timeout(LIMIT), Ok((1, RefusalReason::Expired)));
        drop(free);
        pool.join();
    }
}
