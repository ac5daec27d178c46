/*
 * clock_shim.c - preloaded into a program, puts its wall clock as many seconds off as a file says, which may change at
 * any time.  CLOCK_MONOTONIC and CLOCK_BOOTTIME stay right.
 *
 * Of its own because libfaketime looks the real functions up with dlsym, and so does not survive an allocator that
 * asks the time before it can allocate: redis-server with jemalloc ends in its first call.  Here all is system calls.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *shim_seconds; /* in the file; NULL: the clock is right */

__attribute__((constructor)) static void shim_begin(void)
{
    const char *path = getenv("TEST_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped;

    if (fd < 0)
        return;
    mapped = mmap(NULL, sizeof *shim_seconds, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        shim_seconds = mapped;
}

static int64_t shim_off(void)
{
    return shim_seconds ? *shim_seconds : 0;
}

__attribute__((visibility("default"))) int clock_gettime(clockid_t id, struct timespec *time)
{
    int failed = (int)syscall(SYS_clock_gettime, id, time);

    if (failed == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        time->tv_sec += shim_off();
    return failed;
}

__attribute__((visibility("default"))) int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    int failed = (int)syscall(SYS_gettimeofday, time, zone);

    if (failed == 0)
        time->tv_sec += shim_off();
    return failed;
}

__attribute__((visibility("default"))) time_t time(time_t *ret_time)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (ret_time)
        *ret_time = now.tv_sec;
    return now.tv_sec;
}
