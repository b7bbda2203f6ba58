/* A disk of any speed, to find the ceiling of a loader's own code.
 *
 * Preloaded, it answers reads of LARGE bytes and more without moving a byte, as late as a device of NULLDISK_GBS (GB/s,
 * all readers together) and NULLDISK_US (microseconds of latency) would: pread, preadv, preadv2, read, and Linux AIO
 * through syscall(2). Smaller reads are real, and those that begin before NULLDISK_HEADER and end at most HEADER_REST
 * behind it: headers. cachestat(2) finds nothing cached. It does not see io_uring and mmap: what reads by those reads
 * the real disk. For figures only: the bytes are garbage.
 *
 * NULLDISK_CLOCK names a file of 8 bytes: processes with the same one read the same disk.
 *
 * NULLDISK_REPORT names a file that gets one line at exit: reads, bytes, and what share of the samples of a thread that
 * wakes every SAMPLE_NS found the GIL held. CPython up to 3.11 only: later ones keep the current thread's state in
 * thread-local memory; there the share is -1.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define LARGE (128 << 10)
#define HEADER_REST (1 << 20)
#define SAMPLE_NS 200000
#define CACHESTAT 451
#define CONTEXTS 256
#define PENDING 256

typedef long long ns_t;
static double ns_per_byte = 0.02; /* 50 GB/s */
static ns_t latency = 80000;
static atomic_llong own_clock, reads, bytes_read, samples, samples_held;
static atomic_llong *next_free = &own_clock;
static long long header;
static atomic_llong first_read, last_read; /* Samples count between these only. */

static ns_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(ns_t moment) {
    struct timespec t = {moment / 1000000000LL, moment % 1000000000LL};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) continue;
}

/* When a read of this length, asked for now, has been answered. */
static ns_t answered(size_t length) {
    ns_t cost = (ns_t)(length * ns_per_byte), t = now(), was = atomic_load(next_free), begin, none = 0;
    do begin = was > t ? was : t;
    while (!atomic_compare_exchange_weak(next_free, &was, begin + cost));
    atomic_fetch_add(&reads, 1);
    atomic_fetch_add(&bytes_read, length);
    atomic_compare_exchange_strong(&first_read, &none, t);
    atomic_store(&last_read, begin + cost + latency);
    return begin + cost + latency;
}

static ssize_t serve(size_t length) {
    sleep_until(answered(length));
    return (ssize_t)length;
}

#define REAL(name, type) \
    static type real;    \
    if (!real) real = (type)dlsym(RTLD_NEXT, name)

typedef ssize_t (*read_t)(int, void *, size_t);
typedef ssize_t (*pread_t)(int, void *, size_t, off_t);
typedef ssize_t (*preadv_t)(int, const struct iovec *, int, off_t);
typedef ssize_t (*preadv2_t)(int, const struct iovec *, int, off_t, int);

static int is_real(size_t length, off_t offset) {
    return length < LARGE || (offset < header && offset + (long long)length <= header + HEADER_REST);
}

#define PREAD(name)                                                 \
    ssize_t name(int fd, void *data, size_t length, off_t offset) { \
        REAL(#name, pread_t);                                       \
        return is_real(length, offset) ? real(fd, data, length, offset) : serve(length); \
    }
PREAD(pread)
PREAD(pread64)

static size_t total(const struct iovec *vector, int count) {
    size_t sum = 0;
    for (int i = 0; i < count; i++) sum += vector[i].iov_len;
    return sum;
}

#define PREADV(name)                                                              \
    ssize_t name(int fd, const struct iovec *vector, int count, off_t offset) {   \
        REAL(#name, preadv_t);                                                    \
        size_t length = total(vector, count);                                     \
        return is_real(length, offset) ? real(fd, vector, count, offset) : serve(length); \
    }
PREADV(preadv)
PREADV(preadv64)

#define PREADV2(name)                                                                      \
    ssize_t name(int fd, const struct iovec *vector, int count, off_t offset, int flags) { \
        REAL(#name, preadv2_t);                                                            \
        size_t length = total(vector, count);                                              \
        return is_real(length, offset) ? real(fd, vector, count, offset, flags) : serve(length);   \
    }
PREADV2(preadv2)
PREADV2(preadv64v2)

ssize_t read(int fd, void *data, size_t length) {
    REAL("read", read_t);
    /* Not of pipes and sockets, which cannot seek. */
    off_t offset = length < 1 << 20 ? 0 : lseek(fd, 0, SEEK_CUR);
    if (length < 1 << 20 || is_real(length, offset) || lseek(fd, (off_t)length, SEEK_CUR) < 0) return real(fd, data, length);
    return serve(length);
}

/* Linux AIO: what is pending of each context, by the order in which it is due. */
struct context {
    aio_context_t id;
    int count;
    struct io_event events[PENDING];
    ns_t due[PENDING];
};
static struct context contexts[CONTEXTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct context *find(aio_context_t id) {
    struct context *free = NULL;
    for (int i = 0; i < CONTEXTS; i++) {
        if (contexts[i].id == id) return &contexts[i];
        if (!contexts[i].id && !free) free = &contexts[i];
    }
    if (free) free->id = id;
    return free;
}

static void add(struct context *context, struct iocb *request, long long result, ns_t due) {
    int i = context->count++;
    for (; i && context->due[i - 1] > due; i--) {
        context->due[i] = context->due[i - 1];
        context->events[i] = context->events[i - 1];
    }
    context->due[i] = due;
    context->events[i] = (struct io_event){request->aio_data, (unsigned long)request, result, 0};
}

static long submit(aio_context_t id, long count, struct iocb **requests) {
    long done = 0;
    pthread_mutex_lock(&lock);
    struct context *context = find(id);
    for (; context && done < count && context->count < PENDING; done++) {
        struct iocb *request = requests[done];
        if (!is_real(request->aio_nbytes, request->aio_offset)) {
            add(context, request, (long long)request->aio_nbytes, answered(request->aio_nbytes));
        } else {
            ssize_t landed = pread(request->aio_fildes, (void *)request->aio_buf, request->aio_nbytes, request->aio_offset);
            add(context, request, landed < 0 ? -errno : landed, 0);
        }
    }
    pthread_mutex_unlock(&lock);
    if (!done && count) errno = EAGAIN;
    return done || !count ? done : -1;
}

static long get_events(aio_context_t id, long least, long most, struct io_event *events, struct timespec *timeout) {
    pthread_mutex_lock(&lock);
    struct context *context = find(id);
    int count = context ? context->count : 0;
    ns_t until = count >= least && least > 0 ? context->due[least - 1] : 0;
    pthread_mutex_unlock(&lock);
    ns_t last = timeout ? now() + timeout->tv_sec * 1000000000LL + timeout->tv_nsec : until;
    sleep_until(until < last ? until : last);
    pthread_mutex_lock(&lock);
    ns_t t = now();
    int given = 0;
    while (context && given < context->count && given < most && context->due[given] <= t) {
        events[given] = context->events[given];
        given++;
    }
    if (given) {
        context->count -= given;
        memmove(context->events, context->events + given, context->count * sizeof context->events[0]);
        memmove(context->due, context->due + given, context->count * sizeof context->due[0]);
    }
    pthread_mutex_unlock(&lock);
    return given;
}

typedef long (*syscall_t)(long, ...);
long syscall(long number, ...) {
    REAL("syscall", syscall_t);
    va_list list;
    va_start(list, number);
    long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long), d = va_arg(list, long);
    long e = va_arg(list, long), f = va_arg(list, long);
    va_end(list);
    if (number == SYS_io_submit) return submit((aio_context_t)a, b, (struct iocb **)c);
    if (number == SYS_io_getevents) return get_events((aio_context_t)a, b, c, (struct io_event *)d, (struct timespec *)e);
    if (number == CACHESTAT) {
        memset((void *)c, 0, 5 * sizeof(long long));
        return 0;
    }
    return real(number, a, b, c, d, e, f);
}

static void *sample(void *current) {
    void *(*state)(void) = (void *(*)(void))current;
    for (ns_t moment = now();; moment += SAMPLE_NS) {
        sleep_until(moment);
        ns_t begun = atomic_load(&first_read);
        if (!begun || now() > atomic_load(&last_read)) continue;
        atomic_fetch_add(&samples, 1);
        if (state()) atomic_fetch_add(&samples_held, 1);
    }
    return NULL;
}

__attribute__((constructor)) static void start(void) {
    const char *speed = getenv("NULLDISK_GBS"), *delay = getenv("NULLDISK_US");
    if (speed) ns_per_byte = 1.0 / atof(speed);
    if (delay) latency = atoll(delay) * 1000;
    const char *clock = getenv("NULLDISK_CLOCK");
    int file = clock ? open(clock, O_RDWR | O_CLOEXEC) : -1;
    void *shared = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *next_free, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared != MAP_FAILED) next_free = shared;
    if (file >= 0) close(file);
    if (getenv("NULLDISK_HEADER")) header = atoll(getenv("NULLDISK_HEADER"));
    void *state = dlsym(RTLD_DEFAULT, "_PyThreadState_UncheckedGet");
    const char *version = (const char *)dlsym(RTLD_DEFAULT, "Py_Version");
    pthread_t thread;
    if (getenv("NULLDISK_REPORT") && state && version && *(const unsigned long *)version < 0x030c0000)
        pthread_create(&thread, NULL, sample, state);
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("NULLDISK_REPORT");
    FILE *file = path && atomic_load(&reads) ? fopen(path, "w") : NULL;
    if (!file) return;
    long long count = atomic_load(&samples);
    double held = count ? (double)atomic_load(&samples_held) / count : -1;
    fprintf(file, "%lld %lld %.4f\n", (long long)atomic_load(&reads), (long long)atomic_load(&bytes_read), held);
    fclose(file);
}
