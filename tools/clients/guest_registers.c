// Lets User-Mode Linux run where the processor has more registers than its kernel was built for.
//
// A guest's process is a process of the host, and its kernel saves and restores the extended
// registers by ptrace(2). Linux takes a whole XSAVE area or none, of the size that this processor
// has: EFAULT for the kernel of Debian 12 and 13 where there is AMX (8 KiB of tiles), and the guest
// ends in its first process. Preloaded into linux.uml, this completes what it writes with what the
// process has: tiles are only there for who asks for them by arch_prctl(2), which no guest can.
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// Not on the stack: those of a guest's kernel are small. One thread alone traces its processes.
static char whole[64 << 10];

long ptrace(enum __ptrace_request request, ...) {
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE) {
        const struct iovec *given = data;
        struct iovec area = {.iov_base = whole, .iov_len = sizeof whole};
        if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, address, &area) == 0 &&
            given->iov_len < area.iov_len) {
            memcpy(whole, given->iov_base, given->iov_len);
            return syscall(SYS_ptrace, request, pid, address, &area);
        }
    }
    // The system call returns what it peeked at through `data`, the function as its result.
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        long value;
        long status = syscall(SYS_ptrace, request, pid, address, &value);
        return status < 0 ? status : value;
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}
