/* An emulated cuFile (libcufile.so.0) on the emulated CUDA driver, whose device memory is host memory: it says that
   GPUDirect Storage is there, and reads files with pread. Preloaded, it is the one that kvikio and cuda-bindings find.

   What it does beside is said by the environment:
     CUFILE_NO_DRIVER    nvidia-fs is not loaded
     CUFILE_REFUSE=N     registering a file fails with CUfileOpError N
     CUFILE_AT_MOST=N    a read returns N bytes at most
     CUFILE_FAIL=N       a read returns -N
     CUFILE_WAIT_FOR=F   a read waits until somebody has opened the named pipe F for writing
   What it was asked for is counted: cufile_registered(), cufile_reads(). A read into memory on which the emulated
   driver has an operation pending is told to that driver, which reports it: real ones give wrong bytes, at times. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static const status SUCCESS = {0, 0};
static atomic_long registered, reads;

static long setting(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

long cufile_registered(void) { return registered; }
long cufile_reads(void) { return reads; }

status cuFileGetVersion(int *version) { *version = 1150; return SUCCESS; }
status cuFileDriverOpen(void) { return SUCCESS; }
status cuFileDriverClose(void) { return SUCCESS; }
status cuFileDriverClose_v2(void) { return SUCCESS; }
status cuFileDriverSetPollMode(int poll, size_t threshold) { (void)poll, (void)threshold; return SUCCESS; }
status cuFileDriverSetMaxCacheSize(size_t kib) { (void)kib; return SUCCESS; }
status cuFileDriverSetMaxPinnedMemSize(size_t kib) { (void)kib; return SUCCESS; }
status cuFileBufRegister(const void *base, size_t size, int flags) {
    (void)base, (void)size, (void)flags;
    return SUCCESS;
}
status cuFileBufDeregister(const void *base) { (void)base; return SUCCESS; }

status cuFileDriverGetProperties(properties *out) {
    memset(out, 0, sizeof *out);
    if (!getenv("CUFILE_NO_DRIVER"))
        out->driver.major_version = 2, out->driver.minor_version = 25;
    return SUCCESS;
}

status cuFileHandleRegister(void **handle, const description *file) {
    if (setting("CUFILE_REFUSE"))
        return (status){(int)setting("CUFILE_REFUSE"), 0};
    int flags = fcntl(file->handle.fd, F_GETFL);
    if (file->type != 1 || flags < 0 || !(flags & O_DIRECT))
        return (status){5020, 0}; /* CU_FILE_DIO_NOT_SET */
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file->handle.fd);
    registration *made = malloc(sizeof *made);
    made->fd = open(path, O_RDONLY | O_CLOEXEC);
    *handle = made;
    registered++;
    return SUCCESS;
}

void cuFileHandleDeregister(void *handle) {
    close(((registration *)handle)->fd);
    free(handle);
    registered--;
}

static void tell_driver(void *start, size_t size) {
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    void (*host_access)(uint64_t, size_t, int) = driver ? dlsym(driver, "emulator_host_access") : NULL;
    if (host_access)
        host_access((uintptr_t)start, size, 1);
    if (driver)
        dlclose(driver);
}

ssize_t cuFileRead(void *handle, void *base, size_t size, off_t file_offset, off_t base_offset) {
    reads++;
    if (getenv("CUFILE_WAIT_FOR"))
        close(open(getenv("CUFILE_WAIT_FOR"), O_RDONLY));
    if (setting("CUFILE_FAIL"))
        return -setting("CUFILE_FAIL");
    size_t most = (size_t)setting("CUFILE_AT_MOST");
    if (most && size > most)
        size = most;
    char *target = (char *)base + base_offset;
    tell_driver(target, size);
    return pread(((registration *)handle)->fd, target, size, file_offset);
}

/* kvikio looks these up, and we never call them. */
#define NOT_HERE(name) status name(void) { return (status){5038, 0}; }
NOT_HERE(cuFileWrite)
NOT_HERE(cuFileBatchIOSetUp)
NOT_HERE(cuFileBatchIOSubmit)
NOT_HERE(cuFileBatchIOGetStatus)
NOT_HERE(cuFileBatchIOCancel)
NOT_HERE(cuFileBatchIODestroy)
NOT_HERE(cuFileReadAsync)
NOT_HERE(cuFileWriteAsync)
NOT_HERE(cuFileStreamRegister)
NOT_HERE(cuFileStreamDeregister)
