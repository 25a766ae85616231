import Glibc

/// How many descriptors this process may have at once (`getrlimit(2)`, RLIMIT_NOFILE).
public enum OpenFiles {
    /// Allows so many, or as many as this process may allow itself: beyond the hard limit only root can.
    ///
    /// - Returns: how many it may have now; 0 when that cannot be told.
    public static func allow(_ wanted: UInt64) -> UInt64 {
        let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        var limit = rlimit()
        guard unsafe getrlimit(resource, &limit) == 0 else { return 0 }
        guard UInt64(limit.rlim_cur) < wanted else { return UInt64(limit.rlim_cur) }
        let hard = limit.rlim_max
        for most in [max(hard, rlim_t(wanted)), hard] {
            var raised = rlimit(rlim_cur: min(rlim_t(wanted), most), rlim_max: most)
            if unsafe setrlimit(resource, &raised) == 0 { return UInt64(raised.rlim_cur) }
        }
        return UInt64(limit.rlim_cur)
    }
}
