//! Whether one thread can hand many reads to the kernel at once, as RocksDB does where it was built with io_uring.
//!
//! Containers often forbid that, and kernels before 6.1 lack what RocksDB asks for. RocksDB would then read one block after the other, and print
//! for each group of them that it does; so it is asked beforehand, once a process, and groups are not handed to it.

#[cfg(not(all(target_os = "linux", feature = "io-uring")))]
pub(crate) fn takes_many_reads() -> bool {
    false
}

#[cfg(all(target_os = "linux", feature = "io-uring"))]
pub(crate) fn takes_many_reads() -> bool {
    static TAKES_MANY: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *TAKES_MANY.get_or_init(linux::can_set_up)
}

#[cfg(all(target_os = "linux", feature = "io-uring"))]
mod linux {
    use std::os::fd::{FromRawFd, OwnedFd};

    /// As RocksDB sets its own up.
    const ENTRIES: libc::c_uint = 256;
    const SINGLE_ISSUER: u32 = 1 << 12;
    const DEFER_TASKRUN: u32 = 1 << 13;

    /// The kernel's `io_uring_params`: its third number are the flags, all others are zero.
    #[repr(C)]
    struct Params {
        _entries: [u32; 2],
        flags: u32,
        _others: [u32; 27],
    }

    pub(super) fn can_set_up() -> bool {
        let mut params = Params { _entries: [0; 2], flags: SINGLE_ISSUER | DEFER_TASKRUN, _others: [0; 27] };
        // SAFETY: the kernel reads and writes 120 bytes, which `params` has.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut params) };
        if fd < 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "the kernel takes one read a thread");
            return false;
        }
        // SAFETY: the kernel has just made the descriptor, and nobody else knows it.
        drop(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) });
        true
    }
}
