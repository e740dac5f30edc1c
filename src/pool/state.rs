//! Which job runs when: the rules of the pool, with time as an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::spec::{JobKind, JobSpec, PoolLimits, RefusalReason};
use crate::vitals::GRACE;

/// A job that has run for this long counts as one that lasts.
pub(super) const LASTING: Duration = Duration::from_millis(20);

/// A job that has run for less than this is probably about to end.
const YOUNG: Duration = Duration::from_millis(1);

/// How long no thread is asked for after the system gave none.
const SHORTAGE: Duration = Duration::from_secs(1);

/// Between two searches for stale jobs: each goes through the whole queue.
const STALE_EVERY: Duration = Duration::from_millis(100);

/// The jobs `J` that wait, and the workers `W` that do.
pub(super) struct PoolState<J, W> {
    limits: PoolLimits,
    /// Those that may start, in the order in which they do.
    queue: VecDeque<QueuedJob<J>>,
    /// Those that may not start yet, by when they may and in the order in which they came: they hold up no others.
    delayed: BTreeMap<(Instant, u64), QueuedJob<J>>,
    /// How many were delayed so far.
    delays: u64,
    queued_weight: usize,
    /// How many jobs run.
    running: usize,
    /// Those of them that keep their places.
    steady: usize,
    /// The running jobs that may last and still hold their permit, the oldest first.
    brief: VecDeque<(u64, Instant)>,
    /// The number of jobs that may last and were started so far.
    started: u64,
    /// The last became idle last.
    idle: Vec<W>,
    /// Workers that there are or that are being started.
    count: usize,
    /// Until when no more threads start, since the system gave none.
    shortage: Option<Instant>,
    stopping: bool,
    /// Whether a job is not wanted any more.
    is_stale: fn(&J) -> bool,
    looked_for_stale: Option<Instant>,
    /// Stale jobs that made room, and are to be dropped.
    stale: Vec<J>,
}

struct QueuedJob<J> {
    job: J,
    spec: JobSpec,
    /// When it will have waited for too long.
    expires: Instant,
}

/// A job to run, and what it takes up.
#[derive(Debug)]
pub(super) struct Started<J> {
    pub(super) job: J,
    pub(super) place: PoolPermit,
}

/// The place that a running job takes up.
#[derive(Debug, Clone, Copy)]
pub(super) enum PoolPermit {
    /// A place until it ends.
    Steady,
    /// A place until it has lasted. It has this number.
    Brief(u64),
}

/// The decision on a job.
#[derive(Debug)]
pub(super) enum Dispatch<J, W> {
    /// This worker takes it.
    Idle(W, Started<J>),
    /// A new worker takes it.
    New(Started<J>),
    Refused(J, RefusalReason),
}

/// The next step of a worker that has done its job.
#[derive(Debug)]
pub(super) enum AfterJob<J> {
    Run(Started<J>),
    /// It waits, and counts as idle.
    Wait,
    End,
}

impl<J, W> PoolState<J, W> {
    pub(super) fn new(limits: PoolLimits, is_stale: fn(&J) -> bool) -> Self {
        PoolState {
            limits,
            queue: VecDeque::new(),
            delayed: BTreeMap::new(),
            delays: 0,
            queued_weight: 0,
            running: 0,
            steady: 0,
            brief: VecDeque::with_capacity(limits.core_threads),
            started: 0,
            idle: Vec::with_capacity(limits.core_threads),
            count: 0,
            shortage: None,
            stopping: false,
            is_stale,
            looked_for_stale: None,
            stale: Vec::new(),
        }
    }

    /// A worker has started, and waits.
    pub(super) fn add_idle(&mut self, worker: W) {
        self.count += 1;
        self.idle.push(worker);
    }

    /// Takes no more jobs. Returns the workers that wait.
    pub(super) fn stop(&mut self) -> Vec<W> {
        self.stopping = true;
        std::mem::take(&mut self.idle)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// How many jobs wait.
    pub(super) fn queued(&self) -> usize {
        self.queue.len() + self.delayed.len()
    }

    /// Takes the stale jobs that made room: they may do anything as they are dropped, which is done without the lock.
    pub(super) fn take_stale(&mut self) -> Vec<J> {
        std::mem::take(&mut self.stale)
    }

    /// Takes the jobs that still wait.
    pub(super) fn take_queued(&mut self) -> Vec<J> {
        self.queued_weight = 0;
        let delayed = std::mem::take(&mut self.delayed).into_values();
        self.queue.drain(..).chain(delayed).map(|waiting| waiting.job).collect()
    }

    /// Decides on a new job; nothing when it waits.
    pub(super) fn submit(&mut self, job: J, spec: JobSpec, now: Instant) -> Option<Dispatch<J, W>> {
        self.advance(now);
        let is_first = self.queue.is_empty() && spec.not_before.is_none_or(|time| time <= now);
        if is_first && self.may_start(spec.kind, now) {
            return Some(self.place(job, spec.kind, now));
        }
        self.enqueue(job, spec, now).err().map(|job| Dispatch::Refused(job, RefusalReason::Full))
    }

    /// Decides on the job that has waited longest; nothing when it goes on waiting.
    pub(super) fn dispatch_next(&mut self, now: Instant) -> Option<Dispatch<J, W>> {
        self.advance(now);
        let first = self.queue.front()?;
        let kind = first.spec.kind;
        if first.expires <= now {
            let waiting = self.pop()?;
            return Some(Dispatch::Refused(waiting.job, RefusalReason::Expired));
        }
        let waiting = if self.may_start(kind, now) { self.dequeue(now) } else { None }?;
        Some(self.place(waiting.job, kind, now))
    }

    /// When to look at what waits again, though no job has ended.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let first = self.queue.front().map(|first| {
            let starts = match self.has_permit() {
                true => self.warm_until(first.spec.kind).max(self.short_until()),
                false => self.brief.front().map(|(_, since)| *since + LASTING),
            };
            starts.map_or(first.expires, |starts| starts.min(first.expires))
        });
        let delayed = self.delayed.first_key_value().map(|((time, _), _)| *time);
        first.into_iter().chain(delayed).min()
    }

    /// The next step of the worker that has done the job with this place.
    pub(super) fn done(
        &mut self,
        place: PoolPermit,
        worker: impl FnOnce() -> W,
        now: Instant,
    ) -> AfterJob<J> {
        self.end(place);
        self.advance(now);
        if let Some(waiting) = self.dequeue(now) {
            return AfterJob::Run(self.start(waiting.job, waiting.spec.kind, now));
        }
        if self.stopping || self.idle.len() >= self.limits.core_threads {
            self.count -= 1;
            return AfterJob::End;
        }
        self.idle.push(worker());
        AfterJob::Wait
    }

    /// There is no thread for a job after all: that of a new worker did not start, or an old one is gone. The job is the
    /// next to run on another worker, without its weight; where there is none, it is given back.
    pub(super) fn spawn_failed(&mut self, started: Started<J>, now: Instant) -> Result<(), J> {
        let Started { job, place } = started;
        self.count -= 1;
        self.end(place);
        self.shortage = Some(now + SHORTAGE);
        if self.count == 0 || self.stopping {
            return Err(job);
        }
        let kind = match place {
            PoolPermit::Steady => JobKind::Steady,
            PoolPermit::Brief(_) => JobKind::Lasting,
        };
        let spec = JobSpec { kind, ..JobSpec::STEADY };
        self.queue.push_front(QueuedJob { job, spec, expires: now + self.limits.queue_timeout });
        Ok(())
    }

    fn start(&mut self, job: J, kind: JobKind, now: Instant) -> Started<J> {
        self.running += 1;
        if kind == JobKind::Steady {
            self.steady += 1;
            return Started { job, place: PoolPermit::Steady };
        }
        self.started += 1;
        self.brief.push_back((self.started, now));
        Started { job, place: PoolPermit::Brief(self.started) }
    }

    fn end(&mut self, place: PoolPermit) {
        self.running -= 1;
        match place {
            PoolPermit::Steady => self.steady -= 1,
            PoolPermit::Brief(number) => self.brief.retain(|(other, _)| *other != number),
        }
    }

    /// Lets the jobs wait for a worker that may start by now, and takes the permits of those that have lasted.
    fn advance(&mut self, now: Instant) {
        while let Some(first) = self.delayed.first_entry().filter(|first| first.key().0 <= now) {
            self.queue.push_back(first.remove());
        }
        while self.brief.front().is_some_and(|(_, since)| now.duration_since(*since) >= LASTING) {
            self.brief.pop_front();
        }
    }

    /// Whether one more job may run beside the others.
    fn has_permit(&self) -> bool {
        self.steady + self.brief.len() < self.limits.core_threads && self.running < self.limits.max_running
    }

    /// Whether a job is to start on a thread that waits, or on a new one.
    fn may_start(&self, kind: JobKind, now: Instant) -> bool {
        let is_warm = self.warm_until(kind).is_some_and(|until| now < until);
        let may_be_refused = kind == JobKind::Lasting && !self.lacks_threads(now);
        self.has_permit() && !is_warm && (may_be_refused || self.has_worker(now))
    }

    /// Until when enough threads are about to be free for a job to wait for one of them: each thread that is woken
    /// besides costs two switches between threads, and works on cold caches. Jobs that keep their permits wait for none.
    fn warm_until(&self, kind: JobKind) -> Option<Instant> {
        let nth = self.brief.len().checked_sub(self.limits.warm_threads)?;
        let (_, since) = self.brief.get(nth).filter(|_| kind == JobKind::Lasting)?;
        Some(*since + YOUNG)
    }

    /// Whether a worker is idle, or one more may come.
    fn has_worker(&self, now: Instant) -> bool {
        let may_come = self.count < self.limits.max_threads && !self.stopping && !self.lacks_threads(now);
        !self.idle.is_empty() || may_come
    }

    /// Until when a job waits that could have a thread of its own if the system gave one.
    fn short_until(&self) -> Option<Instant> {
        self.shortage.filter(|_| self.idle.is_empty() && self.count < self.limits.max_threads)
    }

    /// Whether the system has just given no thread, while there are workers for which a job can wait.
    fn lacks_threads(&self, now: Instant) -> bool {
        self.count > 0 && self.shortage.is_some_and(|until| now < until)
    }

    /// Decides about a job for which there is a place, if there is a worker.
    fn place(&mut self, job: J, kind: JobKind, now: Instant) -> Dispatch<J, W> {
        match self.idle.pop() {
            Some(worker) => Dispatch::Idle(worker, self.start(job, kind, now)),
            None if !self.has_worker(now) => Dispatch::Refused(job, RefusalReason::Full),
            None => {
                self.count += 1;
                Dispatch::New(self.start(job, kind, now))
            }
        }
    }

    /// Lets a job wait, if it may.
    fn enqueue(&mut self, job: J, spec: JobSpec, now: Instant) -> Result<(), J> {
        // Those for which there may be a worker in a moment do not count.
        let workers = self.limits.max_threads.saturating_sub(self.count) + self.idle.len();
        let permits = match spec.kind {
            JobKind::Steady => self.limits.core_threads.saturating_sub(self.steady + self.brief.len()),
            JobKind::Lasting => usize::MAX,
        };
        let spare = workers.min(permits).min(self.limits.max_running.saturating_sub(self.running));
        if self.is_full(spec.weight, spare)
            && self.looked_for_stale.is_none_or(|last| now >= last + STALE_EVERY)
        {
            self.looked_for_stale = Some(now);
            self.set_stale_aside();
        }
        if self.stopping || self.is_full(spec.weight, spare) {
            return Err(job);
        }
        self.queued_weight += spec.weight;
        // While it may not start it does not wait for a worker.
        let starts = spec.not_before.filter(|time| *time > now);
        let waiting = QueuedJob { job, spec, expires: starts.unwrap_or(now) + self.limits.queue_timeout };
        match starts {
            None => self.queue.push_back(waiting),
            Some(time) => {
                self.delays += 1;
                self.delayed.insert((time, self.delays), waiting);
            }
        }
        Ok(())
    }

    /// Whether a job waits that should have been started or refused long ago.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let first = self.queue.front().map(|first| first.expires);
        let delayed = self.delayed.first_key_value().map(|((time, _), _)| *time);
        first.into_iter().chain(delayed).any(|time| now.saturating_duration_since(time) > GRACE)
    }

    /// The job that has waited longest, if it may start.
    fn dequeue(&mut self, now: Instant) -> Option<QueuedJob<J>> {
        let first = self.queue.front()?;
        // One that has waited for too long is the scheduler's to refuse.
        if now < first.expires && self.has_permit() { self.pop() } else { None }
    }

    fn pop(&mut self) -> Option<QueuedJob<J>> {
        let waiting = self.queue.pop_front()?;
        self.queued_weight -= waiting.spec.weight;
        Some(waiting)
    }

    /// Whether one more job of this weight may not wait.
    fn is_full(&self, weight: usize, spare: usize) -> bool {
        let heavy = self.queued_weight > 0 && self.queued_weight + weight > self.limits.queue_bytes;
        heavy || self.queued() >= self.limits.queue_len.saturating_add(spare)
    }

    /// Makes room: the jobs of a lost session must not keep its successor's requests out.
    fn set_stale_aside(&mut self) {
        let is_stale = self.is_stale;
        let (stale, fresh): (VecDeque<_>, _) =
            std::mem::take(&mut self.queue).into_iter().partition(|waiting| is_stale(&waiting.job));
        self.queue = fresh;
        let delayed = std::mem::take(&mut self.delayed);
        let (stale_delayed, delayed): (BTreeMap<_, _>, _) =
            delayed.into_iter().partition(|(_, waiting)| is_stale(&waiting.job));
        self.delayed = delayed;
        self.stale.extend(stale.into_iter().chain(stale_delayed.into_values()).map(|waiting| waiting.job));
        let waiting = self.queue.iter().chain(self.delayed.values());
        self.queued_weight = waiting.map(|waiting| waiting.spec.weight).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PoolLimits = PoolLimits {
        core_threads: 2,
        warm_threads: usize::MAX,
        max_threads: 4,
        max_running: usize::MAX,
        queue_len: 2,
        queue_bytes: 100,
        queue_timeout: Duration::from_secs(10),
    };

    /// From this number on jobs are stale.
    const STALE: u32 = 100;

    const KEEPS: JobSpec = JobSpec::STEADY;
    const LASTS: JobSpec = JobSpec::LASTING;

    /// A pool's state and the jobs that run; times are milliseconds.
    struct Test {
        state: PoolState<u32, ()>,
        start: Instant,
        running: Vec<Started<u32>>,
    }

    impl Test {
        fn new(limits: PoolLimits) -> Self {
            Test::with_idle(limits, limits.core_threads)
        }

        /// A pool of which so many threads have started.
        fn with_idle(limits: PoolLimits, idle: usize) -> Self {
            let mut state = PoolState::new(limits, |job| *job >= STALE);
            (0..idle).for_each(|_| state.add_idle(()));
            Test { state, start: Instant::now(), running: Vec::new() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn note(&mut self, fate: Option<Dispatch<u32, ()>>) -> &'static str {
            let (what, started) = match fate {
                None => return "waits",
                Some(Dispatch::Refused(_, RefusalReason::Full)) => return "full",
                Some(Dispatch::Refused(_, RefusalReason::Expired)) => return "waited",
                Some(Dispatch::Idle((), started)) => ("idle", started),
                Some(Dispatch::New(started)) => ("new", started),
            };
            self.running.push(started);
            what
        }

        /// A job comes.
        #[track_caller]
        fn comes(&mut self, ms: u64, job: u32, spec: JobSpec, expected: &str) {
            let fate = self.state.submit(job, spec, self.at(ms));
            assert_eq!(self.note(fate), expected, "job {job} at {ms} ms");
        }

        /// The scheduler looks.
        #[track_caller]
        fn looks(&mut self, ms: u64, expected: &str) {
            let fate = self.state.dispatch_next(self.at(ms));
            let fate = if fate.is_none() { "nothing" } else { self.note(fate) };
            assert_eq!(fate, expected, "at {ms} ms");
            if fate == "nothing" {
                // It looks again later, never at once.
                assert!(self.state.next_deadline().is_none_or(|time| time > self.at(ms)));
            }
        }

        /// When the scheduler looks next.
        #[track_caller]
        fn looks_next(&self, expected: Option<u64>) {
            let next = self.state.next_deadline();
            assert_eq!(next.map(|time| (time - self.start).as_millis() as u64), expected);
        }

        /// A job ends; its worker runs this one next, or waits, or ends.
        #[track_caller]
        fn ends(&mut self, ms: u64, job: u32, expected: &str) {
            let index = self.running.iter().position(|started| started.job == job).expect("it runs");
            let place = self.running.swap_remove(index).place;
            let got = match self.state.done(place, || (), self.at(ms)) {
                AfterJob::Run(started) => {
                    let job = started.job.to_string();
                    self.running.push(started);
                    job
                }
                AfterJob::Wait => "wait".to_owned(),
                AfterJob::End => "end".to_owned(),
            };
            assert_eq!(got, expected, "after job {job} at {ms} ms");
        }
    }

    #[test]
    fn as_many_run_as_there_are_places_and_no_more_wait_than_may() {
        let mut t = Test::new(LIMITS);
        t.comes(0, 1, KEEPS, "idle");
        t.comes(0, 2, KEEPS, "idle");
        t.comes(0, 3, KEEPS, "waits");
        t.comes(0, 4, KEEPS, "waits");
        t.comes(0, 5, KEEPS, "full");
        // However long it takes: these keep their places.
        t.looks(9_999, "nothing");
        t.ends(9_999, 2, "3");
        t.ends(9_999, 1, "4");
        t.ends(9_999, 3, "wait");
    }

    /// Six threads, of which two are warm.
    const WARM: PoolLimits = PoolLimits { core_threads: 6, warm_threads: 2, max_threads: 8, ..LIMITS };

    #[test]
    fn threads_start_when_a_job_wants_one_and_stay() {
        let mut t = Test::with_idle(LIMITS, 0);
        t.comes(0, 1, KEEPS, "new");
        t.ends(0, 1, "wait");
        t.comes(1, 2, KEEPS, "idle");
        t.comes(1, 3, KEEPS, "new");
        // As many are queued as when all had been there from the start.
        t.comes(1, 4, KEEPS, "waits");
        t.comes(1, 5, KEEPS, "waits");
        t.comes(1, 6, KEEPS, "full");
        t.ends(2, 2, "4");
        t.ends(2, 3, "5");
        t.ends(3, 4, "wait");
        t.ends(3, 5, "wait");
        t.comes(4, 7, LASTS, "idle");
        t.comes(4, 8, LASTS, "idle");
    }

    #[test]
    fn a_job_waits_for_another_worker_while_the_system_gives_no_thread() {
        for kind in [KEEPS, LASTS] {
            let mut t = Test::with_idle(LIMITS, 1);
            t.comes(0, 1, kind, "idle");
            t.comes(0, 2, kind, "new");
            let started = t.running.pop().unwrap();
            assert_eq!(t.state.spawn_failed(started, t.at(0)), Ok(()));
            t.comes(1, 3, kind, "waits");
            t.looks(1, "nothing");
            // The first to come is the first to run.
            t.ends(2, 1, "2");
            t.looks(3, "nothing");
            // A thread is asked for again, without a job's having ended.
            assert_eq!(t.state.next_deadline(), Some(t.at(1000)));
            t.looks(1000, "new");
        }
    }

    #[test]
    fn a_job_is_refused_when_there_is_no_thread_at_all() {
        let mut t = Test::with_idle(LIMITS, 0);
        t.comes(0, 1, LASTS, "new");
        let started = t.running.pop().unwrap();
        assert_eq!(t.state.spawn_failed(started, t.at(0)), Err(1));
        t.comes(1, 2, LASTS, "new");
    }

    #[test]
    fn a_fast_server_keeps_a_few_threads_warm() {
        let mut t = Test::new(WARM);
        t.comes(0, 1, LASTS, "idle");
        t.comes(0, 2, LASTS, "idle");
        t.comes(0, 3, LASTS, "waits");
        t.comes(0, 4, LASTS, "waits");
        t.looks_next(Some(1));
        t.ends(0, 1, "3");
        t.ends(0, 2, "4");
        t.ends(0, 3, "wait");
        t.comes(0, 5, LASTS, "idle");
        t.looks_next(None);
    }

    #[test]
    fn a_slow_server_gets_all_its_threads_within_milliseconds() {
        let mut t = Test::new(WARM);
        t.comes(0, 1, LASTS, "idle");
        t.comes(0, 2, LASTS, "idle");
        for job in 3..7 {
            t.comes(0, job, LASTS, "waits");
        }
        t.looks(0, "nothing");
        for ms in [1, 2] {
            t.looks(ms, "idle");
            t.looks(ms, "idle");
            t.looks(ms, "nothing");
        }
        // Now they run at once, and those that end later make room for others.
        t.comes(3, 7, LASTS, "waits");
        t.looks_next(Some(20));
        t.ends(3, 1, "7");
    }

    #[test]
    fn a_job_that_keeps_its_permit_waits_for_no_warm_thread() {
        let mut t = Test::new(WARM);
        t.comes(0, 1, LASTS, "idle");
        t.comes(0, 2, LASTS, "idle");
        t.comes(0, 3, KEEPS, "idle");
        // Behind one that waits it keeps its turn.
        t.comes(0, 4, LASTS, "waits");
        t.comes(0, 5, KEEPS, "waits");
        t.looks(0, "nothing");
        t.looks(1, "idle");
        t.looks(1, "idle");
    }

    #[test]
    fn a_queue_without_room_holds_the_jobs_that_wait_for_warm_threads() {
        let mut t = Test::new(PoolLimits { queue_len: 0, ..WARM });
        t.comes(0, 1, LASTS, "idle");
        t.comes(0, 2, LASTS, "idle");
        for job in 3..9 {
            t.comes(0, job, LASTS, "waits");
        }
        // As many as there may be threads.
        t.comes(0, 9, LASTS, "full");
        let mut t = Test::new(PoolLimits { queue_len: 0, ..WARM });
        t.comes(0, 1, LASTS, "idle");
        t.comes(0, 2, LASTS, "idle");
        t.comes(0, 3, LASTS, "waits");
        t.comes(0, 4, KEEPS, "waits");
        t.looks(1, "idle");
        t.looks(1, "idle");
    }

    #[test]
    fn jobs_that_have_lasted_give_their_places_up() {
        let mut t = Test::new(LIMITS);
        t.comes(0, 1, LASTS, "idle");
        t.comes(5, 2, LASTS, "idle");
        t.comes(6, 3, LASTS, "waits");
        t.looks_next(Some(20));
        t.looks(19, "nothing");
        t.looks(20, "new");
        t.looks(20, "nothing");
        t.comes(25, 4, LASTS, "new");
        // There are as many workers as there may be.
        t.comes(50, 5, LASTS, "full");
        t.comes(50, 6, KEEPS, "waits");
        t.looks(50, "nothing");
        t.ends(60, 1, "6");
        t.ends(60, 2, "wait");
        t.ends(60, 3, "wait");
        t.ends(60, 4, "end");
    }

    #[test]
    fn jobs_that_keep_their_places_never_run_beside_more_than_there_are() {
        let mut t = Test::new(LIMITS);
        t.comes(0, 1, LASTS, "idle");
        t.comes(0, 2, KEEPS, "idle");
        t.comes(30, 3, KEEPS, "new");
        t.comes(30, 4, KEEPS, "waits");
        // It has lasted: its worker is no reason for one more to run.
        t.ends(40, 1, "wait");
        t.ends(50, 2, "4");
    }

    #[test]
    fn a_burst_of_jobs_that_may_last_waits_for_the_workers_that_may_come() {
        let mut t = Test::new(LIMITS);
        t.comes(0, 1, LASTS, "idle");
        t.comes(0, 2, LASTS, "idle");
        for job in 3..7 {
            t.comes(0, job, LASTS, "waits");
        }
        t.comes(0, 7, LASTS, "full");
        t.looks(20, "new");
        t.looks(20, "new");
        t.looks(20, "nothing");
        // All workers have jobs that last: those that wait are refused now.
        t.looks(40, "full");
        t.looks(40, "full");
        t.looks(40, "nothing");
        t.looks_next(None);
    }

    #[test]
    fn no_more_run_at_once_than_may_however_long_they_last() {
        let mut t = Test::new(PoolLimits { max_running: 1, ..LIMITS });
        t.comes(0, 1, LASTS, "idle");
        t.comes(50, 2, LASTS, "waits");
        t.comes(50, 3, KEEPS, "waits");
        t.comes(50, 4, LASTS, "full");
        t.looks(100, "nothing");
        t.ends(200, 1, "2");
        t.ends(200, 2, "3");
        t.comes(200, 5, KEEPS, "waits");
        t.ends(300, 3, "5");
        t.ends(300, 5, "wait");
        t.comes(300, 6, KEEPS, "idle");
    }

    #[test]
    fn who_has_waited_for_too_long_is_refused() {
        let mut t = Test::new(LIMITS);
        t.comes(0, 1, KEEPS, "idle");
        t.comes(0, 2, KEEPS, "idle");
        t.comes(500, 3, KEEPS, "waits");
        t.comes(600, 4, KEEPS, "waits");
        t.looks_next(Some(10_500));
        t.looks(10_499, "nothing");
        t.looks(10_500, "waited");
        t.looks(10_500, "nothing");
        t.looks_next(Some(10_600));
        t.ends(10_599, 1, "4");
        t.looks_next(None);
    }

    #[test]
    fn a_job_starts_no_sooner_than_it_may_and_holds_up_no_other() {
        let mut t = Test::new(PoolLimits { queue_len: 9, ..LIMITS });
        t.comes(0, 1, JobSpec { not_before: Some(t.at(200)), ..KEEPS }, "waits");
        t.comes(0, 2, JobSpec { not_before: Some(t.at(100)), ..KEEPS }, "waits");
        t.comes(0, 3, JobSpec { not_before: Some(t.at(200)), ..KEEPS }, "waits");
        assert_eq!(t.state.queued(), 3);
        t.comes(0, 4, KEEPS, "idle");
        t.looks_next(Some(100));
        t.looks(99, "nothing");
        t.looks(100, "idle");
        t.looks(100, "nothing");
        t.looks_next(Some(200));
        // From then on they have their turn, as they came.
        t.comes(200, 5, JobSpec { not_before: Some(t.at(90)), ..KEEPS }, "waits");
        t.ends(201, 2, "1");
        t.ends(202, 1, "3");
        t.ends(203, 3, "5");
    }

    #[test]
    fn a_queue_is_overdue_when_nobody_looks_and_not_when_jobs_are_delayed() {
        let mut t = Test::new(PoolLimits { core_threads: 1, queue_len: 9, ..LIMITS });
        let overdue = |t: &Test, seconds: u64| t.state.is_overdue(t.at(seconds * 1000));
        t.comes(0, 1, KEEPS, "idle");
        t.comes(0, 2, JobSpec { not_before: Some(t.at(60_000)), ..KEEPS }, "waits");
        t.comes(0, 3, KEEPS, "waits");
        // The one behind it is refused in its own time.
        t.looks_next(Some(10_000));
        assert!(!overdue(&t, 20) && overdue(&t, 21));
        t.looks(10_000, "waited");
        assert!(!overdue(&t, 70) && overdue(&t, 71));
        t.looks(70_000, "waited");
        assert!(!overdue(&t, 999));
    }

    #[test]
    fn no_more_weight_waits_than_may_but_one_job_always_does() {
        let mut t = Test::new(PoolLimits { core_threads: 0, ..LIMITS });
        t.comes(0, 1, JobSpec { weight: 1000, ..KEEPS }, "waits");
        t.comes(0, 2, JobSpec { weight: 1, ..KEEPS }, "full");
    }

    #[test]
    fn a_worker_that_is_done_takes_no_job_that_has_waited_for_too_long() {
        let mut t = Test::new(PoolLimits { core_threads: 1, ..LIMITS });
        t.comes(0, 1, KEEPS, "idle");
        t.comes(0, 2, KEEPS, "waits");
        t.ends(10_000, 1, "wait");
        t.looks_next(Some(10_000));
        t.looks(10_000, "waited");
    }

    #[test]
    fn a_job_waits_for_a_worker_only_from_when_it_may_start() {
        let mut t = Test::new(PoolLimits { core_threads: 1, ..LIMITS });
        t.comes(0, 1, KEEPS, "idle");
        t.comes(0, 2, JobSpec { not_before: Some(t.at(10_000)), ..KEEPS }, "waits");
        t.looks(19_999, "nothing");
        t.looks(20_000, "waited");
    }

    #[test]
    fn the_queue_is_not_searched_for_every_job_that_finds_it_full() {
        let mut t = Test::new(PoolLimits { core_threads: 0, ..LIMITS });
        t.comes(0, 1, KEEPS, "waits");
        t.comes(0, STALE, KEEPS, "waits");
        t.comes(0, 2, KEEPS, "waits");
        t.state.queue[1].job = STALE;
        t.comes(99, 3, KEEPS, "full");
        t.comes(100, 3, KEEPS, "waits");
    }

    #[test]
    fn as_much_weight_waits_as_may_and_what_leaves_makes_room() {
        let mut t = Test::new(PoolLimits { core_threads: 1, queue_len: 9, ..LIMITS });
        t.comes(0, 1, KEEPS, "idle");
        t.comes(0, 2, JobSpec { weight: 60, ..KEEPS }, "waits");
        t.comes(0, 3, JobSpec { weight: 40, ..KEEPS }, "waits");
        t.comes(0, 4, JobSpec { weight: 1, ..KEEPS }, "full");
        t.ends(1, 1, "2");
        t.comes(1, 4, JobSpec { weight: 60, ..KEEPS }, "waits");
    }

    #[test]
    fn a_job_that_has_no_thread_gives_its_place_and_its_worker_back() {
        let limits = PoolLimits { core_threads: 1, max_threads: 2, queue_len: 0, ..LIMITS };
        for spec in [KEEPS, LASTS] {
            let mut t = Test::new(limits);
            t.comes(0, 1, LASTS, "idle");
            t.comes(30, 2, spec, "new");
            let started = t.running.pop().unwrap();
            t.comes(60, 3, KEEPS, "full");
            assert_eq!(t.state.spawn_failed(started, t.at(60)), Ok(()));
            t.ends(61, 1, "2");
            t.ends(62, 2, "wait");
            t.comes(62, 3, KEEPS, "idle");
            t.ends(90, 3, "wait");
            t.comes(1100, 4, LASTS, "idle");
            t.comes(1200, 5, LASTS, "new");
        }
    }

    #[test]
    fn jobs_that_nobody_waits_for_make_room() {
        let mut t = Test::new(PoolLimits { core_threads: 0, ..LIMITS });
        t.comes(0, STALE, JobSpec { weight: 90, ..KEEPS }, "waits");
        t.comes(0, 1, JobSpec { weight: 5, ..KEEPS }, "waits");
        t.comes(0, 2, JobSpec { weight: 90, ..KEEPS }, "waits");
        t.comes(0, 3, JobSpec { weight: 5, ..KEEPS }, "full");
    }
}
