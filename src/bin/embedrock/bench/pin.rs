//! Threads that stay on one core: two that are free to move may share one.

/// Keeps the calling thread on one core. Where that is refused it may move: figures vary more then.
pub(super) fn pin(thread: usize) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a zeroed set is an empty one, and CPU_SET checks its bounds; the call reads the set and keeps nothing.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(thread, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = thread;
}
