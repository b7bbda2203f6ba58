/* The emulated devices: what they say of themselves. All are alike, and name a compute capability, for which kernels are
   compiled; see kernels.c. */
#include <stdio.h>
#include <string.h>

#include "emulator.h"

struct device_attribute {
    int number;
    int value;
};

/* CUdevice_attribute; what is not here is 0, which for most is "not supported". */
static const struct device_attribute ATTRIBUTES[] = {
    {1, 1024},      /* MAX_THREADS_PER_BLOCK */
    {2, 1024},      /* MAX_BLOCK_DIM_X */
    {3, 1024},      /* MAX_BLOCK_DIM_Y */
    {4, 64},        /* MAX_BLOCK_DIM_Z */
    {5, 2147483647},/* MAX_GRID_DIM_X */
    {6, 65535},     /* MAX_GRID_DIM_Y */
    {7, 65535},     /* MAX_GRID_DIM_Z */
    {8, 49152},     /* MAX_SHARED_MEMORY_PER_BLOCK */
    {10, 32},       /* WARP_SIZE */
    {12, 65536},    /* MAX_REGISTERS_PER_BLOCK */
    {13, 1755000},  /* CLOCK_RATE */
    {16, 132},      /* MULTIPROCESSOR_COUNT */
    {31, 1},        /* CONCURRENT_KERNELS */
    {39, 2048},     /* MAX_THREADS_PER_MULTIPROCESSOR */
    {40, 3},        /* ASYNC_ENGINE_COUNT */
    {41, 1},        /* UNIFIED_ADDRESSING */
    {75, 9},        /* COMPUTE_CAPABILITY_MAJOR */
    {76, 0},        /* COMPUTE_CAPABILITY_MINOR */
    {78, 1},        /* STREAM_PRIORITIES_SUPPORTED */
    {91, 1},        /* CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM */
    {97, 232448},   /* MAX_SHARED_MEMORY_PER_BLOCK_OPTIN */
    {99, 1},        /* HOST_REGISTER_SUPPORTED */
    {102, 1},       /* VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED */
    {103, 1},       /* HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED */
    {115, 1},       /* MEMORY_POOLS_SUPPORTED */
    {142, 1},       /* HOST_NUMA_MEMORY_POOLS_SUPPORTED */
    {144, 1},       /* HOST_MEMORY_POOLS_SUPPORTED */
};

static const struct {
    CUresult code;
    const char *name, *text;
} ERRORS[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_DEVICE_UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_ECC_UNCORRECTABLE, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CUDA_ERROR_CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUDA_ERROR_NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
};

/* These two answer without the lock and are not logged: they only read a table, and cannot fail on a real driver. */
CUresult cuGetErrorName(CUresult code, const char **name) {
    *name = NULL;
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) *name = ERRORS[i].name;
    return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult code, const char **text) {
    *text = NULL;
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) *text = ERRORS[i].text;
    return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult check(CUdevice device) { return is_device(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }

CUresult cuDeviceGetCount(int *count) {
    BEGIN_CALL(NEEDS_INIT);
    *count = device_count();
    return end_call(CUDA_SUCCESS);
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    BEGIN_CALL(NEEDS_INIT);
    *device = ordinal;
    return end_call(check(ordinal));
}

CUresult cuDeviceGetName(char *name, int size, CUdevice device) {
    BEGIN_CALL(NEEDS_INIT);
    snprintf(name, (size_t)size, "Emulated CUDA device");
    return end_call(check(device));
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) {
    BEGIN_CALL(NEEDS_INIT);
    memset(uuid, 7 + device, sizeof *uuid);
    return end_call(check(device));
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) { return cuDeviceGetUuid(uuid, device); }

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    BEGIN_CALL(NEEDS_INIT);
    *bytes = device_capacity;
    return end_call(check(device));
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    BEGIN_CALL(NEEDS_INIT);
    *major = 9;
    *minor = 0;
    return end_call(check(device));
}

CUresult cuDeviceGetPCIBusId(char *text, int size, CUdevice device) {
    BEGIN_CALL(NEEDS_INIT);
    snprintf(text, (size_t)size, "0000:%02x:00.0", device);
    return end_call(check(device));
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    BEGIN_CALL(NEEDS_INIT);
    *value = 0;
    for (size_t i = 0; i < sizeof ATTRIBUTES / sizeof *ATTRIBUTES; i++)
        if (ATTRIBUTES[i].number == attribute) *value = ATTRIBUTES[i].value;
    return end_call(check(device));
}

CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer) {
    BEGIN_CALL(NEEDS_INIT);
    *can = device != peer;
    return end_call(check(device) == CUDA_SUCCESS ? check(peer) : CUDA_ERROR_INVALID_DEVICE);
}
