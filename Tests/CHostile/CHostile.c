#define _GNU_SOURCE
#include "CHostile.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int outcome(long result) { return result < 0 ? -errno : 0; }

const char *hostile_error_name(int number)
{
    const char *name = strerrorname_np(number);
    return name ? name : "an unknown error";
}

int hostile_open(int folder, const char *path, int flags)
{
    int fd = openat(folder, path, flags | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    char byte;
    int result = flags & (O_WRONLY | O_DIRECTORY) ? 0 : outcome(read(fd, &byte, 1));
    close(fd);
    return result;
}

int hostile_make_link(int folder, const char *target, const char *name)
{
    return outcome(symlinkat(target, folder, name));
}

int hostile_make_device(int folder, const char *name)
{
    return outcome(mknodat(folder, name, S_IFBLK | 0600, makedev(7, 0)));
}

int hostile_list(const char *path) { return hostile_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY); }

int hostile_grow(int folder, const char *name, int64_t bytes)
{
    int fd = openat(folder, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int result = outcome(fallocate(fd, 0, 0, bytes));
    close(fd);
    unlinkat(folder, name, 0);
    return result;
}

int hostile_mount(const char *path)
{
    int result = outcome(mount("none", path, "tmpfs", 0, NULL));
    if (result == 0)
        umount2(path, MNT_DETACH);
    return result;
}

int hostile_socket(int family) { return outcome(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

int hostile_connect_tcp(int fd, int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return outcome(connect(fd, (struct sockaddr *)&address, sizeof address));
}

int hostile_connect_unix(int fd, const char *name, int is_abstract)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    if (length + 2 > sizeof address.sun_path)
        return -ENAMETOOLONG;
    memcpy(address.sun_path + (is_abstract ? 1 : 0), name, length);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
    return outcome(connect(fd, (struct sockaddr *)&address, size));
}

int hostile_ptrace(pid_t process) { return outcome(syscall(SYS_ptrace, PTRACE_SEIZE, process, 0, 0)); }

int hostile_read_memory(pid_t process, uint64_t address)
{
    uint64_t word;
    struct iovec mine = {&word, sizeof word}, theirs = {(void *)(uintptr_t)address, sizeof word};
    return outcome(process_vm_readv(process, &mine, 1, &theirs, 1, 0));
}

int hostile_open_memory(pid_t process)
{
    char path[64] = "/proc/";
    char digits[16];
    int count = 0;
    size_t end = strlen(path);
    for (int rest = process; rest > 0; rest /= 10)
        digits[count++] = (char)('0' + rest % 10);
    while (count > 0)
        path[end++] = digits[--count];
    strcpy(path + end, "/mem");
    return outcome(open(path, O_RDWR | O_CLOEXEC));
}

int hostile_signal(pid_t process) { return outcome(kill(process, 0)); }

int hostile_signal_by_descriptor(int fd, pid_t process) { return outcome(fcntl(fd, F_SETOWN, process)); }

int hostile_take_descriptor(pid_t process)
{
    long fd = syscall(SYS_pidfd_open, process, 0);
    if (fd < 0)
        return -errno;
    return outcome(syscall(SYS_pidfd_getfd, fd, 0, 0));
}

int hostile_execute(void)
{
    char *arguments[] = {"echo", "escaped", NULL}, *environment[] = {NULL};
    return outcome(execve("/bin/echo", arguments, environment));
}

static int child_of(long process)
{
    if (process < 0)
        return -errno;
    if (process == 0)
        _exit(0);
    waitpid((pid_t)process, NULL, 0);
    return 0;
}

int hostile_fork(void)
{
#ifdef SYS_fork
    return child_of(syscall(SYS_fork));
#else
    return child_of(fork());
#endif
}

int hostile_vfork(void)
{
    pid_t process = vfork();
    if (process == 0)
        _exit(0);
    if (process < 0)
        return -errno;
    waitpid(process, NULL, 0);
    return 0;
}

int hostile_clone(void) { return child_of(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)); }

int hostile_clone3(void)
{
    struct clone_args arguments = {.exit_signal = SIGCHLD};
    return child_of(syscall(SYS_clone3, &arguments, sizeof arguments));
}

static void *wait_for_end(void *gate)
{
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

int hostile_threads(int count)
{
    static pthread_t threads[4096];
    static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    pthread_mutex_lock(&gate);
    int made = 0, result = 0;
    while (made < count && made < 4096 && result == 0) {
        result = pthread_create(&threads[made], &attributes, wait_for_end, &gate);
        if (result == 0)
            made++;
    }
    pthread_mutex_unlock(&gate);
    while (made > 0)
        pthread_join(threads[--made], NULL);
    return -result;
}

int hostile_new_ring(void)
{
    struct io_uring_params parameters;
    memset(&parameters, 0, sizeof parameters);
    return outcome(syscall(SYS_io_uring_setup, 8, &parameters));
}

int hostile_asynchronous_io(void)
{
    unsigned long context = 0;
    return outcome(syscall(SYS_io_setup, 8, &context));
}

int hostile_map_code(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? -errno : 0;
}

int hostile_protect_code(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return 0;
    return outcome(mprotect(page, 4096, PROT_READ | PROT_EXEC));
}

int hostile_take_memory(uint64_t bytes, int is_shared)
{
    int flags = (is_shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS | MAP_NORESERVE;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    munmap(memory, bytes);
    return 0;
}

int hostile_make_shared_memory(void) { return outcome(syscall(SYS_memfd_create, "escape", 0)); }

int hostile_open_many(int count)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int made = 0; made < count; made++)
        if (dup(0) < 0)
            return -errno;
    return 0;
}

int hostile_become_root(void) { return hostile_become(0); }
int hostile_become(unsigned user)
{
    if (syscall(SYS_setresgid, user, user, user) < 0)
        return -errno;
    return outcome(syscall(SYS_setresuid, user, user, user));
}

int hostile_new_namespace(void) { return outcome(unshare(CLONE_NEWUSER)); }
int hostile_become_dumpable(void) { return outcome(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)); }
int hostile_outlive_parent(void) { return outcome(prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)); }

int hostile_raise_limit(void)
{
    struct rlimit limit = {0, 0};
    return outcome(setrlimit(RLIMIT_CORE, &limit));
}

// The flags belong to the open file, which the server has too: it would block in its next write to a full one.
int hostile_block_doorbell(void)
{
    int bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (bell < 0) return outcome(bell);
    int result = outcome(fcntl(bell, F_SETFL, 0));
    close(bell);
    return result;
}

int hostile_keyring(void) { return outcome(syscall(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3, 1)); }

int hostile_bpf(void)
{
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_type = BPF_MAP_TYPE_ARRAY;
    attributes.key_size = 4;
    attributes.value_size = 4;
    attributes.max_entries = 1;
    return outcome(syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes));
}

// A packet that is none, then one with the lifeline's own end, which nobody will take.
void hostile_hold_lifeline(int control, int lifeline)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } rights;
    char garbage = 'x';
    struct iovec part = {&garbage, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    sendmsg(control, &message, MSG_NOSIGNAL);
    memset(&rights, 0, sizeof rights);
    message.msg_control = &rights;
    message.msg_controllen = sizeof rights;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &lifeline, sizeof lifeline);
    for (;;) sendmsg(control, &message, MSG_NOSIGNAL);
}

// Rings whatever can be rung: an eventfd is no file of a kind.
void hostile_ring(void)
{
    for (;;) {
        for (int fd = 5; fd < 256; fd++) {
            struct stat status;
            if (fstat(fd, &status) == 0 && (status.st_mode & S_IFMT) == 0) eventfd_write(fd, 1);
        }
    }
}

int hostile_growing_memory(void) { return memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING); }
