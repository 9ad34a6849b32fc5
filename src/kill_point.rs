//! Places where tests end the process, as `kill -9` would: no destructor runs and no buffer is flushed. Without the feature `testing`
//! there are none.
#![forbid(unsafe_code)]
#![cfg_attr(not(feature = "testing"), allow(unreachable_pub, reason = "public to tests only, through `testing`"))]

/// A place in the engine, named for what was just done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillPoint {
    /// The directories of a new store, not its IDENTITY.
    StoreBegun,
    /// The IDENTITY of a new store.
    IdentityWritten,
    /// The header of a segment, not yet its name.
    SegmentHeaderSynced,
    /// The name of a segment.
    SegmentNamed,
    /// A frame joined the buffer.
    FrameBuffered,
    /// The buffer reached the file.
    BufferWritten,
    /// A commit's cut; the gate is still held.
    CutTaken,
    /// A visit to a shard for the delta.
    ShardVisited,
    /// A piece of the trainer's state.
    StateAppended,
    /// The commit frame, before its sync.
    CommitWritten,
    /// The sync of a commit, before its mark.
    CommitSynced,
    /// The mark.
    MarkPublished,
    /// The commit that ends a segment.
    SegmentEnded,
    /// Removed rows were freed after their commit.
    CommitSettled,
    /// The hot rows of a base.
    HotRowsWritten,
    /// The cold tier's part of a base.
    ColdCheckpointed,
    /// A base's manifest, before its rename.
    ManifestWritten,
    /// A base's rename, before its sync.
    BaseRenamed,
    /// The sync of a base's name.
    BaseNamed,
    /// An old base became litter.
    BaseTrashed,
    /// An old base is gone.
    BaseRemoved,
    /// An old segment is gone.
    SegmentRemoved,
    /// Images of rows to be demoted went into the log.
    ImagesLogged,
    /// Rows to be demoted went to the cold tier.
    ColdWritten,
    /// Demoted rows left memory.
    RowsDemoted,
    /// A shard's slab and index grew.
    ShardGrown,
    /// Recovery removed litter.
    LitterRemoved,
    /// Recovery read all segments and manifests.
    Surveyed,
    /// Recovery wrote again what was not known to be durable.
    Hardened,
    /// Recovery made a live directory.
    LiveOpened,
    /// Recovery loaded a base.
    BaseLoaded,
    /// Recovery replayed the log.
    LogReplayed,
    /// A restored store was written, under its temporary name.
    RestoreWritten,
    /// A restored store was named, before the sync.
    RestoreRenamed,
}

impl KillPoint {
    /// All of them.
    #[cfg(feature = "testing")]
    pub const ALL: [KillPoint; 34] = [
        KillPoint::StoreBegun,
        KillPoint::IdentityWritten,
        KillPoint::SegmentHeaderSynced,
        KillPoint::SegmentNamed,
        KillPoint::FrameBuffered,
        KillPoint::BufferWritten,
        KillPoint::CutTaken,
        KillPoint::ShardVisited,
        KillPoint::StateAppended,
        KillPoint::CommitWritten,
        KillPoint::CommitSynced,
        KillPoint::MarkPublished,
        KillPoint::SegmentEnded,
        KillPoint::CommitSettled,
        KillPoint::HotRowsWritten,
        KillPoint::ColdCheckpointed,
        KillPoint::ManifestWritten,
        KillPoint::BaseRenamed,
        KillPoint::BaseNamed,
        KillPoint::BaseTrashed,
        KillPoint::BaseRemoved,
        KillPoint::SegmentRemoved,
        KillPoint::ImagesLogged,
        KillPoint::ColdWritten,
        KillPoint::RowsDemoted,
        KillPoint::ShardGrown,
        KillPoint::LitterRemoved,
        KillPoint::Surveyed,
        KillPoint::Hardened,
        KillPoint::LiveOpened,
        KillPoint::BaseLoaded,
        KillPoint::LogReplayed,
        KillPoint::RestoreWritten,
        KillPoint::RestoreRenamed,
    ];

    /// The environment variable in which a test names the point and, after a colon, which time it is passed.
    #[cfg(feature = "testing")]
    pub const VARIABLE: &str = "EMBEDROCK_KILL_AT";
}

/// Ends the process here, if a test asked for it.
#[inline(always)]
pub(crate) fn reach(point: KillPoint) {
    #[cfg(feature = "testing")]
    armed::reach(point);
    #[cfg(not(feature = "testing"))]
    let _ = point;
}

#[cfg(feature = "testing")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::kill_point::KillPoint;

    static ARMED: OnceLock<Option<(KillPoint, AtomicU64)>> = OnceLock::new();

    fn read() -> Option<(KillPoint, AtomicU64)> {
        let value = std::env::var(KillPoint::VARIABLE).ok()?;
        let (name, nth) = value.split_once(':')?;
        let point = KillPoint::ALL.into_iter().find(|point| format!("{point:?}") == name)?;
        Some((point, AtomicU64::new(nth.parse().ok()?)))
    }

    pub(super) fn reach(point: KillPoint) {
        if let Some((armed, left)) = ARMED.get_or_init(read)
            && *armed == point
            && left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            std::process::abort();
        }
    }
}
