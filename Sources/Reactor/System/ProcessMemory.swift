import CURing

/// This process's memory, which holds keys.
public enum ProcessMemory {
    /// Has no core file made of it, and no other process of its user read it or trace it (`prctl(2)`, PR_SET_DUMPABLE;
    /// `core(5)`). Only root can then. The first thing in `main`; programs that are started later are not concerned, but
    /// for their limit of core files.
    ///
    /// /proc/self belongs to root from then on: what an ordinary user's process writes there comes before.
    public static func keepPrivate() { sluice_keep_memory_private() }
}
