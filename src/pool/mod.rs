//! Who runs blocking work, and how much of it at most.
//!
//! Each worker waits on a channel of its own. A job goes to the worker that became idle last, whose caches
//! are warm, and wakes no other; when none is idle it waits in the queue. (One channel shared by all workers
//! means a lock around its receiver, and a second wake-up per job to hand that lock on.)
//!
//! As many jobs run as there are places. A job that may last gives its place up once it has lasted: then one
//! more worker may run beside it. So short jobs keep to a few warm workers, whatever comes at once, and jobs
//! that last keep nobody out. What depends on time alone, such as a job that has waited for too long, is the
//! overseer's: a thread that sleeps until then.

mod state;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use self::state::{Fate, Next, Place, Started, State};
pub(crate) use self::state::{Limits, Reason, Terms};

/// The overseer does little more than refuse.
const OVERSEER_STACK: usize = 128 << 10;

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
    state: Mutex<Guarded<J>>,
    /// There is something for the overseer to look at.
    overseen: Condvar,
    run: Box<dyn Fn(J) + Send + Sync>,
    refuse: fn(J, Reason),
}

struct Guarded<J> {
    jobs: State<J, Worker<J>>,
    /// Their threads, and perhaps some that have ended.
    threads: Vec<JoinHandle<()>>,
    /// When the overseer looks again; not before it is told, if at all.
    overseer_looks: Option<Instant>,
}

/// A worker's channel.
type Worker<J> = SyncSender<Work<J>>;

/// What a worker is told.
#[derive(Debug)]
enum Work<J> {
    Run(Started<J>),
    End,
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

impl<J: Send + 'static> Pool<J> {
    /// Starts the workers. A job that has waited, and does not run after all, is told to `refuse`.
    pub(crate) fn start(
        limits: Limits,
        is_stale: fn(&J) -> bool,
        refuse: fn(J, Reason),
        run: impl Fn(J) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let jobs = State::new(limits, is_stale);
        let state = Mutex::new(Guarded { jobs, threads: Vec::new(), overseer_looks: None });
        let shared = Shared { state, overseen: Condvar::new(), run: Box::new(run), refuse };
        let pool = Pool(Intake(Arc::new(shared)));
        match pool.0.start_threads(limits.workers) {
            Ok(()) => Ok(pool),
            Err(error) => {
                pool.join();
                Err(error)
            }
        }
    }

    /// Where jobs are handed in.
    pub(crate) fn intake(&self) -> Intake<J> {
        self.0.clone()
    }

    /// Waits until what is queued is done and every worker has ended. Jobs that come later are refused, and
    /// those that are not to start yet are dropped.
    pub(crate) fn join(self) {
        for worker in self.0.state().jobs.stop() {
            // It waits for exactly this, and its channel has room for one.
            let _ = worker.try_send(Work::End);
        }
        self.0.0.overseen.notify_all();
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

impl<J: Send + 'static> Intake<J> {
    /// Hands a job to a worker, or lets it wait. Gives it back when as much runs and waits as may. Never blocks.
    pub(crate) fn submit(&self, job: J, terms: Terms) -> Result<(), J> {
        let now = Instant::now();
        let mut state = self.state();
        let fate = state.jobs.hand_in(job, terms, now);
        if fate.is_none() {
            self.tell_overseer(&mut state, now);
        }
        drop(state);
        fate.map_or(Ok(()), |fate| self.settle(fate).map_err(|(job, _)| job))
    }

    /// How many jobs wait.
    pub(crate) fn queued(&self) -> usize {
        self.state().jobs.queued()
    }

    fn start_threads(&self, workers: usize) -> io::Result<()> {
        for _ in 0..workers {
            // It is idle from the start, so that no job is refused while threads are still starting.
            let worker = self.start_worker()?;
            self.state().jobs.add_idle(worker);
        }
        let intake = self.clone();
        let overseer = thread::Builder::new().name("overseer".to_owned()).stack_size(OVERSEER_STACK);
        let thread = overseer.spawn(move || intake.oversee())?;
        self.state().threads.push(thread);
        Ok(())
    }

    /// Starts a worker, which waits for what its channel brings.
    fn start_worker(&self) -> io::Result<Worker<J>> {
        let (sender, jobs) = sync_channel(1);
        let (intake, own) = (self.clone(), sender.clone());
        let thread = thread::Builder::new()
            .name("worker".to_owned())
            .stack_size(STACK)
            .spawn(move || intake.work(&own, &jobs))?;
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
                Next::Run(started) => Work::Run(started),
                Next::Wait => wait(),
                Next::End => Work::End,
            };
        }
    }

    fn done(&self, place: Place, own: &Worker<J>) -> Next<J> {
        let now = Instant::now();
        let mut state = self.state();
        let next = state.jobs.done(place, || own.clone(), now);
        self.tell_overseer(&mut state, now);
        next
    }

    /// Hands a job to its worker, which may have to start. Gives back what is refused.
    fn settle(&self, fate: Fate<J, Worker<J>>) -> Result<(), (J, Reason)> {
        let (worker, started) = match fate {
            Fate::Refused(job, reason) => return Err((job, reason)),
            Fate::Idle(worker, started) => (worker, started),
            Fate::New(started) => match self.start_worker() {
                Ok(worker) => (worker, started),
                Err(error) => {
                    log::warn!("no thread for a request: {error}");
                    self.lacks_thread(started.place);
                    return Err((started.job, Reason::Full));
                }
            },
        };
        // It waits for exactly this, and its channel has room for one.
        match worker.try_send(Work::Run(started)) {
            Err(TrySendError::Full(Work::Run(refused)) | TrySendError::Disconnected(Work::Run(refused))) => {
                self.lacks_thread(refused.place);
                Err((refused.job, Reason::Full))
            }
            _ => Ok(()),
        }
    }

    /// Gives back the place of a job that has no thread; what waits may have it.
    fn lacks_thread(&self, place: Place) {
        let mut state = self.state();
        state.jobs.lacks_thread(place);
        self.tell_overseer(&mut state, Instant::now());
    }

    /// Has the overseer look in time.
    fn tell_overseer(&self, state: &mut Guarded<J>, now: Instant) {
        let Some(time) = state.jobs.look_at(now) else { return };
        if state.overseer_looks.is_none_or(|looks| time < looks) {
            state.overseer_looks = Some(time);
            self.0.overseen.notify_one();
        }
    }

    /// Starts and refuses what waits when it is time.
    fn oversee(&self) {
        let mut state = self.state();
        while !state.jobs.is_stopping() {
            let now = Instant::now();
            if let Some(fate) = state.jobs.promote(now) {
                drop(state);
                if let Err((job, reason)) = self.settle(fate) {
                    (self.0.refuse)(job, reason);
                }
                state = self.state();
                continue;
            }
            let overseen = &self.0.overseen;
            state.overseer_looks = state.jobs.look_at(now);
            state = match state.overseer_looks {
                Some(time) => {
                    let left = time.saturating_duration_since(now);
                    overseen.wait_timeout(state, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0
                }
                None => overseen.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner()),
            };
        }
    }
}

impl<J> Intake<J> {
    fn state(&self) -> MutexGuard<'_, Guarded<J>> {
        // Nothing panics while the lock is held.
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    const LIMITS: Limits = Limits {
        workers: 1,
        workers_max: 3,
        running: usize::MAX,
        jobs: 2,
        weight: 100,
        time: Duration::from_secs(600),
    };

    const LASTS: Terms = Terms { may_last: true, weight: 0, not_before: None };

    /// How long a test waits for what must come.
    const LIMIT: Duration = Duration::from_secs(60);

    /// A pool in which job 0 runs until `free` is dropped, and what it has started.
    fn busy_pool(terms: Terms) -> (Pool<u32>, mpsc::Sender<()>, mpsc::Receiver<u32>) {
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
        assert_eq!(pool.intake().submit(0, terms), Ok(()));
        assert_eq!(has_started.recv_timeout(LIMIT), Ok(0));
        (pool, free, has_started)
    }

    #[test]
    fn finishes_what_waits_before_it_ends() {
        let (pool, free, started) = busy_pool(Terms::default());
        let intake = pool.intake();
        assert_eq!(intake.submit(1, Terms::default()), Ok(()));
        assert_eq!(intake.submit(2, LASTS), Ok(()));
        drop(free);
        pool.join();
        assert_eq!(started.try_iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(intake.submit(3, LASTS), Err(3));
        assert_eq!(intake.state().threads.len(), 0);
    }

    #[test]
    fn a_panic_costs_one_job() {
        let (done, results) = mpsc::channel();
        let limits = Limits { jobs: 10, ..LIMITS };
        let run = move |job: u32| {
            assert_ne!(job, 1, "this job is meant to panic");
            let _ = done.send(job);
        };
        let pool = Pool::start(limits, |_| false, |_, _| {}, run).unwrap();
        for job in 0..3 {
            assert!(pool.intake().submit(job, Terms::default()).is_ok());
        }
        pool.join();
        assert_eq!(results.try_iter().collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn jobs_that_last_keep_no_other_job_out() {
        let (pool, free, started) = busy_pool(LASTS);
        // Whether it has lasted by now or not.
        assert_eq!(pool.intake().submit(1, Terms::default()), Ok(()));
        assert_eq!(started.recv_timeout(LIMIT), Ok(1));
        assert_eq!(pool.intake().submit(2, LASTS), Ok(()));
        assert_eq!(started.recv_timeout(LIMIT), Ok(2));
        drop(free);
        pool.join();
    }

    #[test]
    fn a_job_starts_no_sooner_than_it_may() {
        let (pool, free, started) = busy_pool(LASTS);
        let time = Instant::now() + Duration::from_millis(30);
        let not_before = Some(time);
        assert_eq!(pool.intake().submit(1, Terms { not_before, ..Terms::default() }), Ok(()));
        assert_eq!(started.recv_timeout(LIMIT), Ok(1));
        assert!(Instant::now() >= time);
        drop(free);
        pool.join();
    }

    #[test]
    fn a_job_that_has_waited_for_too_long_is_refused_while_the_workers_are_busy() {
        static REFUSED: Mutex<Option<mpsc::Sender<(u32, Reason)>>> = Mutex::new(None);
        let (refused, refusals) = mpsc::channel();
        *REFUSED.lock().unwrap() = Some(refused);
        let refuse = |job, reason| REFUSED.lock().unwrap().as_ref().unwrap().send((job, reason)).unwrap();
        let (free, is_free) = mpsc::channel::<()>();
        let is_free = Mutex::new(is_free);
        let run = move |_| {
            let _ = is_free.lock().unwrap().recv();
        };
        let limits = Limits { time: Duration::from_millis(1), ..LIMITS };
        let pool = Pool::start(limits, |_| false, refuse, run).unwrap();
        assert_eq!(pool.intake().submit(0, Terms::default()), Ok(()));
        assert_eq!(pool.intake().submit(1, Terms::default()), Ok(()));
        assert_eq!(refusals.recv_timeout(LIMIT), Ok((1, Reason::Waited)));
        drop(free);
        pool.join();
    }
}
