/* A disk that fails at the system call. Preloaded, it lets preadv and preadv2 fail, return less than they are asked for,
 * or never return, as the process plans it. Reads by other calls are left alone: Python's own files use those.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PASS, INTERRUPTED, AGAIN, IO_ERROR, NO_MEMORY, SHORT, SHORT_ODD, END, HANG, KINDS };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned long long seed;
static int one_in, only_kind, hung, active;
static long calls, only_at, faults;

/* Plan faults for the reads from now on: of kind `kind` at read number `at`, or, where `every` is not 0, of any kind but
 * HANG at one in `every` reads, as `start` decides. */
void faulty_disk_plan(unsigned long long start, int every, int kind, long at) {
    pthread_mutex_lock(&lock);
    seed = start, one_in = every, only_kind = kind, only_at = at, calls = 0, faults = 0, active = 1;
    pthread_mutex_unlock(&lock);
}

/* No more faults; what hangs goes on. */
void faulty_disk_heal(void) {
    pthread_mutex_lock(&lock);
    active = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

long faulty_disk_faults(void) { return __atomic_load_n(&faults, __ATOMIC_SEQ_CST); }
long faulty_disk_reads(void) { return __atomic_load_n(&calls, __ATOMIC_SEQ_CST); }
int faulty_disk_hung(void) { return __atomic_load_n(&hung, __ATOMIC_SEQ_CST); }

static unsigned long long mixed(unsigned long long x) { /* splitmix64 */
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

/* What happens to the next read; a number to go with it. */
static int next_kind(unsigned long long *number) {
    pthread_mutex_lock(&lock);
    int kind = PASS;
    if (active) {
        long call = calls++;
        *number = mixed(seed * 1000003 + (unsigned long long)call);
        if (!one_in) kind = call == only_at ? only_kind : PASS;
        else if (*number % (unsigned)one_in == 0) kind = 1 + (int)((*number >> 20) % (HANG - 1));
        if (kind != PASS) faults++;
        if (kind == HANG) {
            hung++;
            while (active) pthread_cond_wait(&changed, &lock);
            hung--;
            kind = PASS;
        }
    }
    pthread_mutex_unlock(&lock);
    return kind;
}

typedef ssize_t (*preadv2_t)(int, const struct iovec *, int, off_t, int);

static ssize_t faulty(int fd, const struct iovec *vector, int count, off_t offset, int flags) {
    static preadv2_t real;
    if (!real) real = (preadv2_t)dlsym(RTLD_NEXT, "preadv64v2");
    unsigned long long number = 0;
    struct iovec less = count ? vector[0] : (struct iovec){0, 0};
    switch (next_kind(&number)) {
        case INTERRUPTED: errno = EINTR; return -1;
        case AGAIN: errno = EAGAIN; return -1;
        case IO_ERROR: errno = EIO; return -1;
        case NO_MEMORY: errno = ENOMEM; return -1;
        case END: return 0;
        case SHORT: /* By whole pages, as a direct read may be. */
            less.iov_len = less.iov_len / 8192 * 4096;
            break;
        case SHORT_ODD:
            less.iov_len = less.iov_len > 1 ? 1 + number % (less.iov_len - 1) : less.iov_len;
            break;
        default: return real(fd, vector, count, offset, flags);
    }
    if (!less.iov_len) less = vector[0];
    ssize_t landed = real(fd, &less, 1, offset, flags);
    if (landed >= 0 || errno != EINVAL) return landed;
    /* A direct read of an odd length: as if the disk had stopped there. */
    less.iov_len = vector[0].iov_len;
    landed = real(fd, &less, 1, offset, flags);
    return landed > 1 ? 1 + (ssize_t)(number % (unsigned long long)(landed - 1)) : landed;
}

ssize_t preadv(int fd, const struct iovec *v, int n, off_t offset) { return faulty(fd, v, n, offset, 0); }
ssize_t preadv64(int fd, const struct iovec *v, int n, off_t offset) { return faulty(fd, v, n, offset, 0); }
ssize_t preadv2(int fd, const struct iovec *v, int n, off_t offset, int f) { return faulty(fd, v, n, offset, f); }
ssize_t preadv64v2(int fd, const struct iovec *v, int n, off_t offset, int f) { return faulty(fd, v, n, offset, f); }
