//! Bars of how far a command has come.
#![forbid(unsafe_code)]

use embedrock::{RestoreProgress, RestoreStage, Transfer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::bytes;

/// A bar for bytes on their way, on a terminal; nothing elsewhere.
pub(crate) fn transfer_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3}% {bytes} of {total_bytes} {msg} eta {eta}") {
        bar.set_style(style);
    }
    bar
}

pub(crate) fn show_transfer(bar: &ProgressBar, transfer: Transfer) {
    bar.set_length(transfer.total);
    bar.set_position(transfer.done);
    bar.set_message(format!("({} moved)", bytes(transfer.moved)));
}

/// A bar for rows, on a terminal; nothing elsewhere.
pub(crate) fn row_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3}% {human_pos} of {human_len} rows {msg} eta {eta}") {
        bar.set_style(style);
    }
    bar
}

pub(crate) fn show_rows(bar: &ProgressBar, done: u64, total: u64) {
    bar.set_length(total);
    bar.set_position(done);
}

/// Shows what a restore is at: each stage has a length of its own.
pub(crate) fn show_restore(bar: &ProgressBar, progress: RestoreProgress) {
    bar.set_length(progress.total);
    bar.set_position(progress.done);
    bar.set_message(match progress.stage {
        RestoreStage::Copying => "copied: cold rows,",
        RestoreStage::Reading => "read: hot rows and log,",
        RestoreStage::Writing => "written: hot rows,",
    });
}
