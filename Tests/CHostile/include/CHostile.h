// What a driver under someone else's control would try, each as one call: 0 means that it worked, -errno that
// it was stopped.
#ifndef SLUICE_CHOSTILE_H
#define SLUICE_CHOSTILE_H

#include <stdint.h>
#include <sys/types.h>

// The name of an errno, such as EACCES.
const char *hostile_error_name(int number);

int hostile_open(int folder, const char *path, int flags);
int hostile_make_link(int folder, const char *target, const char *name);
int hostile_make_device(int folder, const char *name);
int hostile_list(const char *path);
int hostile_grow(int folder, const char *name, int64_t bytes);
int hostile_mount(const char *path);

int hostile_socket(int family);
int hostile_connect_tcp(int fd, int port);
int hostile_connect_unix(int fd, const char *name, int is_abstract);

int hostile_ptrace(pid_t process);
int hostile_read_memory(pid_t process, uint64_t address);
int hostile_open_memory(pid_t process);
int hostile_signal(pid_t process);
int hostile_signal_by_descriptor(int fd, pid_t process);
int hostile_take_descriptor(pid_t process);

int hostile_execute(void);
int hostile_fork(void);
int hostile_vfork(void);
int hostile_clone(void);
int hostile_clone3(void);
int hostile_threads(int count);

int hostile_new_ring(void);
int hostile_asynchronous_io(void);
int hostile_map_code(void);
int hostile_protect_code(void);
int hostile_take_memory(uint64_t bytes, int is_shared);
int hostile_make_shared_memory(void);
int hostile_open_many(int count);

int hostile_become_root(void);
int hostile_become(unsigned user);
int hostile_new_namespace(void);
int hostile_become_dumpable(void);
int hostile_outlive_parent(void);
int hostile_raise_limit(void);
int hostile_block_doorbell(void);

// What a host can do to the server with the descriptors that it has; each goes on until the process is ended.
void hostile_hold_lifeline(int control, int lifeline);
void hostile_ring(void);
// Memory whose size anybody may change.
int hostile_growing_memory(void);
int hostile_keyring(void);
int hostile_bpf(void);

#endif
