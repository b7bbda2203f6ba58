/* What every call of the runtime passes through: initialisation, the thread's device and context, its last error. */
#include <execinfo.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime.h"

enum { MOST_DEVICES = 64, MOST_FRAMES = 48 };

const int emulator_runtime = 1;

static __thread cudaError_t last_error;
static __thread int chosen_device;      /* by cudaSetDevice; counts until a context is current */
static CUcontext primary[MOST_DEVICES];
static bool initialised;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

cudaError_t tell(int code) {
    if (code != CUDA_SUCCESS) last_error = code;
    return code;
}

cudaError_t not_emulated(const char *what, const char *name) {
    fprintf(stderr, "CUDA runtime emulator: no %s %s\n", what, name);
    return tell(CUDA_ERROR_NOT_SUPPORTED);
}

cudaError_t initialise(void) {
    pthread_mutex_lock(&lock);
    cudaError_t code = initialised ? CUDA_SUCCESS : cuInit(0);
    initialised = code == CUDA_SUCCESS;
    pthread_mutex_unlock(&lock);
    return code;
}

/* With CUDA_EMULATOR_CONTEXTS each new context is told on stderr, and who made it. */
static void say_who(int device) {
    void *frames[MOST_FRAMES];
    if (!getenv("CUDA_EMULATOR_CONTEXTS")) return;
    fprintf(stderr, "CUDA runtime emulator: a context on device %d, made by\n", device);
    backtrace_symbols_fd(frames, backtrace(frames, MOST_FRAMES), 2);
}

static cudaError_t retain_once(int device) {
    int count = 0;
    cudaError_t code = cuDeviceGetCount(&count);
    if (code != CUDA_SUCCESS) return code;
    if (count == 0) return ERROR_NO_DEVICE;
    if (device < 0 || device >= count) return CUDA_ERROR_INVALID_DEVICE;
    if (primary[device]) return CUDA_SUCCESS;
    say_who(device);
    return cuDevicePrimaryCtxRetain(&primary[device], device);
}

cudaError_t retain(int device) {
    cudaError_t code = initialise();
    if (code != CUDA_SUCCESS) return code;
    pthread_mutex_lock(&lock);
    code = retain_once(device);
    pthread_mutex_unlock(&lock);
    return code;
}

/* A context that the thread has already stays, be it the driver API that made it current. */
cudaError_t enter(void) {
    CUcontext current = NULL;
    cudaError_t code = initialise();
    if (code == CUDA_SUCCESS) code = cuCtxGetCurrent(&current);
    if (code != CUDA_SUCCESS || current) return code;
    code = retain(chosen_device);
    return code != CUDA_SUCCESS ? code : cuCtxSetCurrent(primary[chosen_device]);
}

EXPORT cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = CUDA_SUCCESS;
    return error;
}

EXPORT cudaError_t cudaPeekAtLastError(void) { return last_error; }

/* Makes the device's primary context at once, as it does since CUDA 12. */
EXPORT cudaError_t cudaSetDevice(int device) {
    cudaError_t code = retain(device);
    if (code != CUDA_SUCCESS) return tell(code);
    chosen_device = device;
    return tell(cuCtxSetCurrent(primary[device]));
}

/* Makes no context. Before one is current, the answer is what cudaSetDevice was told, or the first device. */
EXPORT cudaError_t cudaGetDevice(int *device) {
    CUcontext current = NULL;
    *device = chosen_device;
    cudaError_t code = initialise();
    if (code == CUDA_SUCCESS) code = cuCtxGetCurrent(&current);
    if (code == CUDA_SUCCESS && current) code = cuCtxGetDevice(device);
    return tell(code);
}

EXPORT cudaError_t cudaInitDevice(int device, unsigned device_flags, unsigned flags) {
    (void)device_flags, (void)flags;
    return tell(retain(device));
}

static const struct {
    cudaError_t code;
    const char *name, *text;
} ERRORS[] = {
    {CUDA_SUCCESS, "cudaSuccess", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "cudaErrorInvalidValue", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "cudaErrorMemoryAllocation", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "cudaErrorInitializationError", "initialization error"},
    {CUDA_ERROR_DEVICE_UNAVAILABLE, "cudaErrorDevicesUnavailable", "CUDA-capable device(s) is/are busy or unavailable"},
    {ERROR_INVALID_DEVICE_FUNCTION, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {ERROR_NO_DEVICE, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_DEVICE, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "cudaErrorDeviceUninitialized", "invalid device context"},
    {CUDA_ERROR_ECC_UNCORRECTABLE, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {CUDA_ERROR_INVALID_HANDLE, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "cudaErrorSymbolNotFound", "named symbol not found"},
    {CUDA_ERROR_NOT_READY, "cudaErrorNotReady", "device not ready"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {CUDA_ERROR_CONTEXT_IS_DESTROYED, "cudaErrorContextIsDestroyed", "context is destroyed"},
    {CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "cudaErrorHostMemoryAlreadyRegistered",
     "part or all of the requested memory range is already mapped"},
    {CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {CUDA_ERROR_LAUNCH_FAILED, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {CUDA_ERROR_NOT_PERMITTED, "cudaErrorNotPermitted", "operation not permitted"},
    {CUDA_ERROR_NOT_SUPPORTED, "cudaErrorNotSupported", "operation not supported"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {CUDA_ERROR_CAPTURED_EVENT, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
};

static const char *UNKNOWN = "unrecognized error code";

EXPORT const char *cudaGetErrorName(cudaError_t code) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) return ERRORS[i].name;
    return UNKNOWN;
}

EXPORT const char *cudaGetErrorString(cudaError_t code) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) return ERRORS[i].text;
    return UNKNOWN;
}
