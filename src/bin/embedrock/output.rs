//! What the subcommands share: how they end, lines, JSON.
#![forbid(unsafe_code)]

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
