//! Bugs that tests plant, one at a time, to prove that the suites would notice them. Without the feature `testing` there are none.
#![forbid(unsafe_code)]
#![cfg_attr(not(feature = "testing"), allow(unreachable_pub, reason = "public to tests only, through `testing`"))]

/// A mistake that code of this kind invites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// A row that is newer than its cold copy, but committed, is dropped without being written.
    NewerTakenForUncommitted = 1,
    /// A row rebuilt from the log counts as clean although the cold tier has an older copy, or none.
    CommittedTakenForCold,
    /// The image of an uncommitted row that leaves memory does not go into its delta.
    DemotedImageLost,
    /// Nor does that of a row which the delta being written still needs.
    OwedImageLost,
    /// A removed row leaves memory, and uncovers its cold copy.
    RemovedRowUncovered,
    /// The same, once its removal is durable.
    SweptRowUncovered,
    /// A base counts as valid from the commit that it follows on, not from the one that names it.
    BaseValidTooEarly,
    /// Frames that stand early are never replayed.
    EarlyFramesIgnored,
    /// Frames that stand early are replayed where they stand.
    EarlyFramesInPlace,
    /// A row changes although the delta being written still needs it as it was.
    NoCopyOnUpdate,
    /// Admission counts are missing from a delta.
    CountsLost,
    /// The clock is missing from a commit.
    ClockLost,
    /// A frame's checksum is not compared.
    ChecksumNotCompared,
    /// A commit frame counts without the frames before it.
    CommitNotCompared,
    /// The sync of a commit is left out.
    CommitNotSynced,
    /// The sync of a new segment's name is left out.
    SegmentNameNotSynced,
    /// A frame that could not be written stays in the buffer, and is written twice.
    FailedFrameKept,
    /// The mark is published before the sync.
    MarkTooEarly,
    /// Of equal keys in a batch only the last gradient counts.
    DuplicatesLost,
    /// An expired row is read.
    ExpiredRowRead,
    /// A row that a delta needs as it was alive at its cut is freed once it is expired.
    OwedRowSwept,
    /// A row that expired by an earlier time to live lives again by a longer one.
    ExpiredRowRevived,
    /// The keys of a feature slot live as all others do.
    SlotExpiryIgnored,
    /// Changed lines of an admission filter are missing from a delta.
    FilterLinesLost,
    /// A line of an admission filter changes although the delta being written still needs it as it was.
    FilterLineNotKept,
    /// An admission filter counts on what it should have forgotten.
    OldCountsKept,
    /// The index loses a key when it grows.
    KeyLostInGrowth,
    /// A key beyond its full home bucket is not counted there.
    OverflowNotCounted,
    /// A reused row keeps the flags of the one before.
    FlagsKept,
    /// A promoted row forgets its time.
    PromotedTimeLost,
    /// Both epochs mark rows with one bit.
    OneUncommittedBit,
    /// The trainer's state of a commit is that of the one before.
    OldTrainerState,
    /// A delta is applied after a commit of another timeline that has the number of its parent.
    TimelineIgnored,
    /// A batch is applied without the gate that a cut waits for.
    GateNotHeld,
    /// A base looks for changes before its first row is written.
    StillTooEarly,
    /// A row leaves memory although its cold copy could not be written.
    UnwrittenRowDropped,
    /// A row that was changed while its cold copy was written leaves memory.
    ChangedRowDropped,
    /// A row that was read ahead takes its place although it came into memory, changed and left meanwhile.
    StaleRowLands,
    /// A key that was found nowhere counts as absent although it has a row by now.
    NewRowAbsent,
}

impl Bug {
    /// Those that show only among threads.
    #[cfg(feature = "testing")]
    pub const OF_THREADS: [Bug; 2] = [Bug::GateNotHeld, Bug::StillTooEarly];

    /// All the others.
    #[cfg(feature = "testing")]
    pub const ALL: [Bug; 37] = [
        Bug::NewerTakenForUncommitted,
        Bug::CommittedTakenForCold,
        Bug::DemotedImageLost,
        Bug::OwedImageLost,
        Bug::RemovedRowUncovered,
        Bug::SweptRowUncovered,
        Bug::BaseValidTooEarly,
        Bug::EarlyFramesIgnored,
        Bug::EarlyFramesInPlace,
        Bug::NoCopyOnUpdate,
        Bug::CountsLost,
        Bug::ClockLost,
        Bug::ChecksumNotCompared,
        Bug::CommitNotCompared,
        Bug::CommitNotSynced,
        Bug::SegmentNameNotSynced,
        Bug::FailedFrameKept,
        Bug::MarkTooEarly,
        Bug::DuplicatesLost,
        Bug::ExpiredRowRead,
        Bug::OwedRowSwept,
        Bug::ExpiredRowRevived,
        Bug::SlotExpiryIgnored,
        Bug::FilterLinesLost,
        Bug::FilterLineNotKept,
        Bug::OldCountsKept,
        Bug::KeyLostInGrowth,
        Bug::OverflowNotCounted,
        Bug::FlagsKept,
        Bug::PromotedTimeLost,
        Bug::OneUncommittedBit,
        Bug::OldTrainerState,
        Bug::TimelineIgnored,
        Bug::UnwrittenRowDropped,
        Bug::ChangedRowDropped,
        Bug::StaleRowLands,
        Bug::NewRowAbsent,
    ];
}

#[cfg(feature = "testing")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants a bug in the whole process, or takes it out again.
#[cfg(feature = "testing")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u8), std::sync::atomic::Ordering::SeqCst);
}

/// Whether this bug is planted.
#[inline(always)]
pub(crate) fn planted(bug: Bug) -> bool {
    #[cfg(feature = "testing")]
    return PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8;
    #[cfg(not(feature = "testing"))]
    {
        let _ = bug;
        false
    }
}
