//! Which layer when: every piece of work, such as a site, runs start to end on one worker, the sum of working sets stays
//! under the memory setting, and results arrive in the order of the pieces, so bytes never depend on threads.
//!
//! The calling thread takes results, reports progress and can stop the run; workers only compute.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{Progress, Watch};
use crate::compute::gate::Gate;
use crate::error::{Error, Result};

/// How often a host hears of a run while no layer ends.
const PULSE: Duration = Duration::from_millis(100);

/// A piece of work, done by one worker.
pub(super) trait Work {
    /// What errors call it.
    fn name(&self) -> &str;

    /// A rough upper estimate of what it holds at once, in bytes.
    fn working_set(&self) -> u64;
}

impl<W: Work> Work for &W {
    fn name(&self) -> &str {
        (*self).name()
    }

    fn working_set(&self) -> u64 {
        (*self).working_set()
    }
}

/// Threads and memory for the passes of one merge.
pub(super) struct Run<'w> {
    pool: rayon::ThreadPool,
    memory: u64,
    watch: RefCell<Watch<'w>>,
    stage: &'static str,
}

impl<'w> Run<'w> {
    pub(super) fn new(threads: Option<usize>, memory: Option<u64>, watch: Watch<'w>) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .thread_name(|i| format!("lycomerge-{i}"))
            .build()
            .map_err(|e| Error::internal(format!("can't start worker threads: {e}")))?;
        Ok(Self {
            pool,
            memory: memory.unwrap_or_else(quarter_of_memory),
            watch: RefCell::new(watch),
            stage: "reading",
        })
    }

    /// How many workers there are.
    pub(super) fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Names the pass, for progress.
    pub(super) fn stage(&mut self, stage: &'static str) {
        self.stage = stage;
    }

    /// `work` on every piece, the results in order.
    pub(super) fn map<W: Work + Sync, R: Send>(
        &self,
        pieces: &[W],
        work: impl Fn(&W) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let mut results = Vec::with_capacity(pieces.len());
        self.for_each(pieces, work, |_, result| {
            results.push(result);
            Ok(())
        })?;
        Ok(results)
    }

    /// `work` on every piece by the workers, `take` on the results in order by the calling thread. Stops at the
    /// first error of either and when the host says so.
    pub(super) fn for_each<W: Work + Sync, R: Send>(
        &self,
        pieces: &[W],
        work: impl Fn(&W) -> Result<R> + Sync,
        mut take: impl FnMut(&W, R) -> Result<()>,
    ) -> Result<()> {
        let gate = Gate::new(self.memory);
        let next = AtomicUsize::new(0);
        let (sender, receiver) = mpsc::channel();
        let worker = |sender: mpsc::Sender<(usize, Result<R>)>| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(piece) = pieces.get(index) else { return };
                if !gate.enter(index, piece.working_set()) {
                    return;
                }
                let result = catch_unwind(AssertUnwindSafe(|| work(piece)))
                    .unwrap_or_else(|_| Err(Error::internal("a defect of lycomerge; please report it")));
                let result = result.map_err(|e| e.in_layer(piece.name()));
                if sender.send((index, result)).is_err() {
                    return;
                }
            }
        };
        self.pool.in_place_scope(|scope| {
            for _ in 0..self.pool.current_num_threads().min(pieces.len()) {
                let (sender, worker) = (sender.clone(), &worker);
                scope.spawn(move |_| worker(sender));
            }
            drop(sender);
            let outcome = self.collect(pieces, &gate, &receiver, &mut take);
            gate.close();
            outcome
        })
    }

    /// Waits until `done`, and lets the host stop that, too.
    pub(super) fn wait(&self, done: impl Fn() -> bool) -> Result<()> {
        /// Short beside a host's patience, long beside a look.
        const PAUSE: Duration = Duration::from_millis(2);
        let mut since = Instant::now();
        while !done() {
            std::thread::sleep(PAUSE);
            if since.elapsed() >= PULSE {
                since = Instant::now();
                let progress = Progress { stage: self.stage, done: 1, total: 1 };
                if !(self.watch.borrow_mut())(progress) {
                    return Err(Error::cancelled());
                }
            }
        }
        Ok(())
    }

    fn collect<W: Work, R>(
        &self,
        pieces: &[W],
        gate: &Gate,
        receiver: &mpsc::Receiver<(usize, Result<R>)>,
        take: &mut impl FnMut(&W, R) -> Result<()>,
    ) -> Result<()> {
        let mut waiting = BTreeMap::new();
        let mut done = 0;
        while done < pieces.len() {
            match receiver.recv_timeout(PULSE) {
                Ok((index, result)) => {
                    waiting.insert(index, result);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(Error::internal("the workers ended before their work"));
                }
            }
            while let Some(result) = waiting.remove(&done) {
                take(&pieces[done], result?)?;
                gate.leave(done, pieces[done].working_set());
                done += 1;
            }
            let progress = Progress { stage: self.stage, done, total: pieces.len() };
            if !(self.watch.borrow_mut())(progress) {
                return Err(Error::cancelled());
            }
        }
        Ok(())
    }
}

/// A quarter of what the machine has, or of what this process's container lets it have.
fn quarter_of_memory() -> u64 {
    const UNKNOWN: u64 = 4 << 30;
    /// Where Linux says a container's limit: control groups of version 2, and of version 1. No number: no limit.
    const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let meminfo = read("/proc/meminfo");
    let machine = meminfo.lines().find_map(|line| {
        let kib: u64 = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    });
    let containers = LIMITS.iter().filter_map(|path| read(path).trim().parse().ok());
    machine.into_iter().chain(containers).min().unwrap_or(UNKNOWN) / 4
}
