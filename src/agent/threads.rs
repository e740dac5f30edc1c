//! The threads of an agent's sessions, which come and go.

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use crate::sync::{lock, wait_while};

/// The threads that run.
#[derive(Default)]
pub(super) struct SessionThreads {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    running: usize,
    handles: Vec<JoinHandle<()>>,
}

impl SessionThreads {
    /// Starts a thread.
    pub(super) fn spawn(self: &Arc<Self>, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let threads = self.clone();
        // A thread that ends at once is counted before: its end waits for the lock.
        let mut state = lock(&self.state);
        let thread = thread::Builder::new().name("session".to_owned()).spawn(move || {
            let _running = RunningThread(threads);
            run();
        })?;
        state.running += 1;
        state.handles.retain(|handle| !handle.is_finished());
        state.handles.push(thread);
        Ok(())
    }

    /// The number of threads that run.
    pub(super) fn running(&self) -> usize {
        lock(&self.state).running
    }

    /// Waits until none runs.
    pub(super) fn join(&self) {
        let mut state = wait_while(&self.ended, lock(&self.state), |state| state.running > 0);
        let handles = std::mem::take(&mut state.handles);
        drop(state);
        for handle in handles {
            // A thread that panicked has said so on its own.
            let _ = handle.join();
        }
    }
}

/// A thread that runs; dropping it records its end.
struct RunningThread(Arc<SessionThreads>);

impl Drop for RunningThread {
    fn drop(&mut self) {
        lock(&self.0.state).running -= 1;
        self.0.ended.notify_all();
    }
}
