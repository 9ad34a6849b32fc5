//! The log: segments of checksummed frames. A reader reads; recovery decides.
#![forbid(unsafe_code)]

mod frame;
mod mark;
mod reader;
mod record;
#[cfg(feature = "testing")]
mod repair;
mod segment;
mod writer;

pub(crate) use frame::{Frame, FrameBuf, Rows};
pub(crate) use mark::{Mark, MarkRecord};
pub(crate) use reader::{Event, LogReader};
pub(crate) use record::CommitRecord;
#[cfg(feature = "testing")]
pub(crate) use repair::{Renamed, repair, repair_base};
pub(crate) use segment::{HEADER_BYTES, SegmentHeader};
pub(crate) use writer::LogWriter;
