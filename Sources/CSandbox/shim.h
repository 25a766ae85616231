// libseccomp, and the Linux calls that a sandbox needs, as Swift sees them. Only the target DriverHost imports
// this module.
//
// Every function that can fail returns a value >= 0, or -errno.
#ifndef SLUICE_CSANDBOX_SHIM_H
#define SLUICE_CSANDBOX_SHIM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

// Swift's Glibc module is built without _GNU_SOURCE, where fd_set names its member differently; both must
// agree.
#include <features.h>
#pragma push_macro("__USE_XOPEN")
#undef __USE_XOPEN
#include <sys/select.h>
#pragma pop_macro("__USE_XOPEN")

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static inline int sluice_result(long r) { return r < 0 ? -errno : (int)r; }

// Namespaces: unshare(2).
enum {
    SLUICE_NEW_USER = CLONE_NEWUSER,
    SLUICE_NEW_NETWORK = CLONE_NEWNET,
    SLUICE_NEW_IPC = CLONE_NEWIPC,
    SLUICE_NEW_UTS = CLONE_NEWUTS,
};

static inline int sluice_unshare(int flags) { return sluice_result(unshare(flags)); }
static inline int sluice_chroot(const char *path) { return sluice_result(chroot(path)); }

static inline int sluice_close_range(unsigned first, unsigned last)
{
    return sluice_result(syscall(SYS_close_range, first, last, 0));
}

// Who the process is: setgroups(2), setresgid(2), setresuid(2), in this order, for user and group alike.
static inline int sluice_become(unsigned id)
{
    extern int setgroups(size_t count, const gid_t *list);
    if (setgroups(0, NULL) < 0 || setresgid(id, id, id) < 0 || setresuid(id, id, id) < 0)
        return -errno;
    return 0;
}

// Empties the bounding set, which wants CAP_SETPCAP; the first capability that the kernel does not know ends
// the loop with EINVAL.
static inline int sluice_drop_bounding_set(void)
{
    for (int cap = 0; cap < 64; cap++)
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
            return errno == EINVAL ? 0 : -errno;
    return 0;
}

// Empties the effective, permitted, inheritable and ambient sets: capabilities(7).
static inline int sluice_drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3];
    memset(none, 0, sizeof none);
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return -errno;
    return sluice_result(syscall(SYS_capset, &header, none));
}

static inline int sluice_no_new_privileges(void) { return sluice_result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }
static inline int sluice_not_dumpable(void) { return sluice_result(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)); }
static inline int sluice_die_with_parent(void) { return sluice_result(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)); }

// prctl(2) options that a running driver may use.
enum {
    SLUICE_PRCTL_NAME = PR_SET_NAME,
    SLUICE_PRCTL_NAME_MEMORY = 0x53564d41, // PR_SET_VMA; newer than Debian 12's header
};

// Limits for this process, soft and hard: prlimit(2). The numbers are the kernel's, asm-generic/resource.h;
// glibc's header has another content with _GNU_SOURCE than without, which Swift refuses.
enum {
    SLUICE_LIMIT_FILE_SIZE = 1,
    SLUICE_LIMIT_DATA = 2,
    SLUICE_LIMIT_CORE = 4,
    SLUICE_LIMIT_THREADS = 6,
    SLUICE_LIMIT_FILES = 7,
    SLUICE_LIMIT_QUEUES = 12,
    SLUICE_LIMIT_REAL_TIME = 14,
};

// Sets a limit, or the hard limit that is there if that is lower: raising it wants CAP_SYS_RESOURCE.
static inline int sluice_limit(int resource, uint64_t value)
{
    uint64_t limit[2];
    if (syscall(SYS_prlimit64, 0, resource, NULL, limit) < 0)
        return -errno;
    if (limit[1] > value)
        limit[1] = value;
    limit[0] = limit[1];
    return sluice_result(syscall(SYS_prlimit64, 0, resource, limit, NULL));
}

// Landlock: landlock(7). Glibc has no wrappers, and Debian 12's header stops at ABI 3.
struct sluice_landlock_ruleset {
    uint64_t files;
    uint64_t network;
    uint64_t scoped;
};

struct sluice_landlock_path {
    uint64_t allowed;
    int32_t parent;
} __attribute__((packed));

static inline int sluice_landlock_abi(void)
{
    return sluice_result(syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */));
}

// `abi` says how much of the structure the kernel knows.
static inline int sluice_landlock_create(const struct sluice_landlock_ruleset *rules, int abi)
{
    size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
    return sluice_result(syscall(SYS_landlock_create_ruleset, rules, size, 0));
}

static inline int sluice_landlock_allow(int ruleset, int parent, uint64_t allowed)
{
    struct sluice_landlock_path path = {.allowed = allowed, .parent = parent};
    return sluice_result(syscall(SYS_landlock_add_rule, ruleset, 1 /* LANDLOCK_RULE_PATH_BENEATH */, &path, 0));
}

static inline int sluice_landlock_enter(int ruleset)
{
    return sluice_result(syscall(SYS_landlock_restrict_self, ruleset, 0));
}

enum { SLUICE_O_PATH = O_PATH };

// Seccomp: actions are function-like macros.
static inline uint32_t sluice_action_allow(void) { return SCMP_ACT_ALLOW; }
static inline uint32_t sluice_action_kill(void) { return SCMP_ACT_KILL_PROCESS; }
static inline uint32_t sluice_action_fail(int number) { return SCMP_ACT_ERRNO((uint16_t)number); }

// What arguments of allowed calls may be.
enum {
    SLUICE_THREAD_FLAGS = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD,
    SLUICE_NEW_NAMESPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                            CLONE_NEWPID | CLONE_NEWNET,
};

enum { SLUICE_ADD_SEALS = F_ADD_SEALS, SLUICE_GET_SEALS = F_GET_SEALS, SLUICE_SEAL_GROW = F_SEAL_GROW };

static inline uint64_t sluice_block_size_request(void) { return BLKGETSIZE64; }
static inline uint64_t sluice_sector_size_request(void) { return BLKSSZGET; }
static inline uint64_t sluice_block_discard_request(void) { return BLKDISCARD; }
static inline uint64_t sluice_block_zero_request(void) { return BLKZEROOUT; }

// The control socket between server and driver host: unix(7), SCM_RIGHTS.

// A pipe whose ends no child inherits by itself.
static inline int sluice_pipe(int ends[2]) { return sluice_result(pipe2(ends, O_CLOEXEC)); }

// The most descriptors that come with one packet.
enum { SLUICE_CONTROL_DESCRIPTORS_MAX = 4 };

// Sends one packet with descriptors.
static inline int sluice_control_send(int fd, const void *bytes, size_t size, const int *descriptors, int count) {
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int) * SLUICE_CONTROL_DESCRIPTORS_MAX)];
    } control;
    struct iovec part = { (void *)bytes, size };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    if (count < 0 || count > SLUICE_CONTROL_DESCRIPTORS_MAX) return -EINVAL;
    if (count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(header), descriptors, sizeof(int) * count);
    }
    for (;;) {
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (sent >= 0) return (size_t)sent == size ? (int)sent : -EMSGSIZE;
        if (errno != EINTR) return -errno;
    }
}

// Receives one packet with its descriptors, close-on-exec; 0 at the end of the stream, -EMSGSIZE for a packet
// or a list of descriptors that was cut. What descriptors came is in `descriptors` in every case.
static inline int sluice_control_receive(
    int fd, void *bytes, size_t room, int *descriptors, int *count, int waits) {
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int) * SLUICE_CONTROL_DESCRIPTORS_MAX)];
    } control;
    struct iovec part = { bytes, room };
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    ssize_t received;
    *count = 0;
    do received = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | (waits ? 0 : MSG_DONTWAIT));
    while (received < 0 && errno == EINTR);
    if (received < 0) return -errno;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t found = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < found && *count < SLUICE_CONTROL_DESCRIPTORS_MAX; i++)
            memcpy(&descriptors[(*count)++], CMSG_DATA(header) + i * sizeof(int), sizeof(int));
    }
    if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) return -EMSGSIZE;
    return (int)received;
}

#endif
