/* The driver's beginnings: initialisation, versions, the primary context and the stack of contexts of each thread. */
#include "emulator.h"

#include <stdlib.h>

enum { DEEPEST_STACK = 16, DEFAULT_DRIVER_VERSION = 13000, API_VERSION = 3020, GREATEST_PRIORITY = -5 };

struct context contexts[MOST_DEVICES];

/* Asked for in the environment, since a process may look before a test can tell: one by default. */
int device_count(void) {
    const char *text = getenv("CUDA_EMULATOR_DEVICES");
    int count = text ? atoi(text) : 1;
    return count < 0 ? 0 : count > MOST_DEVICES ? MOST_DEVICES : count;
}

bool is_device(CUdevice device) { return device >= 0 && device < device_count(); }

static bool is_context(const struct context *context) {
    return context >= contexts && context < contexts + MOST_DEVICES;
}

static bool initialised;
static __thread struct context *stack[DEEPEST_STACK];
static __thread int depth;

bool is_initialised(void) { return initialised; }

long contexts_retained(void) {
    long sum = 0;
    for (int i = 0; i < MOST_DEVICES; i++) sum += contexts[i].retained;
    return sum;
}

static struct context *current(void) { return depth ? stack[depth - 1] : NULL; }

int current_device(void) { return current() ? (int)(current() - contexts) : -1; }

/* A thread has no context until it is given one, whatever the other threads have. */
CUresult check_context(void) {
    if (!current()) return CUDA_ERROR_INVALID_CONTEXT;
    return current()->retained ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

int driver_version(void) {
    const char *text = getenv("CUDA_EMULATOR_DRIVER_VERSION");
    return text ? atoi(text) : DEFAULT_DRIVER_VERSION;
}

CUresult cuInit(unsigned flags) {
    BEGIN_CALL(NEEDS_NOTHING);
    if (flags) return end_call(CUDA_ERROR_INVALID_VALUE);
    initialised = true;
    return end_call(CUDA_SUCCESS);
}

CUresult cuDriverGetVersion(int *version) {
    BEGIN_CALL(NEEDS_NOTHING);
    *version = driver_version();
    return end_call(CUDA_SUCCESS);
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    BEGIN_CALL(NEEDS_INIT);
    if (!is_device(device)) return end_call(CUDA_ERROR_INVALID_DEVICE);
    contexts[device].retained++;
    *context = &contexts[device];
    return end_call(CUDA_SUCCESS);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    BEGIN_RELEASE();
    if (!is_device(device)) return end_call(CUDA_ERROR_INVALID_DEVICE);
    if (contexts[device].retained == 0) return end_call(CUDA_ERROR_INVALID_CONTEXT);
    contexts[device].retained--;
    return end_call(CUDA_SUCCESS);
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
    BEGIN_CALL(NEEDS_INIT);
    (void)device;
    return end_call(CUDA_ERROR_NOT_SUPPORTED);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    BEGIN_CALL(NEEDS_INIT);
    if (!is_device(device)) return end_call(CUDA_ERROR_INVALID_DEVICE);
    *flags = contexts[device].flags;
    *active = contexts[device].retained > 0;
    return end_call(CUDA_SUCCESS);
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
    BEGIN_CALL(NEEDS_INIT);
    if (!is_device(device)) return end_call(CUDA_ERROR_INVALID_DEVICE);
    contexts[device].flags = flags;
    return end_call(CUDA_SUCCESS);
}

/* There is the primary context only. kvikio looks for these three, and does without them. */
CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device) {
    (void)context, (void)flags, (void)device;
    BEGIN_CALL(NEEDS_INIT);
    return end_call(CUDA_ERROR_NOT_SUPPORTED);
}

CUresult cuCtxCreate_v4(CUcontext *context, void *parameters, unsigned flags, CUdevice device) {
    (void)parameters;
    return cuCtxCreate_v2(context, flags, device);
}

CUresult cuCtxDestroy_v2(CUcontext context) {
    (void)context;
    BEGIN_CALL(NEEDS_INIT);
    return end_call(CUDA_ERROR_NOT_SUPPORTED);
}

CUresult cuCtxSetCurrent(CUcontext context) {
    BEGIN_CALL(NEEDS_INIT);
    if (context && !is_context(context)) return end_call(CUDA_ERROR_INVALID_CONTEXT);
    if (context && depth == 0) depth = 1;
    if (context) stack[depth - 1] = context;
    else if (depth) depth--;
    return end_call(CUDA_SUCCESS);
}

CUresult cuCtxGetCurrent(CUcontext *context) {
    BEGIN_CALL(NEEDS_INIT);
    *context = current();
    return end_call(CUDA_SUCCESS);
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
    BEGIN_CALL(NEEDS_INIT);
    if (!is_context(context) || depth == DEEPEST_STACK) return end_call(CUDA_ERROR_INVALID_CONTEXT);
    stack[depth++] = context;
    return end_call(CUDA_SUCCESS);
}

CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    BEGIN_CALL(NEEDS_INIT);
    if (depth == 0) return end_call(CUDA_ERROR_INVALID_CONTEXT);
    depth--;
    if (context) *context = stack[depth];
    return end_call(CUDA_SUCCESS);
}

CUresult cuCtxGetDevice(CUdevice *device) {
    BEGIN_CALL(NEEDS_CONTEXT);
    *device = current_device();
    return end_call(CUDA_SUCCESS);
}

CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext context) {
    BEGIN_CALL(NEEDS_INIT);
    if (!context) context = current();
    if (!is_context(context)) return end_call(CUDA_ERROR_INVALID_CONTEXT);
    *device = (int)(context - contexts);
    return end_call(CUDA_SUCCESS);
}

CUresult cuCtxGetApiVersion(CUcontext context, unsigned *version) {
    (void)context;
    BEGIN_CALL(NEEDS_INIT);
    *version = API_VERSION;
    return end_call(CUDA_SUCCESS);
}

CUresult cuCtxGetFlags(unsigned *flags) {
    BEGIN_CALL(NEEDS_CONTEXT);
    *flags = current()->flags;
    return end_call(CUDA_SUCCESS);
}

CUresult cuCtxGetId(CUcontext context, unsigned long long *id) {
    BEGIN_CALL(NEEDS_INIT);
    *id = 1 + (uint64_t)((context ? context : current()) - contexts);
    return end_call(CUDA_SUCCESS);
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    BEGIN_CALL(NEEDS_CONTEXT);
    *least = 0;
    *greatest = GREATEST_PRIORITY;
    return end_call(CUDA_SUCCESS);
}

CUresult cuCtxSynchronize(void) {
    BEGIN_CALL(NEEDS_CONTEXT);
    run_all();
    return end_call(sticky_error());
}

CUresult cuCtxSynchronize_v2(CUcontext context) {
    BEGIN_CALL(NEEDS_INIT);
    if (!is_context(context)) return end_call(CUDA_ERROR_INVALID_CONTEXT);
    run_all();
    return end_call(sticky_error());
}
