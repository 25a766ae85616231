import CSandbox
import Glibc

/// What a driver's process may ask of the kernel.
///
/// Three lists: what is allowed and why; what only a program under someone else's control does, which ends
/// the process; and everything else, which fails with EPERM as if the privilege were missing, so that a
/// library that probes goes on without.
struct SystemCallRules {
    /// What one argument must be: its bits under `mask` are `value`.
    struct Argument: Hashable {
        var index: UInt32
        var mask: UInt64 = .max
        var value: UInt64
    }

    /// Calls that are allowed for one reason. With alternatives, the arguments must fit one of them.
    struct Group {
        var reason: String
        var calls: [String]
        var alternatives: [[Argument]] = []
    }

    let allowed: [Group]

    /// The rules of one process.
    ///
    /// - Parameter process: its own id, the only one that it may signal.
    init(policy: SandboxPolicy, process: Int32) {
        var groups = SystemCallRules.always
        groups += SystemCallRules.confined(process: process)
        let noCode = Argument(index: 2, mask: UInt64(PROT_EXEC), value: 0)
        let kind = UInt64(MAP_TYPE)
        groups.append(
            Group(
                reason: "private memory, and memory of a descriptor; never code", calls: ["mmap"],
                alternatives: [
                    [noCode, Argument(index: 3, mask: kind, value: UInt64(MAP_PRIVATE))],
                    // Shared memory without a file would be bounded by nothing.
                    [
                        noCode,
                        Argument(index: 3, mask: kind | UInt64(MAP_ANONYMOUS), value: UInt64(MAP_SHARED)),
                    ],
                ]))
        if policy.sharedMemory {
            groups.append(
                Group(reason: "volumes in memory that outlives the process", calls: ["memfd_create"]))
        }
        if policy.network { groups += SystemCallRules.network }
        allowed = groups
    }

    // The order within a group is that of use.
    private static let always: [Group] = [
        Group(
            reason: "device I/O: the rings exist, each with its own restrictions", calls: ["io_uring_enter"]),
        Group(
            reason: "reading and writing files of the pool, the control socket, doorbells and stderr",
            calls: [
                "read", "write", "pread64", "pwrite64", "readv", "writev", "preadv", "pwritev", "preadv2",
                "pwritev2", "close", "lseek", "sendto", "recvfrom", "sendmsg", "recvmsg", "shutdown",
            ]),
        Group(
            reason: "files of the pool's folder; Landlock says which",
            calls: [
                "openat", "fstat", "newfstatat", "statx", "fstatfs", "statfs", "getdents64", "ftruncate",
                "fallocate", "fsync", "fdatasync", "unlinkat", "renameat", "renameat2", "mkdirat", "flock",
                "fadvise64", "sync_file_range",
            ]),
        Group(
            reason: "a doorbell, a pipe, a descriptor's duplicate, waiting for one",
            calls: ["eventfd2", "pipe2", "dup", "dup3", "poll", "ppoll", "signalfd4"]),
        Group(
            reason: "memory; what is mapped is said below",
            calls: ["munmap", "mremap", "madvise", "brk"]),
        Group(
            reason: "threads of this process and what they wait for",
            calls: [
                "futex", "rseq", "set_robust_list", "get_robust_list", "sched_yield", "sched_getaffinity",
                "sched_setaffinity", "sched_getparam", "sched_getscheduler", "membarrier", "getcpu", "exit",
                "exit_group", "restart_syscall",
            ]),
        Group(
            reason: "signals to handlers of its own",
            calls: [
                "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "rt_sigpending",
                "sigaltstack",
            ]),
        Group(
            reason: "clocks",
            calls: [
                "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday",
            ]),
        Group(
            reason: "who and where it is; nothing of others",
            calls: [
                "getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid", "uname", "sysinfo",
                "getrusage", "getcwd",
            ]),
        Group(reason: "randomness", calls: ["getrandom"]),
    ]

    /// Calls that are allowed with some arguments.
    private static func confined(process: Int32) -> [Group] {
        [
            Group(
                reason: "changing memory's protection, never to code", calls: ["mprotect"],
                alternatives: [[Argument(index: 2, mask: UInt64(PROT_EXEC), value: 0)]]),
            Group(
                reason: "a thread of this process, in its namespaces; never a process", calls: ["clone"],
                alternatives: [
                    [
                        Argument(
                            index: 0, mask: UInt64(SLUICE_THREAD_FLAGS | SLUICE_NEW_NAMESPACES),
                            value: UInt64(SLUICE_THREAD_FLAGS))
                    ]
                ]),
            Group(
                reason: "abort(3) and pthread_kill(3) within this process", calls: ["tgkill"],
                alternatives: [[Argument(index: 0, value: UInt64(process))]]),
            Group(
                reason: "the size of a block device, and giving its space back", calls: ["ioctl"],
                alternatives: [
                    sluice_block_size_request(), sluice_sector_size_request(), sluice_block_discard_request(),
                    sluice_block_zero_request(),
                ].map { [Argument(index: 1, mask: 0xFFFF_FFFF, value: $0)] }),
            Group(
                reason:
                    "a descriptor's own flags and seals; not its owner, which would send signals, nor the flags"
                    + " of its open file: a doorbell that blocks would hold the server's reactor",
                calls: ["fcntl"],
                alternatives: [
                    F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, Int32(SLUICE_ADD_SEALS),
                    Int32(SLUICE_GET_SEALS),
                ].map { [Argument(index: 1, mask: 0xFFFF_FFFF, value: UInt64($0))] }),
            Group(
                reason: "names for threads and memory, which show in /proc", calls: ["prctl"],
                alternatives: [UInt64(SLUICE_PRCTL_NAME), UInt64(SLUICE_PRCTL_NAME_MEMORY)].map {
                    [Argument(index: 0, mask: 0xFFFF_FFFF, value: $0)]
                }),
            Group(
                reason: "reading its own limits, which pthread_create(3) does", calls: ["prlimit64"],
                alternatives: [[Argument(index: 0, value: 0), Argument(index: 2, value: 0)]]),
            Group(
                reason: "enabling a ring, its descriptor's short form, and buffers; no files, no new rights",
                calls: ["io_uring_register"],
                // IORING_(UN)REGISTER_BUFFERS, ENABLE_RINGS, BUFFERS2, BUFFERS_UPDATE, (UN)REGISTER_RING_FDS
                alternatives: ([0, 1, 12, 15, 16, 20, 21] as [UInt64]).map {
                    [Argument(index: 1, mask: 0xFFFF_FFFF, value: $0)]
                }),
        ]
    }

    private static let network: [Group] = [
        Group(
            reason: "a network driver's sockets: TCP and UDP, nothing raw", calls: ["socket"],
            alternatives: [AF_INET, AF_INET6].flatMap { family in
                [1, 2].map { kind in
                    [
                        Argument(index: 0, value: UInt64(family)),
                        Argument(index: 1, mask: 0xF, value: kind),
                    ]
                }
            }),
        Group(
            reason: "using them",
            calls: ["connect", "bind", "getsockname", "getpeername", "setsockopt", "getsockopt"]),
    ]

    /// Calls that make glibc take an older way when they are not there; the older way has its flags in
    /// registers, where a filter sees them.
    static let absent = ["clone3", "openat2", "faccessat2"]

    /// What no driver does and no library tries: the process ends.
    static let fatal: [(reason: String, calls: [String])] = [
        ("other programs", ["execve", "execveat", "fork", "vfork", "personality", "uselib"]),
        (
            "other processes' memory, descriptors and threads",
            [
                "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
                "move_pages", "migrate_pages",
            ]
        ),
        (
            "rings without restrictions; asynchronous I/O that outlives its request",
            ["io_uring_setup", "io_setup", "io_submit"]
        ),
        (
            "the file systems' layout, and files without a path",
            [
                "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig",
                "fsmount", "fspick", "mount_setattr", "open_by_handle_at", "name_to_handle_at", "swapon",
                "swapoff", "quotactl", "fanotify_init", "mknodat", "mknod",
            ]
        ),
        ("namespaces", ["unshare", "setns"]),
        (
            "other rights",
            [
                "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid",
                "setgroups", "capset",
            ]
        ),
        (
            "the kernel itself",
            [
                "bpf", "perf_event_open", "userfaultfd", "kexec_load", "kexec_file_load", "init_module",
                "finit_module", "delete_module", "add_key", "request_key", "keyctl", "reboot", "syslog",
                "acct", "iopl", "ioperm", "settimeofday", "clock_settime", "sethostname", "setdomainname",
                "lookup_dcookie", "nfsservctl", "vhangup", "modify_ldt",
            ]
        ),
    ]
}
