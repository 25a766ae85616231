import CURing
import Glibc

/// Opens a ring in the best mode that the kernel has.
enum RingSetup {
    private static let modes: [(name: String, flags: UInt32)] = [
        (
            "defer-taskrun",
            UInt32(SLUICE_SETUP_SINGLE_ISSUER) | UInt32(SLUICE_SETUP_DEFER_TASKRUN)
                | UInt32(SLUICE_SETUP_SUBMIT_ALL) | UInt32(SLUICE_SETUP_TASKRUN_FLAG)
        ),
        (
            "coop-taskrun",
            UInt32(SLUICE_SETUP_COOP_TASKRUN) | UInt32(SLUICE_SETUP_SUBMIT_ALL)
                | UInt32(SLUICE_SETUP_TASKRUN_FLAG)
        ),
        ("plain", 0),
    ]

    /// Sets the ring up, disabled until the thread that uses it enables it. Returns the mode's name.
    static func open(
        _ ring: UnsafeMutablePointer<io_uring>, entries: UInt32, takesCommands: Bool
    ) throws(ReactorError) -> String {
        var last: Int32 = EINVAL
        for mode in modes {
            var parameters = io_uring_params()
            parameters.flags =
                mode.flags | UInt32(SLUICE_SETUP_CQSIZE) | UInt32(SLUICE_SETUP_CLAMP)
                | UInt32(SLUICE_SETUP_R_DISABLED) | (takesCommands ? UInt32(SLUICE_SETUP_SQE128) : 0)
            parameters.cq_entries = entries * 4
            let result = unsafe io_uring_queue_init_params(entries, ring, &parameters)
            if result == 0 {
                do throws(ReactorError) {
                    try unsafe check(ring, features: parameters.features)
                } catch {
                    unsafe io_uring_queue_exit(ring)
                    throw error
                }
                unsafe sluice_ring_map_identity(ring)
                return mode.name
            }
            last = -result
            if last != EINVAL { break }
        }
        throw ReactorError.fromSetup(errno: last)
    }

    /// Leaves the ring I/O on open descriptors, and the registrations that a running reactor makes. In force
    /// from when the ring is enabled.
    static func restrict(_ ring: UnsafeMutablePointer<io_uring>) throws(ReactorError) {
        let result = unsafe sluice_ring_restrict(ring)
        if result < 0 { throw .system(call: "io_uring_register(RESTRICTIONS)", errno: -result) }
    }

    private static func check(_ ring: UnsafeMutablePointer<io_uring>, features: UInt32) throws(ReactorError) {
        let needed = UInt32(SLUICE_FEATURES_NEEDED)
        if features & needed != needed {
            throw .kernelTooOld(missing: "timeouts on waiting or lossless completions")
        }
        if unsafe sluice_has_multishot_receive(ring) == 0 {
            throw .kernelTooOld(missing: "multishot receive")
        }
    }
}
