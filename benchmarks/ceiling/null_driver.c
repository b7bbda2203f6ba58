/* A libcuda.so.1 whose calls do nothing at once, to find the ceiling of a loader's own code onto a GPU.
 *
 * There is one device. No copy is made, every event has happened, and page-locked memory is ordinary memory. A library
 * finds any function that it looks up; what has no row here returns success and writes nothing.
 */
#include <stdint.h>
#include <string.h>

/* Handles are numbers that no library looks behind. */
static uintptr_t last_handle;
static int make_handle(uintptr_t *made) {
    *made = __atomic_add_fetch(&last_handle, 0x10, __ATOMIC_RELAXED);
    return 0;
}

static int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
static int cuDeviceGetCount(int *count) { return *count = 1, 0; }
static int cuDeviceGet(int *device, int number) { return *device = number, 0; }
static int cuDeviceGetPCIBusId(char *id, int length, int device) { return (void)device, *id = 0, length < 1; }
static int cuDevicePrimaryCtxRetain(uintptr_t *context, int device) { return (void)device, make_handle(context); }
static int cuStreamCreate(uintptr_t *stream, unsigned flags) { return (void)flags, make_handle(stream); }
static int cuEventCreate(uintptr_t *event, unsigned flags) { return (void)flags, make_handle(event); }
static int cuStreamIsCapturing(void *stream, int *status) { return (void)stream, *status = 0; }
static int nothing(void) { return 0; }

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status);

#define ROW(name) {#name, name}
static const struct {
    const char *name;
    void *function;
} FUNCTIONS[] = {
    ROW(cuDriverGetVersion), ROW(cuDeviceGetCount), ROW(cuDeviceGet), ROW(cuDeviceGetPCIBusId),
    ROW(cuDevicePrimaryCtxRetain), ROW(cuStreamCreate), ROW(cuEventCreate), ROW(cuStreamIsCapturing),
    {"cuGetProcAddress", cuGetProcAddress_v2},
};

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    (void)version, (void)flags;
    *function = nothing;
    for (size_t i = 0; i < sizeof FUNCTIONS / sizeof *FUNCTIONS; i++)
        if (strcmp(FUNCTIONS[i].name, name) == 0) *function = FUNCTIONS[i].function;
    if (status) *status = 0;
    return 0;
}
