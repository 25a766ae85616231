import CFUSE
import Core
import Glibc

/// Keeps the process that serves a block device from waiting for memory that only its own device could free.
///
/// Under memory pressure the kernel writes dirty pages back through the device; were the server to wait for
/// memory then, it would wait for itself.
enum MemoryGuard {
    /// Sets the process up; call it before other threads start, they inherit it. Returns what could not be
    /// had.
    static func engage() -> [String] {
        var missing: [String] = []
        let locked = sluice_attach_lock_memory()
        if locked < 0 { missing.append("mlockall: \(AttachError.describe(-locked)) (raise RLIMIT_MEMLOCK)") }
        if let problem = engageThread() { missing.append(problem) }
        let score = unsafe open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC)
        let written = score < 0 ? -1 : unsafe write(score, "-1000", 5)
        if written != 5 {
            missing.append("oom_score_adj: \(AttachError.describe(errno))")
        }
        if score >= 0 { close(score) }
        return missing
    }

    /// Marks the calling thread as one that write-back depends on (PR_SET_IO_FLUSHER).
    static func engageThread() -> String? {
        let result = sluice_attach_set_io_flusher()
        return result < 0 ? "PR_SET_IO_FLUSHER: \(AttachError.describe(-result))" : nil
    }
}
