/* The little of NVML that torch asks: how many devices there are, their names, and who uses them (nobody). */
#include <stdint.h>
#include <stdio.h>

#include "../libcuda/driver.h"

enum { NVML_SUCCESS = 0, NVML_ERROR_INVALID_ARGUMENT = 2, NVML_ERROR_NOT_SUPPORTED = 3 };

/* Handles are one more than the number of the device. */
static int find(unsigned device, void **handle) {
    int count = 0;
    cuInit(0);
    cuDeviceGetCount(&count);
    if (device >= (unsigned)count) return NVML_ERROR_INVALID_ARGUMENT;
    *handle = (void *)(uintptr_t)(device + 1);
    return NVML_SUCCESS;
}

EXPORT int nvmlInit_v2(void) { return NVML_SUCCESS; }

EXPORT int nvmlShutdown(void) { return NVML_SUCCESS; }

EXPORT const char *nvmlErrorString(int code) { return code == NVML_SUCCESS ? "Success" : "not in the emulated NVML"; }

EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    return cuDriverGetVersion(version) == CUDA_SUCCESS ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned *count) {
    cuInit(0);
    return cuDeviceGetCount((int *)count) == CUDA_SUCCESS ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { return find(index, handle); }

/* The bus is the number of the device: see cuDeviceGetPCIBusId. */
EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **handle) {
    unsigned domain, bus;
    return sscanf(id, "%x:%x", &domain, &bus) == 2 ? find(bus, handle) : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT int nvmlDeviceGetName(void *handle, char *name, unsigned size) {
    return cuDeviceGetName(name, (int)size, (int)(uintptr_t)handle - 1) == CUDA_SUCCESS ? NVML_SUCCESS
                                                                                      : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) {
    CUuuid uuid;
    if (cuDeviceGetUuid_v2(&uuid, (int)(uintptr_t)handle - 1) != CUDA_SUCCESS) return NVML_ERROR_INVALID_ARGUMENT;
    size_t length = (size_t)snprintf(text, size, "GPU-");
    for (int i = 0; i < 16 && length < size; i++) {
        const char *dash = i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "";
        length += (size_t)snprintf(text + length, size - length, "%s%02x", dash, (unsigned char)uuid.bytes[i]);
    }
    return NVML_SUCCESS;
}

EXPORT int nvmlDeviceGetComputeRunningProcesses(void *handle, unsigned *count, void *processes) {
    (void)handle, (void)processes;
    *count = 0;
    return NVML_SUCCESS;
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, void *processes) {
    return nvmlDeviceGetComputeRunningProcesses(handle, count, processes);
}

/* Torch wants to find these, and does without. */
EXPORT int nvmlDeviceGetNvLinkRemoteDeviceType(void *handle, unsigned link, int *type) {
    (void)handle, (void)link, (void)type;
    return NVML_ERROR_NOT_SUPPORTED;
}

EXPORT int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *handle, unsigned link, void *info) {
    (void)handle, (void)link, (void)info;
    return NVML_ERROR_NOT_SUPPORTED;
}

/* Of a device outside any fabric all fields are zero. The struct begins with its version. */
EXPORT int nvmlDeviceGetGpuFabricInfoV(void *handle, unsigned *info) {
    enum { FIELDS = 7 };
    (void)handle;
    for (int i = 1; i <= FIELDS; i++) info[i] = 0;
    return NVML_SUCCESS;
}
