//! What the subcommands share: how they end, lines, JSON.
#![forbid(unsafe_code)]

use embedrock::{RestoreProgress, RestoreStage, Transfer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(crate) use crate::text::{bytes, count, duration, optimizer, size};

/// Prints a line to standard output. A reader that went away is an error like any other, not a panic.
macro_rules! say {
    ($($line:tt)*) => {
        std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($line)*)))?
    };
}
pub(crate) use say;

/// What a subcommand returns.
pub(crate) type Outcome = Result<std::process::ExitCode, Box<dyn std::error::Error>>;

/// Success.
pub(crate) fn done() -> Outcome {
    Ok(std::process::ExitCode::SUCCESS)
}

/// Prints a value as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Box<dyn std::error::Error>> {
    say!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

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
