/* Records what a process writes to data.mdb (at first data.new), and when it is synced: preloaded by tests/power.py.
 *
 * The log (path in POWER_LOG, opened for appending, so that others may append marks of their own) holds
 * records: kind, id of the write, offset, length; then so many bytes.  Kinds: 'W' a write begins (with its
 * bytes), 'D' that write has returned from a descriptor opened for synchronous writing, 'B' a sync begins,
 * 'S' it has returned, 'T' the file has been given another length (in offset), 'R' data.new has become data.mdb,
 * 'F' a folder (its path are the bytes) has been synced.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct record {
    uint64_t kind, id, offset, length;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_file = -1;
static uint64_t last_id;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}

static size_t path_of(int fd, char path[4096])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 4095);
    path[n < 0 ? 0 : n] = 0;
    return n < 0 ? 0 : n;
}

static int ends_with(const char *path, const char *name)
{
    size_t n = strlen(path), m = strlen(name);
    return n >= m && strcmp(path + n - m, name) == 0;
}

static int is_data(int fd)
{
    char path[4096];
    path_of(fd, path);
    return ends_with(path, "/data.mdb") || ends_with(path, "/data.new");
}

static uint64_t note(char kind, uint64_t id, uint64_t offset, const struct iovec *data, int count)
{
    struct iovec parts[1 + 1024];
    struct record head = {(uint64_t)kind, id, offset, 0};
    if (count > 1024)
        abort();
    pthread_mutex_lock(&lock);
    if (log_file < 0)
        log_file = open(getenv("POWER_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (kind == 'W' || kind == 'B')
        head.id = ++last_id;
    for (int i = 0; i < count; i++) {
        parts[1 + i] = data[i];
        head.length += data[i].iov_len;
    }
    parts[0].iov_base = &head;
    parts[0].iov_len = sizeof head;
    ssize_t all = sizeof head + head.length;
    if (log_file < 0 || REAL(writev)(log_file, parts, 1 + count) != all)
        abort();
    pthread_mutex_unlock(&lock);
    return head.id;
}

static ssize_t finish(int fd, uint64_t id, ssize_t done, ssize_t wanted)
{
    if (done != wanted)
        abort(); /* a full disk is another test's business */
    if (fcntl(fd, F_GETFL) & O_DSYNC)
        note('D', id, 0, NULL, 0);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    if (!is_data(fd))
        return REAL(pwrite)(fd, data, length, offset);
    struct iovec one = {(void *)data, length};
    uint64_t id = note('W', 0, offset, &one, 1);
    return finish(fd, id, REAL(pwrite)(fd, data, length, offset), length);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset)
{
    return pwrite(fd, data, length, offset);
}

ssize_t pwritev(int fd, const struct iovec *data, int count, off_t offset)
{
    if (!is_data(fd))
        return REAL(pwritev)(fd, data, count, offset);
    ssize_t length = 0;
    for (int i = 0; i < count; i++)
        length += data[i].iov_len;
    uint64_t id = note('W', 0, offset, data, count);
    return finish(fd, id, REAL(pwritev)(fd, data, count, offset), length);
}

ssize_t pwritev64(int fd, const struct iovec *data, int count, off_t offset)
{
    return pwritev(fd, data, count, offset);
}

ssize_t writev(int fd, const struct iovec *data, int count)
{
    if (!is_data(fd))
        return REAL(writev)(fd, data, count);
    ssize_t length = 0;
    for (int i = 0; i < count; i++)
        length += data[i].iov_len;
    uint64_t id = note('W', 0, lseek(fd, 0, SEEK_CUR), data, count);
    return finish(fd, id, REAL(writev)(fd, data, count), length);
}

ssize_t write(int fd, const void *data, size_t length)
{
    if (!is_data(fd))
        return REAL(write)(fd, data, length);
    struct iovec one = {(void *)data, length};
    uint64_t id = note('W', 0, lseek(fd, 0, SEEK_CUR), &one, 1);
    return finish(fd, id, REAL(write)(fd, data, length), length);
}

int ftruncate(int fd, off_t length)
{
    int failed = REAL(ftruncate)(fd, length);
    if (!failed && is_data(fd))
        note('T', 0, length, NULL, 0);
    return failed;
}

int ftruncate64(int fd, off_t length)
{
    return ftruncate(fd, length);
}

int rename(const char *from, const char *to)
{
    int failed = REAL(rename)(from, to);
    if (!failed && ends_with(to, "/data.mdb"))
        note('R', 0, 0, NULL, 0);
    return failed;
}

static int is_folder(int fd)
{
    struct stat found;
    return fstat(fd, &found) == 0 && S_ISDIR(found.st_mode);
}

static int sync_folder(int fd)
{
    char path[4096];
    struct iovec one = {path, path_of(fd, path)};
    int failed = REAL(fsync)(fd);
    if (!failed)
        note('F', 0, 0, &one, 1);
    return failed;
}

#define SYNC(name)                                                                                           \
    int name(int fd)                                                                                         \
    {                                                                                                        \
        if (is_folder(fd))                                                                                   \
            return sync_folder(fd);                                                                          \
        if (!is_data(fd))                                                                                    \
            return REAL(name)(fd);                                                                           \
        uint64_t id = note('B', 0, 0, NULL, 0);                                                              \
        int failed = REAL(name)(fd);                                                                         \
        if (!failed)                                                                                         \
            note('S', id, 0, NULL, 0);                                                                       \
        return failed;                                                                                       \
    }

SYNC(fsync)
SYNC(fdatasync)

/* Without MDB_WRITEMAP nothing is written through the map.  Should that change, this recorder is blind. */
int msync(void *start, size_t length, int flags)
{
    (void)start, (void)length, (void)flags;
    abort();
}
