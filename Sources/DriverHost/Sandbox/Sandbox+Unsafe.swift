import CSandbox
import Core
import Glibc
import Reactor

/// The walls around a driver's process. One way: there is no call that takes them down.
public enum Sandbox {
    /// Closes what the process inherited, apart from standard input, output and error and `kept`. The first
    /// thing that a host does, before any code of a driver runs: later on, descriptors have owners.
    ///
    /// Standard input becomes `/dev/null`, and so do output and error where they are closed: the next file
    /// that is opened must not be where messages go.
    public static func closeInherited(keeping kept: [Int32]) throws(SandboxError) {
        var first: UInt32 = 3
        for descriptor in Set(kept.filter { $0 >= 3 }).sorted() {
            let number = UInt32(descriptor)
            if number > first { try check("close_range", sluice_close_range(first, number - 1)) }
            first = number + 1
        }
        try check("close_range", sluice_close_range(first, .max))
        let null = unsafe open("/dev/null", O_RDWR)
        if null < 0 { throw .system(call: "open /dev/null", errno: errno) }
        if null != 0 && !kept.contains(0) { _ = dup2(null, 0) }
        for descriptor: Int32 in [1, 2] where fcntl(descriptor, F_GETFD) < 0 { _ = dup2(null, descriptor) }
        if null > 2 { _ = close(null) }
    }

    /// Goes into the sandbox. On the main thread, once, while the process has no other thread and before any
    /// ring is enabled; threads that it starts later are inside.
    ///
    /// - Returns: what this kernel, or the lack of privilege, leaves open, in plain sentences.
    /// - Throws: when a wall that should stand does not; the process must end.
    public static func enter(_ policy: SandboxPolicy) throws(SandboxError) -> [String] {
        try requireOneThread()
        var gaps: [String] = []
        let user = geteuid()
        let isRoot = user == 0
        // First what needs paths and privilege: the host hands the folder over, and names it in the rules.
        let landlock = try Landlock(policy)
        if let own = policy.user, isRoot { try handOver(policy.folder, to: own) }
        preferForEnding()
        umask(0o077)
        let hasOwnUsers = try isolate(policy, &gaps)
        try limit(policy, countsThreads: hasOwnUsers || (isRoot && policy.user != nil))
        gaps += try becomeNobody(policy, from: user)

        // setresuid(2) and capset(2) clear the parent-death signal and set "dumpable" anew (prctl(2)), so
        // both come after them; and a parent that ended before has sent no signal.
        try check("prctl(PR_SET_NO_NEW_PRIVS)", sluice_no_new_privileges())
        try check("prctl(PR_SET_DUMPABLE)", sluice_not_dumpable())
        try check("prctl(PR_SET_PDEATHSIG)", sluice_die_with_parent())
        if getppid() != policy.parent { throw .orphaned }

        if let landlock {
            gaps += landlock.gaps
            try landlock.enter()
        } else {
            gaps.append(
                "This kernel has no Landlock (5.13 or newer, lsm=landlock): only the user's rights keep the"
                    + " driver from other files.")
        }
        // The filter comes last, since it forbids the calls above. It wants no_new_privs, too.
        try SystemCallFilter(SystemCallRules(policy: policy, process: getpid())).load()
        return gaps
    }

    private static func check(_ call: String, _ result: Int32) throws(SandboxError) {
        if result < 0 { throw .system(call: call, errno: -result) }
    }

    /// Seccomp and Landlock bind the calling thread and its children only.
    private static func requireOneThread() throws(SandboxError) {
        var status = stat()
        if unsafe stat("/proc/self/task", &status) != 0 {
            throw .system(call: "stat /proc/self/task", errno: errno)
        }
        // One link for itself, one for "..", and one a thread.
        let threads = Int(status.st_nlink) - 2
        if threads != 1 { throw .notAlone(threads: threads) }
    }

    /// A host that takes too much memory must go before the server does.
    private static func preferForEnding() {
        let file = unsafe open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC)
        if file < 0 { return }
        let text = [UInt8]("\(Limits.hostMemoryScore)".utf8)
        _ = unsafe text.withUnsafeBytes { unsafe write(file, $0.baseAddress, $0.count) }
        _ = close(file)
    }

    /// Gives the pool's folder and the files in it to the host's user. Links are not followed, and what is not a
    /// file under one name, or a folder, stays whose it is: a second name may be that of a file which is nobody's
    /// but root's.
    private static func handOver(_ folder: Int32, to user: UInt32) throws(SandboxError) {
        let copy = unsafe openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if copy < 0 { throw .system(call: "open the pool's folder", errno: errno) }
        guard let listing = unsafe fdopendir(copy) else {
            _ = close(copy)
            throw .system(call: "fdopendir", errno: errno)
        }
        defer { unsafe closedir(listing) }
        while true {
            errno = 0
            guard let entry = unsafe readdir(listing) else {
                if errno != 0 { throw .system(call: "readdir of the pool's folder", errno: errno) }
                return
            }
            let failure = unsafe withUnsafePointer(to: &entry.pointee.d_name) { tuple in
                unsafe tuple.withMemoryRebound(to: CChar.self, capacity: 256) { name -> Int32 in
                    unsafe strcmp(name, "..") == 0 ? 0 : handOver(name, in: folder, to: user)
                }
            }
            if failure != 0 { throw .system(call: "fchownat in the pool's folder", errno: failure) }
        }
    }

    /// Gives one file away; the errno, or 0. It is looked at and given by the same descriptor, which opens nothing.
    private static func handOver(_ name: UnsafePointer<CChar>, in folder: Int32, to user: UInt32) -> Int32 {
        let file = unsafe openat(folder, name, Int32(SLUICE_O_PATH) | O_NOFOLLOW | O_CLOEXEC)
        if file < 0 { return errno == ENOENT ? 0 : errno }
        defer { _ = close(file) }
        var status = stat()
        if unsafe fstat(file, &status) != 0 { return errno }
        let kind = status.st_mode & S_IFMT
        guard kind == S_IFDIR || kind == S_IFREG && status.st_nlink == 1 else { return 0 }
        if status.st_uid == user && status.st_gid == user { return 0 }
        return unsafe fchownat(file, "", user, user, emptyPath) == 0 ? 0 : errno
    }

    // Glibc's module leaves out what is not POSIX.
    private static let emptyPath: Int32 = 0x1000

    /// Namespaces of its own, and the pool's folder as its root. True: its users are its own too.
    private static func isolate(_ policy: SandboxPolicy, _ gaps: inout [String]) throws(SandboxError) -> Bool
    {
        let network = policy.network ? 0 : Int32(SLUICE_NEW_NETWORK)
        let spaces = network | Int32(SLUICE_NEW_IPC) | Int32(SLUICE_NEW_UTS)
        var hasOwnUsers = false
        if sluice_unshare(spaces) < 0 {
            // A user namespace gives an ordinary user the right to make the others (user_namespaces(7)).
            hasOwnUsers = sluice_unshare(spaces | Int32(SLUICE_NEW_USER)) == 0
            if !hasOwnUsers {
                gaps.append(
                    "This kernel lets an ordinary user make no namespaces: the driver is in the server's"
                        + " network namespace, and only seccomp keeps it from sockets.")
            }
        }
        // A driver that needs nothing else gets a root without any other name. EPERM: it is not root, and has no
        // namespace.
        if policy.paths.isEmpty && !policy.network && fchdir(policy.folder) == 0 {
            let result = unsafe sluice_chroot(".")
            if result != -EPERM { try check("chroot", result) }
        }
        if unsafe chdir("/") != 0 { throw .system(call: "chdir /", errno: errno) }
        return hasOwnUsers
    }

    private static func limit(_ policy: SandboxPolicy, countsThreads: Bool) throws(SandboxError) {
        // A file that grows too large fails with EFBIG; the default of the signal would end the process.
        signal(SIGXFSZ, SIG_IGN)
        try check("setrlimit(CORE)", sluice_limit(Int32(SLUICE_LIMIT_CORE), 0))
        try check("setrlimit(DATA)", sluice_limit(Int32(SLUICE_LIMIT_DATA), policy.memoryBytesMax))
        try check("setrlimit(FSIZE)", sluice_limit(Int32(SLUICE_LIMIT_FILE_SIZE), policy.fileBytesMax))
        try check("setrlimit(NOFILE)", sluice_limit(Int32(SLUICE_LIMIT_FILES), policy.filesMax))
        try check("setrlimit(MSGQUEUE)", sluice_limit(Int32(SLUICE_LIMIT_QUEUES), 0))
        try check("setrlimit(RTPRIO)", sluice_limit(Int32(SLUICE_LIMIT_REAL_TIME), 0))
        // The kernel counts threads for the user in its namespace, so that one of the two must be nobody else's.
        if countsThreads {
            try check("setrlimit(NPROC)", sluice_limit(Int32(SLUICE_LIMIT_THREADS), policy.threadsMax))
        }
    }

    /// The user of its own, and no capability in any set.
    private static func becomeNobody(_ policy: SandboxPolicy, from user: UInt32) throws(SandboxError)
        -> [String]
    {
        var gaps: [String] = []
        let isRoot = user == 0
        // This wants CAP_SETPCAP, which an ordinary user has only in a user namespace. With no_new_privs and no
        // execve the set cannot come to matter.
        let dropped = sluice_drop_bounding_set()
        if dropped < 0 && isRoot { throw .system(call: "prctl(PR_CAPBSET_DROP)", errno: -dropped) }
        if let own = policy.user, isRoot {
            try check("setresuid", sluice_become(own))
        } else if policy.user != nil || !isRoot {
            gaps.append(
                "The server is not root: the driver runs as the server's own user, \(user), and only"
                    + " Landlock and seccomp keep it from the server's files.")
        } else {
            gaps.append("The driver runs as root, without capabilities: it was given no user of its own.")
        }
        try check("capset", sluice_drop_capabilities())
        return gaps
    }
}
