// libfuse3's low-level API, the loop device's ioctls and the few Linux calls that an attached device needs,
// as Swift sees them. Only the target Attach imports this module.
//
// Every function that can fail returns a value >= 0, or -errno.
#ifndef SLUICE_CFUSE_SHIM_H
#define SLUICE_CFUSE_SHIM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define FUSE_USE_VERSION 314

// Swift's Glibc module is built without _GNU_SOURCE, where fd_set names its member differently; both must
// agree.
#include <features.h>
#pragma push_macro("__USE_XOPEN")
#undef __USE_XOPEN
#include <sys/select.h>
#pragma pop_macro("__USE_XOPEN")

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <linux/loop.h>
#include <malloc.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif
#ifndef FOPEN_PARALLEL_DIRECT_WRITES
#define FOPEN_PARALLEL_DIRECT_WRITES (1 << 6)
#endif

// FUSE

static inline int sluice_attach_result(int result) { return result < 0 ? -errno : result; }

// What the connection is to do: direct I/O in parallel, requests up to `bytes_max`, no splicing, no kernel
// caches.
static inline void sluice_fuse_configure(
    struct fuse_conn_info *connection, uint32_t bytes_max, uint32_t background) {
    const unsigned unwanted = FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
                              FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_READDIRPLUS | FUSE_CAP_WRITEBACK_CACHE;
    connection->want &= ~unwanted;
    connection->want |= connection->capable & FUSE_CAP_ASYNC_DIO;
    connection->max_write = bytes_max;
    connection->max_read = bytes_max;
    connection->max_background = background;
    connection->congestion_threshold = background;
}

// fuse_reply_open() of libfuse 3.14 cannot say FOPEN_PARALLEL_DIRECT_WRITES, so the reply is written out
// here.
static inline int sluice_fuse_reply_open_direct(fuse_req_t request, uint64_t handle) {
    struct fuse_open_out reply;
    memset(&reply, 0, sizeof reply);
    reply.fh = handle;
    reply.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
    return fuse_reply_buf(request, (const char *)&reply, sizeof reply);
}

// The first piece of a write: libfuse hands it over in one piece of memory as long as nothing is spliced.
static inline void *sluice_fuse_write_bytes(struct fuse_bufvec *vector) {
    return vector->count == 1 && !(vector->buf[0].flags & FUSE_BUF_IS_FD) ? vector->buf[0].mem : NULL;
}
static inline size_t sluice_fuse_write_count(struct fuse_bufvec *vector) { return vector->buf[0].size; }

// Loop devices (loop(4))

static inline int sluice_loop_get_free(int control) {
    return sluice_attach_result(ioctl(control, LOOP_CTL_GET_FREE));
}

static inline int sluice_loop_configure(
    int device, int backing, uint32_t block_size, int read_only, const char *name) {
    struct loop_config configuration;
    memset(&configuration, 0, sizeof configuration);
    configuration.fd = (uint32_t)backing;
    configuration.block_size = block_size;
    configuration.info.lo_flags = LO_FLAGS_DIRECT_IO | (read_only ? LO_FLAGS_READ_ONLY : 0);
    strncpy((char *)configuration.info.lo_file_name, name, LO_NAME_SIZE - 1);
    return sluice_attach_result(ioctl(device, LOOP_CONFIGURE, &configuration));
}

// Whether the loop device has a backing file: 0 yes, -ENXIO no. `name` takes LO_NAME_SIZE bytes.
static inline int sluice_loop_status(int device, char *name, uint32_t *flags) {
    struct loop_info64 info;
    memset(&info, 0, sizeof info);
    int result = sluice_attach_result(ioctl(device, LOOP_GET_STATUS64, &info));
    if (result < 0) return result;
    memcpy(name, info.lo_file_name, LO_NAME_SIZE);
    name[LO_NAME_SIZE - 1] = 0;
    *flags = info.lo_flags;
    return 0;
}
static inline int sluice_loop_set_capacity(int device) {
    return sluice_attach_result(ioctl(device, LOOP_SET_CAPACITY, 0));
}
static inline int sluice_loop_clear(int device) {
    return sluice_attach_result(ioctl(device, LOOP_CLR_FD, 0));
}

static inline int sluice_attach_block_size(int device, uint64_t *bytes) {
    return sluice_attach_result(ioctl(device, BLKGETSIZE64, bytes));
}

// The size of the file as its file system says it now, past the kernel's attribute cache.
static inline int sluice_attach_refresh_size(int file, uint64_t *bytes) {
    struct statx status;
    memset(&status, 0, sizeof status);
    int result = sluice_attach_result(
        statx(file, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_SIZE, &status));
    if (result == 0) *bytes = status.stx_size;
    return result;
}

// Processes and memory

static inline int sluice_attach_set_io_flusher(void) {
    return sluice_attach_result(prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0));
}
static inline int sluice_attach_lock_memory(void) {
    return sluice_attach_result(mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT));
}
static inline int sluice_attach_pidfd_open(pid_t process) {
    return sluice_attach_result((int)syscall(SYS_pidfd_open, process, 0));
}
static inline int sluice_attach_pidfd_signal(int process, int signal) {
    return sluice_attach_result((int)syscall(SYS_pidfd_send_signal, process, signal, NULL, 0));
}

static inline int sluice_attach_pipe(int ends[2]) { return sluice_attach_result(pipe2(ends, O_CLOEXEC)); }

// waitpid(2) that goes on after a signal: the exit code, 128 + the signal, or -errno.
static inline int sluice_attach_wait(pid_t process) {
    int status = 0;
    while (waitpid(process, &status, 0) < 0)
        if (errno != EINTR) return -errno;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Starts `arguments[0]` with standard input, output and error replaced by the given descriptors (-1:
// /dev/null), every other descriptor closed except `extra`, which becomes 3 (-1: none). In a session of its
// own when `session`.
static inline int sluice_attach_spawn(
    pid_t *process, char *const arguments[], int input, int output, int error, int extra,
    int session) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, defaults;
    int wanted[4] = {input, output, error, extra};
    int result = posix_spawn_file_actions_init(&actions);
    if (result) return -result;
    result = posix_spawnattr_init(&attributes);
    if (result) {
        posix_spawn_file_actions_destroy(&actions);
        return -result;
    }
    sigemptyset(&none);
    sigfillset(&defaults);
    sigdelset(&defaults, SIGKILL);
    sigdelset(&defaults, SIGSTOP);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(
        &attributes,
        (short)(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | (session ? POSIX_SPAWN_SETSID : 0)));
    // Every descriptor first moves out of the way of 0 to 3, then into its place.
    for (int i = 0; i < 4 && !result; i++)
        if (wanted[i] >= 0) result = posix_spawn_file_actions_adddup2(&actions, wanted[i], 100 + i);
    for (int i = 0; i < 4 && !result; i++) {
        if (wanted[i] >= 0)
            result = posix_spawn_file_actions_adddup2(&actions, 100 + i, i);
        else if (i < 3)
            result = posix_spawn_file_actions_addopen(&actions, i, "/dev/null", O_RDWR, 0);
    }
    if (!result) result = posix_spawn_file_actions_addclosefrom_np(&actions, extra >= 0 ? 4 : 3);
    if (!result) result = posix_spawnp(process, arguments[0], &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return -result;
}

#endif
