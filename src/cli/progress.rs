//! The progress of a run: a bar on a terminal, nothing in a pipe.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lycomerge::merge;

use super::stop;

const TEMPLATE: &str = "{prefix:>10} {wide_bar} {pos}/{len} layers, {eta} left ";

/// A bar that follows the stages of a run, and is gone at its end.
pub(crate) struct Progress {
    bar: ProgressBar,
    stage: &'static str,
}

impl Progress {
    /// A bar on stderr, if that is a terminal and `show` says so.
    pub(crate) fn new(show: bool) -> Self {
        let target = if show { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is sound");
        Self { bar: ProgressBar::with_draw_target(None, target).with_style(style), stage: "" }
    }

    /// Takes notice, and says whether the run goes on.
    pub(crate) fn watch(&mut self, now: merge::Progress) -> bool {
        if now.stage != self.stage {
            self.stage = now.stage;
            self.bar.set_length(now.total as u64);
            self.bar.set_prefix(now.stage);
            self.bar.reset();
        }
        self.bar.set_length(now.total as u64);
        self.bar.set_position(now.done as u64);
        !stop::asked()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
