// The kernel's FUSE protocol, the loop device's ioctls and the few Linux calls that an attached device needs,
// as Swift sees them. Only the target Attach imports this module.
//
// Every function that can fail returns a value >= 0, or -errno.
#ifndef SLUICE_CFUSE_SHIM_H
#define SLUICE_CFUSE_SHIM_H

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
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <linux/loop.h>
#include <malloc.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif
#ifndef BLKGETDISKSEQ
#define BLKGETDISKSEQ _IOR(0x12, 128, uint64_t)
#endif
#ifndef FOPEN_PARALLEL_DIRECT_WRITES
#define FOPEN_PARALLEL_DIRECT_WRITES (1 << 6)
#endif

// FUSE

static inline int sluice_attach_result(int result) { return result < 0 ? -errno : result; }

// Mounts a file system that `device`, an open /dev/fuse, serves. `source` is what the mount table shows.
static inline int sluice_fuse_mount(int device, const char *folder, const char *source, uint32_t bytes_max) {
    char options[128];
    snprintf(
        options, sizeof options,
        "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,max_read=%u", device, bytes_max);
    return sluice_attach_result(
        mount(source, folder, "fuse.sluice", MS_NOSUID | MS_NODEV | MS_NOATIME, options));
}

// Answers one request that was read from /dev/fuse.
static inline int sluice_fuse_answer(
    int device, uint64_t unique, int32_t error, const void *bytes, size_t count) {
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof header + count), .error = error, .unique = unique};
    struct iovec parts[2] = {{&header, sizeof header}, {(void *)bytes, count}};
    return sluice_attach_result((int)writev(device, parts, count > 0 ? 2 : 1));
}

// FUSE over io_uring (Documentation/filesystems/fuse/fuse-io-uring.rst), which the headers of 6.1 do not know.

enum {
    SLUICE_FUSE_INIT_EXT = 1 << 30,
    // Of `flags2` in FUSE_INIT.
    SLUICE_FUSE_OVER_IO_URING = 1 << 9,
    SLUICE_FUSE_RING_REGISTER = 1,
    SLUICE_FUSE_RING_COMMIT_AND_FETCH = 2,
};

// What the kernel and the server write next to an entry's payload.
struct sluice_fuse_ring_header {
    // fuse_in_header, then fuse_out_header.
    uint8_t header[128];
    // What follows fuse_in_header in a message, without the payload.
    uint8_t operands[128];
    uint64_t flags;
    uint64_t commit_id;
    uint32_t payload_bytes;
    uint32_t padding;
    uint64_t reserved;
};
_Static_assert(sizeof(struct sluice_fuse_ring_header) == 288, "not the kernel's fuse_uring_req_header");

static inline void sluice_fuse_ring_answer(
    struct sluice_fuse_ring_header *entry, uint64_t unique, int32_t error, uint32_t payload_bytes) {
    struct fuse_out_header header = {
        .len = (uint32_t)sizeof header + payload_bytes, .error = error, .unique = unique};
    memcpy(entry->header, &header, sizeof header);
    entry->payload_bytes = payload_bytes;
}

// /sys/fs/fuse/connections; 0 also when it is there already.
static inline int sluice_fuse_mount_control(void) {
    int result = sluice_attach_result(
        mount("fusectl", "/sys/fs/fuse/connections", "fusectl", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
    return result == -EBUSY ? 0 : result;
}

// Loop devices (loop(4))

static inline int sluice_loop_get_free(int control) {
    return sluice_attach_result(ioctl(control, LOOP_CTL_GET_FREE));
}

// Makes a loop device with a number that none has yet.
static inline int sluice_loop_add(int control) {
    return sluice_attach_result(ioctl(control, LOOP_CTL_ADD, -1));
}

// The kernel reads the partition table when it gets the file, and drops the partitions when it gives the file up.
static inline int sluice_loop_configure(
    int device, int backing, uint32_t block_size, int read_only, const char *name) {
    struct loop_config configuration;
    memset(&configuration, 0, sizeof configuration);
    configuration.fd = (uint32_t)backing;
    configuration.block_size = block_size;
    configuration.info.lo_flags = LO_FLAGS_DIRECT_IO | LO_FLAGS_PARTSCAN | (read_only ? LO_FLAGS_READ_ONLY : 0);
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
// How many bytes of a pipe nobody has read, by either of its ends.
static inline int sluice_attach_unread_bytes(int pipe) {
    int count = 0;
    int result = sluice_attach_result(ioctl(pipe, FIONREAD, &count));
    return result < 0 ? result : count;
}

static inline int sluice_loop_clear(int device) {
    return sluice_attach_result(ioctl(device, LOOP_CLR_FD, 0));
}

// Takes LOOP_CLR_FD back, while somebody still has the device open: it stays when that one closes it.
static inline int sluice_loop_keep(int device) {
    struct loop_info64 info;
    memset(&info, 0, sizeof info);
    int result = sluice_attach_result(ioctl(device, LOOP_GET_STATUS64, &info));
    if (result < 0) return result;
    info.lo_flags &= ~(uint32_t)LO_FLAGS_AUTOCLEAR;
    return sluice_attach_result(ioctl(device, LOOP_SET_STATUS64, &info));
}
// The disk's number among all that this run of the machine has seen: another one for each file of a loop device.
// -ENOTTY before Linux 5.15.
static inline int sluice_attach_disk_sequence(int device, uint64_t *sequence) {
    return sluice_attach_result(ioctl(device, BLKGETDISKSEQ, sequence));
}
// The number of the block device that a path leads to: 1, or 0 where it leads to something else. Asks no server of a
// network file system.
static inline int sluice_attach_block_number(const char *path, uint32_t *major, uint32_t *minor) {
    struct statx status;
    memset(&status, 0, sizeof status);
    int result = sluice_attach_result(statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_TYPE, &status));
    if (result < 0) return result;
    if ((status.stx_mode & S_IFMT) != S_IFBLK) return 0;
    *major = status.stx_rdev_major;
    *minor = status.stx_rdev_minor;
    return 1;
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

// Fewer and smaller regions of address space: what is locked counts whether it is used or not.
static inline void sluice_attach_spare_memory(void) {
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TRIM_THRESHOLD, 256 << 10);
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
    int wanted[4] = {input, output, error, extra}, moved[4] = {-1, -1, -1, -1};
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
    // Every descriptor is first copied out of the way of 0 to 3, here, then put into its place, in the child.
    for (int i = 0; i < 4 && !result; i++) {
        if (wanted[i] >= 0) {
            moved[i] = fcntl(wanted[i], F_DUPFD_CLOEXEC, 4);
            result = moved[i] < 0 ? errno : posix_spawn_file_actions_adddup2(&actions, moved[i], i);
        } else if (i < 3) {
            result = posix_spawn_file_actions_addopen(&actions, i, "/dev/null", O_RDWR, 0);
        }
    }
    if (!result) result = posix_spawn_file_actions_addclosefrom_np(&actions, extra >= 0 ? 4 : 3);
    if (!result) result = posix_spawnp(process, arguments[0], &actions, &attributes, arguments, environ);
    for (int i = 0; i < 4; i++)
        if (moved[i] >= 0) close(moved[i]);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return -result;
}

#endif
