//! The limits of a pool, and what each job asks of it.

use std::time::{Duration, Instant};

/// How many workers there are, and what may wait for one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolLimits {
    /// Permits, and threads that may be idle. The pool starts with as many of them as are warm; the others start when a job
    /// wants one, and stay.
    pub(crate) core_threads: usize,
    /// Jobs that are about to end for which another job waits rather than for one more thread.
    pub(crate) warm_threads: usize,
    /// Threads at most, with those for lasting jobs.
    pub(crate) max_threads: usize,
    /// Jobs that run at once, at most, whether they last or not.
    pub(crate) max_running: usize,
    /// Queued jobs at most.
    pub(crate) queue_len: usize,
    /// The weight of all queued jobs at most, in bytes; one job always fits.
    pub(crate) queue_bytes: usize,
    /// How long a job may be queued.
    pub(crate) queue_timeout: Duration,
}

/// The needs of a job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JobSpec {
    /// The bytes that the job takes up while it is queued.
    pub(crate) weight: usize,
    pub(crate) kind: JobKind,
    /// The job does not start before this time.
    pub(crate) not_before: Option<Instant>,
}

/// The use that a job makes of its permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobKind {
    /// It keeps the permit until it ends.
    Steady,
    /// It returns the permit once it has lasted.
    Lasting,
}

impl JobSpec {
    /// A job without weight that keeps its permit.
    pub(crate) const STEADY: JobSpec = JobSpec { weight: 0, kind: JobKind::Steady, not_before: None };

    /// A job without weight that may last.
    pub(crate) const LASTING: JobSpec = JobSpec { kind: JobKind::Lasting, ..JobSpec::STEADY };
}

/// Why a job is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalReason {
    /// As many jobs run and wait as may.
    Full,
    /// It has waited for as long as it may.
    Expired,
}
