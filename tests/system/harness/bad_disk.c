/* A disk that fails: with this in LD_PRELOAD, nothing reaches it as long as the file that HUNG_DISK names is there, and
 * nothing can be written as long as the one that READ_ONLY_DISK names is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_there(const char *variable)
{
    const char *flag = getenv(variable);
    int before = errno, there = flag && access(flag, F_OK) == 0;
    errno = before;
    return there;
}

static void wait_for_disk(void)
{
    while (is_there("HUNG_DISK"))
        usleep(10000);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) \
        real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define REFUSE_IF_READ_ONLY \
    if (is_there("READ_ONLY_DISK")) \
        return errno = EROFS, -1

int fdatasync(int fd)
{
    REAL(int, "fdatasync", int);
    wait_for_disk();
    REFUSE_IF_READ_ONLY;
    return real(fd);
}

int fsync(int fd)
{
    REAL(int, "fsync", int);
    wait_for_disk();
    REFUSE_IF_READ_ONLY;
    return real(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at)
{
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    REFUSE_IF_READ_ONLY;
    return real(fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at)
{
    return pwrite64(fd, bytes, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t at)
{
    REAL(ssize_t, "pwritev64", int, const struct iovec *, int, off64_t);
    REFUSE_IF_READ_ONLY;
    return real(fd, pieces, count, at);
}

ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t at)
{
    return pwritev64(fd, pieces, count, at);
}
