// <features.h> first: it settles _GNU_SOURCE before <liburing.h> does, or fd_set conflicts with
// the one Glibc's module exports.
#include <features.h>
#include <liburing.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

// Without _GNU_SOURCE these have no declaration, and syscall(2), being variadic, is not
// imported. Both return 0 or more, or -1 with errno.

// statx(2) of an open file into the 256 bytes of its answer.
static inline long poold_statx(int descriptor, unsigned mask, void *answer) {
    return syscall(SYS_statx, descriptor, "", 0x1000 /* AT_EMPTY_PATH */, mask, answer);
}

// sched_setaffinity(2) of the calling thread.
static inline long poold_set_affinity(const void *mask, unsigned long bytes) {
    return syscall(SYS_sched_setaffinity, 0, bytes, mask);
}

// sched_getaffinity(2) of the calling thread: how many bytes of the mask it has filled.
static inline long poold_get_affinity(void *mask, unsigned long bytes) {
    return syscall(SYS_sched_getaffinity, 0, bytes, mask);
}
