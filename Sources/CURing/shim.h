/* What Swift cannot see of liburing and the kernel: function-like macros, anonymous unions, variadic calls */
#ifndef SLUICE_CURING_SHIM_H
#define SLUICE_CURING_SHIM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

/* Swift's Glibc module is built without _GNU_SOURCE, where fd_set names its member differently. */
/* The kernel's header first: liburing brings a copy under the same guard, and swift-system imports the kernel's. */
#include <linux/io_uring.h>
#include <features.h>
#pragma push_macro("__USE_XOPEN")
#undef __USE_XOPEN
#include <sys/select.h>
#pragma pop_macro("__USE_XOPEN")

#include <liburing.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <link.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <sched.h>
#include <semaphore.h>
#include <stdint.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum {
    SLUICE_SETUP_CQSIZE = IORING_SETUP_CQSIZE,
    SLUICE_SETUP_CLAMP = IORING_SETUP_CLAMP,
    SLUICE_SETUP_SQE128 = IORING_SETUP_SQE128,
    SLUICE_SETUP_R_DISABLED = IORING_SETUP_R_DISABLED,
    SLUICE_SETUP_SUBMIT_ALL = IORING_SETUP_SUBMIT_ALL,
    SLUICE_SETUP_COOP_TASKRUN = IORING_SETUP_COOP_TASKRUN,
    SLUICE_SETUP_SINGLE_ISSUER = IORING_SETUP_SINGLE_ISSUER,
    SLUICE_SETUP_DEFER_TASKRUN = IORING_SETUP_DEFER_TASKRUN,
    SLUICE_SETUP_TASKRUN_FLAG = IORING_SETUP_TASKRUN_FLAG,
    SLUICE_FEATURES_NEEDED =
        IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG,
    SLUICE_CQE_MORE = IORING_CQE_F_MORE,
    SLUICE_CQE_BUFFER = IORING_CQE_F_BUFFER,
    SLUICE_CANCEL_ALL = IORING_ASYNC_CANCEL_ALL,
    SLUICE_FSYNC_DATASYNC = IORING_FSYNC_DATASYNC,
    SLUICE_CANCEL_EVERYTHING = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL,
};

/* Slots of the submission array never move: entry i of the array is submission i, from set-up on. */
static inline void sluice_ring_map_identity(struct io_uring *ring)
{
    for (unsigned i = 0; i < ring->sq.ring_entries; i++)
        ring->sq.array[i] = i;
}

static inline unsigned sluice_ring_unsubmitted(const struct io_uring *ring)
{
    return ring->sq.sqe_tail - IO_URING_READ_ONCE(*ring->sq.khead);
}

/* Publishes what was prepared, submits it and waits for `wait` completions, at most `timeout` ns
 * (< 0: for ever). Returns the number submitted or -errno. `registered_fd` < 0: the ring has none. */
static inline int sluice_ring_enter(struct io_uring *ring, int registered_fd, unsigned wait, int get_events,
                                    int64_t timeout)
{
    struct io_uring_sq *sq = &ring->sq;
    if (sq->sqe_head != sq->sqe_tail) {
        sq->sqe_head = sq->sqe_tail;
        io_uring_smp_store_release(sq->ktail, sq->sqe_tail);
    }
    unsigned submit = sluice_ring_unsubmitted(ring);
    unsigned flags = get_events ? IORING_ENTER_GETEVENTS : 0;
    int fd = ring->ring_fd;
    if (registered_fd >= 0) {
        fd = registered_fd;
        flags |= IORING_ENTER_REGISTERED_RING;
    }
    if (timeout < 0)
        return io_uring_enter2((unsigned)fd, submit, wait, flags, NULL, _NSIG / 8);
    struct __kernel_timespec ts = {.tv_sec = timeout / 1000000000, .tv_nsec = timeout % 1000000000};
    struct io_uring_getevents_arg arg = {.sigmask_sz = _NSIG / 8, .ts = (uint64_t)(uintptr_t)&ts};
    flags |= IORING_ENTER_EXT_ARG;
    return io_uring_enter2((unsigned)fd, submit, wait, flags, (sigset_t *)(void *)&arg, sizeof arg);
}

/* liburing 2.3 declares io_uring_enable_rings and does not export it. */
static inline int sluice_ring_enable(struct io_uring *ring)
{
    return io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

/* Leaves the ring the operations and registrations below; everything else fails with -EACCES once it is
 * enabled. No file is opened, no socket used, no descriptor made or registered. */
static inline int sluice_ring_restrict(struct io_uring *ring)
{
    static const uint8_t operations[] = {
        IORING_OP_NOP,       IORING_OP_READ,      IORING_OP_WRITE,    IORING_OP_READ_FIXED,  IORING_OP_WRITE_FIXED,
        IORING_OP_FSYNC,     IORING_OP_FALLOCATE, IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE, IORING_OP_TIMEOUT,
        IORING_OP_ASYNC_CANCEL, IORING_OP_CLOSE,
    };
    static const uint8_t registrations[] = {
        IORING_REGISTER_BUFFERS,        IORING_UNREGISTER_BUFFERS, IORING_REGISTER_BUFFERS2,
        IORING_REGISTER_BUFFERS_UPDATE, IORING_REGISTER_RING_FDS,  IORING_UNREGISTER_RING_FDS,
    };
    struct io_uring_restriction all[sizeof operations + sizeof registrations];
    unsigned count = 0;
    memset(all, 0, sizeof all);
    for (unsigned i = 0; i < sizeof operations; i++, count++) {
        all[count].opcode = IORING_RESTRICTION_SQE_OP;
        all[count].sqe_op = operations[i];
    }
    for (unsigned i = 0; i < sizeof registrations; i++, count++) {
        all[count].opcode = IORING_RESTRICTION_REGISTER_OP;
        all[count].register_op = registrations[i];
    }
    /* liburing 2.3 declares io_uring_register_restrictions and does not export it. */
    return io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_RESTRICTIONS, all, count);
}

/* The ring's registered files: the kernel lets go of them when nothing of the ring is left. */
static inline int sluice_ring_hold(struct io_uring *ring, const int *fds, unsigned count)
{
    return io_uring_register_files(ring, fds, count);
}

/* A table of places for registered buffers, all of them empty. */
static inline int sluice_ring_make_buffer_table(struct io_uring *ring, unsigned count)
{
    struct io_uring_rsrc_register table = {.nr = count, .flags = IORING_RSRC_REGISTER_SPARSE};
    return io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_BUFFERS2, &table, sizeof table);
}

/* Pins memory and puts it into a place of the table, or empties the place (NULL, 0); 1 or -errno. */
static inline int sluice_ring_set_buffer(struct io_uring *ring, unsigned index, void *memory, size_t bytes)
{
    struct iovec one = {.iov_base = memory, .iov_len = bytes};
    uint64_t no_tag = 0;
    struct io_uring_rsrc_update2 update = {
        .offset = index, .data = (uint64_t)(uintptr_t)&one, .tags = (uint64_t)(uintptr_t)&no_tag, .nr = 1};
    return io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_BUFFERS_UPDATE, &update, sizeof update);
}

/* Whether completions are there, or would be after entering the kernel. */
static inline int sluice_ring_has_work(const struct io_uring *ring)
{
    return io_uring_cq_ready(ring) != 0
        || (IO_URING_READ_ONCE(*ring->sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

/* Whether the kernel has something to submit, to complete or to put into the completion queue. */
static inline int sluice_ring_needs_enter(const struct io_uring *ring)
{
    return sluice_ring_unsubmitted(ring) != 0
        || (IO_URING_READ_ONCE(*ring->sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

static inline unsigned sluice_cq_ready(const struct io_uring *ring)
{
    return io_uring_smp_load_acquire(ring->cq.ktail) - *ring->cq.khead;
}

struct sluice_completion {
    uint64_t user_data;
    int32_t result;
    uint32_t flags;
};

/* Takes the next completion; 0 when there is none. */
static inline int sluice_cq_take(struct io_uring *ring, struct sluice_completion *out)
{
    unsigned head = *ring->cq.khead;
    if (head == io_uring_smp_load_acquire(ring->cq.ktail))
        return 0;
    const struct io_uring_cqe *cqe = &ring->cq.cqes[head & ring->cq.ring_mask];
    out->user_data = cqe->user_data;
    out->result = cqe->res;
    out->flags = cqe->flags;
    io_uring_smp_store_release(ring->cq.khead, head + 1);
    return 1;
}

static inline void sluice_sqe_select_buffer(struct io_uring_sqe *sqe, uint16_t group)
{
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = group;
}

/* Waits for the socket to be readable before a buffer is taken: an idle connection holds none. */
static inline void sluice_sqe_poll_first(struct io_uring_sqe *sqe)
{
    sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
}

/* A command to the driver behind a descriptor, in a ring of 128-byte entries: 24 of the 80 bytes that it may have. */
static inline void sluice_sqe_command(struct io_uring_sqe *sqe, int fd, uint32_t operation, const void *vectors,
                                      uint32_t vector_count, uint64_t first, uint64_t second, uint64_t third)
{
    uint64_t words[10] = {first, second, third};
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = fd;
    sqe->cmd_op = operation;
    sqe->addr = (uint64_t)(uintptr_t)vectors;
    sqe->len = vector_count;
    memcpy(sqe->cmd, words, sizeof words);
}

static inline void sluice_sqe_rw_flags(struct io_uring_sqe *sqe, int flags)
{
    sqe->rw_flags = flags;
}

static inline int sluice_register_receive_ring(struct io_uring *ring, void *memory, unsigned entries,
                                               uint16_t group)
{
    struct io_uring_buf_reg reg = {
        .ring_addr = (uint64_t)(uintptr_t)memory, .ring_entries = entries, .bgid = group};
    return io_uring_register_buf_ring(ring, &reg, 0);
}

static inline void sluice_receive_ring_add(void *memory, void *buffer, unsigned length, uint16_t id, int mask)
{
    struct io_uring_buf_ring *br = memory;
    io_uring_buf_ring_add(br, buffer, length, id, mask, 0);
    io_uring_buf_ring_advance(br, 1);
}

/* Multishot receive came with the kernel that brought zero-copy send (6.0); it has no probe of its own. */
static inline int sluice_has_multishot_receive(struct io_uring *ring)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    if (!probe)
        return 0;
    int supported = io_uring_opcode_supported(probe, IORING_OP_SEND_ZC);
    io_uring_free_probe(probe);
    return supported;
}

static inline int sluice_memfd_create(const char *name)
{
    return (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

static inline int sluice_memfd_seal_size(int fd)
{
    return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
}

// No core file, by the kernel or by a program that it hands the core to, and no look at this process's memory by others
// of its user (prctl(2), core(5)).
static inline void sluice_keep_memory_private(void)
{
    // By number: sys/resource.h cannot be in this module and in Glibc's.
    enum { core_files = 4 };
    struct { uint64_t now, most; } limit;
    if (syscall(SYS_prlimit64, 0, core_files, NULL, &limit) == 0) {
        limit.now = 0;
        syscall(SYS_prlimit64, 0, core_files, &limit, NULL);
    }
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

// Pieces of a MiB or more are mappings of their own for good, which go back to the system when they are freed: glibc
// would take the first that is freed as a sign that such pieces are usual, and keep the next ones (mallopt(3)).
static inline void sluice_return_large_memory(void)
{
    // Declared here: malloc.h in this module takes declarations out of Glibc's.
    extern int mallopt(int parameter, int value);
    enum { mmap_threshold = -3 };
    mallopt(mmap_threshold, 1 << 20);
}

// Gives pages that are free back to the system; whether there were any.
static inline int sluice_return_memory(void)
{
    extern int malloc_trim(size_t kept);
    return malloc_trim(0);
}

static inline void sluice_name_thread(const char *name)
{
    prctl(PR_SET_NAME, name, 0, 0, 0);
}

/* The kernel's number of the calling thread. */
static inline int sluice_thread_id(void)
{
    return (int)syscall(SYS_gettid);
}

static inline int sluice_signal_thread(int thread, int signal)
{
    return (int)syscall(SYS_tgkill, getpid(), thread, signal);
}

/* Processor time of a thread of this process, by its number; -1 when there is none such (CPUCLOCK_SCHED in
 * linux/posix-timers.h). */
static inline int sluice_thread_processor_time(int thread, struct timespec *time)
{
    return clock_gettime((clockid_t)((~(unsigned)thread << 3) | 6u), time);
}

/* The return addresses of the calling thread; safe in a signal's handler once it was called outside of one. */
static inline int sluice_backtrace(void **frames, int count)
{
    return backtrace(frames, count);
}

/* Has a signal handled with what it interrupted; calls that it interrupts begin again where they can. */
static inline int sluice_handle_signal(int signal, void (*handler)(int, siginfo_t *, void *))
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigemptyset(&action.sa_mask);
    return sigaction(signal, &action, NULL);
}

/* Where the thread was that a handler has interrupted; 0 where that is not known. */
static inline uintptr_t sluice_interrupted_address(void *context)
{
#if defined(__x86_64__)
    return (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[16 /* REG_RIP */];
#elif defined(__aarch64__)
    return (uintptr_t)((ucontext_t *)context)->uc_mcontext.pc;
#else
    (void)context;
    return 0;
#endif
}

/* Where the program is in memory: what addresses of a position-independent one count from, 0 for others. */
static inline int sluice_note_program_start(struct dl_phdr_info *info, size_t size, void *start)
{
    (void)size;
    *(uintptr_t *)start = (uintptr_t)info->dlpi_addr;
    return 1;
}

static inline uintptr_t sluice_program_start(void)
{
    uintptr_t start = 0;
    dl_iterate_phdr(sluice_note_program_start, &start);
    return start;
}

/* The exported function of a library that an address is in; 0 when there is none. */
static inline int sluice_library_symbol(uintptr_t address, const char **file, uintptr_t *base, const char **name,
                                        uintptr_t *start)
{
    Dl_info info;
    memset(&info, 0, sizeof info);
    if (!dladdr((void *)address, &info))
        return 0;
    *file = info.dli_fname;
    *base = (uintptr_t)info.dli_fbase;
    *name = info.dli_sname;
    *start = (uintptr_t)info.dli_saddr;
    return 1;
}

/* Of the Swift runtime: a mangled name in words, allocated, or NULL. */
extern char *swift_demangle(const char *mangled, size_t length, char *buffer, size_t *size, uint32_t flags);

static inline int sluice_set_affinity(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu < 0 || cpu >= CPU_SETSIZE) {
        errno = EINVAL;
        return -1;
    }
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set);
}

/* Waits for a semaphore until a time of CLOCK_MONOTONIC. */
static inline int sluice_semaphore_wait(sem_t *semaphore, const struct timespec *deadline)
{
    return sem_clockwait(semaphore, CLOCK_MONOTONIC, deadline);
}

static inline int sluice_pidfd_open(int pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static inline int sluice_pidfd_send_signal(int pidfd, int signal)
{
    return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0);
}

/* 0: ended, `exited` and `code` are set; EAGAIN in errno when it still runs and `block` is 0. */
static inline int sluice_pidfd_wait(int pidfd, int block, int *exited, int *code)
{
    siginfo_t info;
    memset(&info, 0, sizeof info);
    int r = waitid((idtype_t)3 /* P_PIDFD */, (id_t)pidfd, &info, WEXITED | (block ? 0 : WNOHANG));
    if (r < 0)
        return -1;
    if (info.si_pid == 0) {
        errno = EAGAIN;
        return -1;
    }
    *exited = info.si_code == CLD_EXITED;
    *code = info.si_status;
    return 0;
}

static inline int sluice_block_size_bytes(int fd, uint64_t *bytes) { return ioctl(fd, BLKGETSIZE64, bytes); }
static inline int sluice_block_logical_size(int fd, int *bytes) { return ioctl(fd, BLKSSZGET, bytes); }
static inline int sluice_block_discard(int fd, uint64_t offset, uint64_t length)
{
    uint64_t range[2] = {offset, length};
    return ioctl(fd, BLKDISCARD, range);
}
static inline int sluice_block_zero_out(int fd, uint64_t offset, uint64_t length)
{
    uint64_t range[2] = {offset, length};
    return ioctl(fd, BLKZEROOUT, range);
}

/* Waiting for the write-back of a range ends with reporting what failed in the whole file since this open file
 * was last told; the last page that a file can have is never there. */
static inline int sluice_take_write_back_error(int fd)
{
    return sync_file_range(fd, INT64_MAX - 4095, 4095, SYNC_FILE_RANGE_WAIT_BEFORE);
}

/* Alignment that direct I/O on `fd` needs; -1 where the kernel or the file system does not say. */
static inline int sluice_direct_alignment(int fd, uint32_t *memory, uint32_t *offset)
{
    struct statx stx;
    memset(&stx, 0, sizeof stx);
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) < 0)
        return -1;
    if (!(stx.stx_mask & STATX_DIOALIGN)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    *memory = stx.stx_dio_mem_align;
    *offset = stx.stx_dio_offset_align;
    return 0;
}

/* The GNU strerror_r returns the text; here it is always copied into the buffer. */
static inline int sluice_error_text(int number, char *buffer, size_t size)
{
    const char *text = strerror_r(number, buffer, size);
    if (text != buffer) {
        strncpy(buffer, text, size - 1);
        buffer[size - 1] = 0;
    }
    return 1;
}

enum {
    SLUICE_O_DIRECT = O_DIRECT,
    SLUICE_RWF_DSYNC = RWF_DSYNC,
    SLUICE_FALLOC_KEEP_SIZE = FALLOC_FL_KEEP_SIZE,
    SLUICE_FALLOC_PUNCH_HOLE = FALLOC_FL_PUNCH_HOLE,
    SLUICE_FALLOC_ZERO_RANGE = FALLOC_FL_ZERO_RANGE,
};

// Unix sockets that carry descriptors: unix(7), SCM_RIGHTS.

// Sends bytes and up to four descriptors in one message; returns how many bytes went out.
static inline int sluice_socket_send(
    int socket, const void *bytes, size_t count, const int *descriptors, size_t descriptor_count) {
    char control[CMSG_SPACE(4 * sizeof(int))];
    struct iovec part = {(void *)bytes, count};
    struct msghdr message;
    memset(&message, 0, sizeof message);
    memset(control, 0, sizeof control);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (descriptor_count > 4) return -EINVAL;
    if (descriptor_count > 0) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(descriptor_count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(descriptor_count * sizeof(int));
        memcpy(CMSG_DATA(header), descriptors, descriptor_count * sizeof(int));
    }
    int result = (int)sendmsg(socket, &message, MSG_NOSIGNAL);
    return result < 0 ? -errno : result;
}

// Receives bytes and up to four descriptors, which no child inherits; returns how many bytes came.
static inline int sluice_socket_receive(
    int socket, void *bytes, size_t count, int descriptors[4], size_t *descriptor_count) {
    char control[CMSG_SPACE(4 * sizeof(int))];
    struct iovec part = {bytes, count};
    struct msghdr message;
    memset(&message, 0, sizeof message);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    *descriptor_count = 0;
    int result = (int)recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (result < 0) return -errno;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t found = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(descriptors, CMSG_DATA(header), found * sizeof(int));
        *descriptor_count = found;
    }
    return result;
}

static inline int sluice_socket_accept(int socket) {
    int result = accept4(socket, NULL, NULL, SOCK_CLOEXEC);
    return result < 0 ? -errno : result;
}

// The user at the other end of a Unix socket: -errno, or the user's id.
static inline int64_t sluice_socket_peer_user(int socket) {
    struct {
        pid_t process;
        uid_t user;
        gid_t group;
    } peer;
    socklen_t length = sizeof peer;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) return -errno;
    return peer.user;
}

#endif
