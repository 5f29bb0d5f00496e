// Linux AIO and epoll as the kernel has them. The calls of AIO have no declaration in the C
// library, and libaio adds nothing to them but a package that not every machine has.
#include <features.h>
#include <errno.h>
#include <linux/aio_abi.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

// A shared page at the address that is the context's name: the kernel's aio_ring.
struct poold_aio_ring {
    unsigned identifier, entries, head, tail, magic, compatible, incompatible, header_bytes;
};

struct poold_timespec { long long seconds, nanoseconds; };

// Each call returns 0 or more, or a negative errno.

static inline long poold_aio_result(long result) { return result < 0 ? -errno : result; }

static inline long poold_io_setup(unsigned events, aio_context_t *context) {
    return poold_aio_result(syscall(SYS_io_setup, events, context));
}

// Waits for everything under way.
static inline long poold_io_destroy(aio_context_t context) {
    return poold_aio_result(syscall(SYS_io_destroy, context));
}

static inline long poold_io_submit(aio_context_t context, long count, struct iocb **blocks) {
    return poold_aio_result(syscall(SYS_io_submit, context, count, blocks));
}

// What is there, without waiting.
static inline long poold_io_getevents(aio_context_t context, long count, struct io_event *events) {
    const struct poold_timespec none = {0, 0};
    return poold_aio_result(syscall(SYS_io_getevents, context, 0L, count, events, &none));
}

// Whether there may be events, without a system call. Of a page that is not as known: perhaps.
static inline int poold_aio_may_have_events(aio_context_t context) {
    const struct poold_aio_ring *ring = (const struct poold_aio_ring *)context;
    if (ring->magic != 0xa10a10a1 || ring->incompatible != 0) return 1;
    return __atomic_load_n(&ring->head, __ATOMIC_RELAXED) !=
           __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
}

// epoll_pwait2(2), Linux 5.11: waits that end on the nanosecond. NULL waits for ever.
static inline long poold_epoll_wait(
    int descriptor, struct epoll_event *events, int count, const struct poold_timespec *timeout) {
    return poold_aio_result(
        syscall(441 /* SYS_epoll_pwait2 */, descriptor, events, count, timeout, (void *)0, 8UL));
}

// These two only _GNU_SOURCE declares.

static inline long poold_accept(int descriptor, int flags) {
    return poold_aio_result(
        syscall(SYS_accept4, descriptor, (void *)0, (void *)0, flags));
}

static inline long poold_fallocate(
    int descriptor, int mode, long long offset_bytes, long long length_bytes) {
    return poold_aio_result(syscall(SYS_fallocate, descriptor, mode, offset_bytes, length_bytes));
}

// The kernel's number of a file's file system, or 0.
static inline unsigned long poold_file_system(int descriptor) {
    struct statfs status;
    return fstatfs(descriptor, &status) == 0 ? (unsigned long) status.f_type : 0;
}
