/* An emulated cuFile (libcufile.so.0) on the emulated CUDA driver, whose device memory is host memory: it says that
   GPUDirect Storage is there, and reads files with pread. Preloaded, it is the one that cuda-bindings finds.

   Two variables are cuFile's own: CUFILE_USE_PCIP2PDMA and CUFILE_ALLOW_COMPAT_MODE. What it does beside:
     CUFILE_NO_DRIVER        nvidia-fs is not loaded
     CUFILE_REFUSE=N         registering a file fails with CUfileOpError N
     CUFILE_REFUSE_MEMORY=N  registering memory fails with it
     CUFILE_AT_MOST=N        a read returns N bytes at most
     CUFILE_FAIL=N           a read returns -N
     CUFILE_ERRNO=N          a read returns -1, with errno N
     CUFILE_WAIT_FOR=F       a read waits until somebody has opened the named pipe F for writing

   cufile_count(what) counts: "files" and "memory" that are registered now; "opened" drivers; "reads"; "indirect", those
   that the real one makes by way of its own buffer, since the memory is not registered or something is no multiple of a
   page (but for what ends the file); "faults": memory that was freed while registered, or registered twice.
   A read into memory on which the emulated driver has an operation pending is told to that driver, which reports it:
   real ones give wrong bytes, at times. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, NO_SUCH_DRIVER = 5001, INVALID_POINTER = 5012, NO_DIRECT_IO = 5020, INVALID_VALUE = 5022,
       ALREADY_REGISTERED = 5023, NOT_REGISTERED = 5024, ALLOW_COMPAT_MODE = 1, USE_PCIP2PDMA = 7 };

typedef struct { int error, cuda_error; } status;

/* CUfileDescr_t and CUfileDrvProps_t, as far as we use them. */
typedef struct { int type; union { int fd; void *handle; } handle; const void *operations; } description;
typedef struct {
    struct {
        unsigned major_version, minor_version;
        size_t poll_threshold, most_direct_io;
        unsigned supported, control;
    } driver;
    unsigned features, device_cache, buffer_cache, pinned_memory, batch_size, batch_timeout;
} properties;

/* What a registered file is to us: the same file without O_DIRECT, as unaligned reads are our own business. */
typedef struct { int fd; } registration;

static struct memory { uintptr_t base; size_t size; struct memory *next; } *memories;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static const status SUCCESS = {0, 0};
static atomic_long files, memory, opened, reads, indirect, faults;

static long setting(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

static bool is_on(const char *name, bool otherwise) {
    const char *text = getenv(name);
    return text ? strcmp(text, "true") == 0 : otherwise;
}

long cufile_count(const char *what) {
    static const struct { const char *name; atomic_long *count; } COUNTS[] = {
        {"files", &files}, {"memory", &memory}, {"opened", &opened}, {"reads", &reads}, {"indirect", &indirect},
        {"faults", &faults},
    };
    for (size_t i = 0; i < sizeof COUNTS / sizeof *COUNTS; i++)
        if (strcmp(COUNTS[i].name, what) == 0) return *COUNTS[i].count;
    return -1;
}

status cuFileGetVersion(int *version) { *version = 1150; return SUCCESS; }
status cuFileDriverOpen(void) { opened++; return SUCCESS; }

status cuFileDriverGetProperties(properties *out) {
    if (!opened) return (status){NO_SUCH_DRIVER, 0};
    memset(out, 0, sizeof *out);
    if (!getenv("CUFILE_NO_DRIVER"))
        out->driver.major_version = 2, out->driver.minor_version = 25;
    out->driver.control = (unsigned)is_on("CUFILE_ALLOW_COMPAT_MODE", true) << ALLOW_COMPAT_MODE;
    return SUCCESS;
}

status cuFileGetParameterBool(int parameter, bool *value) {
    if (parameter == ALLOW_COMPAT_MODE)
        *value = is_on("CUFILE_ALLOW_COMPAT_MODE", true);
    else if (parameter == USE_PCIP2PDMA)
        *value = is_on("CUFILE_USE_PCIP2PDMA", false);
    else
        return (status){INVALID_VALUE, 0};
    return SUCCESS;
}

/* Files */

status cuFileHandleRegister(void **handle, const description *file) {
    if (setting("CUFILE_REFUSE"))
        return (status){(int)setting("CUFILE_REFUSE"), 0};
    int flags = fcntl(file->handle.fd, F_GETFL);
    if (file->type != 1 || flags < 0 || !(flags & O_DIRECT))
        return (status){NO_DIRECT_IO, 0};
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file->handle.fd);
    registration *made = malloc(sizeof *made);
    made->fd = open(path, O_RDONLY | O_CLOEXEC);
    *handle = made;
    files++;
    return SUCCESS;
}

void cuFileHandleDeregister(void *handle) {
    close(((registration *)handle)->fd);
    free(handle);
    files--;
}

/* Memory */

static void *driver_function(const char *name) {
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    void *found = driver ? dlsym(driver, name) : NULL;
    if (driver) dlclose(driver);
    return found;
}

/* Whether all of it is in one live allocation of the device's. It takes a current context, as the real one does. */
static bool is_allocated(uintptr_t start, size_t size) {
    int (*range_of)(uint64_t *, size_t *, uint64_t) = driver_function("cuMemGetAddressRange_v2");
    uint64_t base = 0;
    size_t length = 0;
    return range_of && range_of(&base, &length, start) == 0 && start + size <= base + length;
}

static struct memory *registered_at(uintptr_t base) {
    struct memory *each = memories;
    while (each && each->base != base) each = each->next;
    return each;
}

status cuFileBufRegister(const void *base, size_t size, int flags) {
    (void)flags;
    if (setting("CUFILE_REFUSE_MEMORY"))
        return (status){(int)setting("CUFILE_REFUSE_MEMORY"), 0};
    if (!is_allocated((uintptr_t)base, size)) return (status){INVALID_POINTER, 0};
    pthread_mutex_lock(&lock);
    bool known = registered_at((uintptr_t)base);
    if (!known) {
        struct memory *made = malloc(sizeof *made);
        *made = (struct memory){(uintptr_t)base, size, memories};
        memories = made;
        memory++;
    }
    pthread_mutex_unlock(&lock);
    if (known) faults++;
    return known ? (status){ALREADY_REGISTERED, 0} : SUCCESS;
}

status cuFileBufDeregister(const void *base) {
    pthread_mutex_lock(&lock);
    struct memory **place = &memories;
    while (*place && (*place)->base != (uintptr_t)base) place = &(*place)->next;
    struct memory *found = *place;
    if (found) *place = found->next;
    pthread_mutex_unlock(&lock);
    if (!found) return (status){NOT_REGISTERED, 0};
    if (!is_allocated(found->base, found->size)) faults++;
    free(found);
    memory--;
    return SUCCESS;
}

static bool is_registered(uintptr_t base, size_t end) {
    pthread_mutex_lock(&lock);
    struct memory *found = registered_at(base);
    bool holds = found && end <= found->size;
    pthread_mutex_unlock(&lock);
    return holds;
}

/* Reads */

static bool ends_file(int fd, off_t end) {
    struct stat now;
    return fstat(fd, &now) == 0 && end == now.st_size;
}

ssize_t cuFileRead(void *handle, void *base, size_t size, off_t file_offset, off_t base_offset) {
    int fd = ((registration *)handle)->fd;
    reads++;
    if (getenv("CUFILE_WAIT_FOR"))
        close(open(getenv("CUFILE_WAIT_FOR"), O_RDONLY));
    if (setting("CUFILE_ERRNO")) {
        errno = (int)setting("CUFILE_ERRNO");
        return -1;
    }
    if (setting("CUFILE_FAIL"))
        return -setting("CUFILE_FAIL");
    uintptr_t target = (uintptr_t)base + (uintptr_t)base_offset;
    if (!is_allocated(target, size)) return -INVALID_POINTER;
    bool is_odd_end = size < PAGE && ends_file(fd, file_offset + (off_t)size);
    bool is_aligned = target % PAGE == 0 && file_offset % PAGE == 0 && (size % PAGE == 0 || is_odd_end);
    if (!is_aligned || !is_registered((uintptr_t)base, (size_t)base_offset + size)) indirect++;
    size_t most = (size_t)setting("CUFILE_AT_MOST");
    if (most && size > most)
        size = most;
    void (*host_access)(uint64_t, size_t, int) = driver_function("emulator_host_access");
    if (host_access) host_access(target, size, 1);
    return pread(fd, (void *)target, size, file_offset);
}
