/* Watches what a program does to the files below one folder: loaded with LD_PRELOAD, told with watch().
 *
 * It either kills the process at its n-th call that changes something (a write is cut in half), or records after each
 * call the names there are, and, at each fsync, the content that is safe from then on: what is needed to tell how the
 * disk would look if the power failed there (see power_cuts.py). Calls go straight to the kernel.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[4096], folder[4096];
long calls;
static long kill_at, snapshots;
static int journal = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static int below(int at, const char *path) {
    char whole[8192], link[64];
    if (!root[0] || !path) return 0;
    if (path[0] == '/') {
        snprintf(whole, sizeof whole, "%s", path);
    } else {
        if (at == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t n = readlink(link, whole, 4096);
        if (n < 0) return 0;
        snprintf(whole + n, sizeof whole - n, "/%s", path);
    }
    size_t length = strlen(root);
    return !strncmp(whole, root, length) && (whole[length] == '/' || !whole[length]);
}

static int fd_below(int fd) {
    char link[64], whole[4097];
    if (!root[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, whole, 4096);
    if (n < 0) return 0;
    whole[n] = 0;
    return below(AT_FDCWD, whole);
}

static void say(const char *format, ...) {
    char line[8192];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (syscall(SYS_write, journal, line, (size_t)n) != n) _exit(99);
}

/* An inode's number is used again; with the time of its birth it is not. */
static void identity(const struct statx *s, char *out, size_t size) {
    snprintf(out, size, "%llu.%lld.%u", (unsigned long long)s->stx_ino, (long long)s->stx_btime.tv_sec,
             s->stx_btime.tv_nsec);
}

static void keep(const char *path) {
    char to[8192], id[96], buffer[65536];
    struct statx s;
    if (statx(AT_FDCWD, path, 0, STATX_BASIC_STATS | STATX_BTIME, &s)) return;
    identity(&s, id, sizeof id);
    if (S_ISDIR(s.stx_mode)) { say("D %s\n", id); return; }
    snprintf(to, sizeof to, "%s/%ld", folder, snapshots);
    int in = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0);
    int out = syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT, 0600);
    ssize_t n;
    while ((n = syscall(SYS_read, in, buffer, sizeof buffer)) > 0)
        if (syscall(SYS_write, out, buffer, (size_t)n) != n) _exit(99);
    syscall(SYS_close, in);
    syscall(SYS_close, out);
    say("S %s %ld\n", id, snapshots++);
}

static void walk(const char *path, int all) {
    char entry[8192], id[96];
    struct statx s;
    DIR *listing = opendir(path);
    if (!listing) return;
    for (struct dirent *e; (e = readdir(listing));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(entry, sizeof entry, "%s/%s", path, e->d_name);
        if (statx(AT_FDCWD, entry, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &s)) continue;
        identity(&s, id, sizeof id);
        int is_folder = S_ISDIR(s.stx_mode);
        if (all && !is_folder) keep(entry);
        say("T %s %s %s\n", is_folder ? "d" : "f", id, entry + strlen(root) + 1);
        if (is_folder) walk(entry, all);
    }
    closedir(listing);
}

void watch(const char *path, const char *log_folder, long n) {
    snprintf(root, sizeof root, "%s", path);
    snprintf(folder, sizeof folder, "%s", log_folder);
    kill_at = n;
    calls = 0;
    if (n) return;
    char name[8192], id[96];
    struct statx s;
    snprintf(name, sizeof name, "%s/journal", folder);
    journal = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND, 0600);
    statx(AT_FDCWD, root, 0, STATX_BASIC_STATS | STATX_BTIME, &s);
    identity(&s, id, sizeof id);
    say("E root %s\n", id);
    walk(root, 1);
}

static int begin(int relevant) {
    if (!relevant) return 0;
    pthread_mutex_lock(&mutex);
    if (kill_at && ++calls == kill_at) syscall(SYS_kill, getpid(), SIGKILL);
    return 1;
}

static void end(int begun, const char *what) {
    if (!begun) return;
    int kept = errno;
    if (journal >= 0 && what) {
        say("E %s\n", what);
        walk(root, 0);
    }
    pthread_mutex_unlock(&mutex);
    errno = kept;
}

#define CALL(relevant, what, type, call) \
    int begun = begin(relevant); \
    type result = call; \
    end(begun, what); \
    return result;

static int open_at(int at, const char *path, int flags, mode_t mode) {
    CALL((flags & (O_CREAT | O_TRUNC)) && below(at, path), "create", int, syscall(SYS_openat, at, path, flags, mode))
}

#define MODE \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list a; \
        va_start(a, flags); \
        mode = va_arg(a, mode_t); \
        va_end(a); \
    }

int open(const char *path, int flags, ...) { MODE return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return open_at(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE return open_at(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE return open_at(at, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

static FILE *open_stream(const char *name, const char *path, const char *mode) {
    FILE *(*real)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, name);
    CALL(mode[0] != 'r' && below(AT_FDCWD, path), "create", FILE *, real(path, mode))
}
FILE *fopen(const char *path, const char *mode) { return open_stream("fopen", path, mode); }
FILE *fopen64(const char *path, const char *mode) { return open_stream("fopen64", path, mode); }

int mkdirat(int at, const char *path, mode_t mode) {
    CALL(below(at, path), "mkdir", int, syscall(SYS_mkdirat, at, path, mode))
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    CALL(below(from, old) || below(to, new), "rename", int, syscall(SYS_renameat2, from, old, to, new, flags))
}
int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
    CALL(below(to, new), "link", int, syscall(SYS_linkat, from, old, to, new, flags))
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

int unlinkat(int at, const char *path, int flags) {
    CALL(below(at, path), "unlink", int, syscall(SYS_unlinkat, at, path, flags))
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    int result = unlink(path);
    return result && errno == EISDIR ? rmdir(path) : result;
}

static int sync_fd(int fd, long number) {
    int begun = begin(fd_below(fd));
    if (begun && journal >= 0) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        say("E sync\n");
        walk(root, 0);
        keep(path);
    }
    int result = syscall(number, fd);
    end(begun, NULL);
    return result;
}
int fsync(int fd) { return sync_fd(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_fd(fd, SYS_fdatasync); }

int ftruncate(int fd, off_t length) { CALL(fd_below(fd), NULL, int, syscall(SYS_ftruncate, fd, length)) }
int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

/* Half of what is written arrives before the kill. */
static ssize_t written(int fd, const void *bytes, size_t count, off_t at) {
    int relevant = kill_at && fd_below(fd);
    if (relevant && calls + 1 == kill_at) count /= 2;
    int last = relevant && calls + 1 == kill_at;
    ssize_t result;
    if (last) {
        result = at < 0 ? syscall(SYS_write, fd, bytes, count) : syscall(SYS_pwrite64, fd, bytes, count, at);
        begin(1);
    }
    int begun = begin(relevant);
    result = at < 0 ? syscall(SYS_write, fd, bytes, count) : syscall(SYS_pwrite64, fd, bytes, count, at);
    end(begun, NULL);
    return result;
}
ssize_t write(int fd, const void *bytes, size_t count) { return written(fd, bytes, count, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return written(fd, bytes, count, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t at) { return written(fd, bytes, count, at); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
    CALL(kill_at && fd_below(fd), NULL, ssize_t, syscall(SYS_writev, fd, parts, count))
}
