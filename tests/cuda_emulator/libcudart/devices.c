/* What the runtime tells of devices, and the few calls on a whole one. */
#include <stddef.h>
#include <string.h>

#include "runtime.h"

/* cudaDeviceProp of CUDA 13, by its layout; what nothing here fills is left unnamed. */
struct properties {
    char name[256];
    CUuuid uuid;
    char luid[8];
    unsigned luid_node_mask;
    size_t memory_bytes, shared_bytes_per_block;
    int registers_per_block, warp_size;
    size_t largest_pitch;
    int threads_per_block, block_dimensions[3], grid_dimensions[3];
    size_t constant_bytes;
    int major, minor;
    size_t texture_alignment, texture_pitch_alignment;
    int multiprocessors, integrated, can_map_host_memory;
    int textures_and_surfaces[39];
    size_t surface_alignment;
    int concurrent_kernels, ecc, pci_bus, pci_device, pci_domain, tcc, copy_engines, unified_addressing;
    int memory_bus_bits, l2_cache_bytes, persisting_l2_cache_bytes, threads_per_multiprocessor;
    int stream_priorities, global_l1_cache, local_l1_cache;
    size_t shared_bytes_per_multiprocessor;
    int registers_per_multiprocessor, managed_memory, multi_gpu_board, multi_gpu_board_group, native_atomics;
    int pageable_access, concurrent_managed_access, preemption, host_pointer_of_registered, cooperative_launch;
    size_t shared_bytes_per_block_at_most;
    int pageable_by_host_tables, direct_managed_access, blocks_per_multiprocessor, access_window_bytes;
    size_t reserved_shared_bytes_per_block;
    int host_register, sparse_arrays, read_only_register, timeline_semaphores, memory_pools;
    int rest[71];
};
_Static_assert(offsetof(struct properties, memory_bytes) == 288, "cudaDeviceProp");
_Static_assert(offsetof(struct properties, major) == 360, "cudaDeviceProp");
_Static_assert(offsetof(struct properties, multiprocessors) == 384, "cudaDeviceProp");
_Static_assert(offsetof(struct properties, surface_alignment) == 552, "cudaDeviceProp");
_Static_assert(offsetof(struct properties, l2_cache_bytes) == 596, "cudaDeviceProp");
_Static_assert(offsetof(struct properties, cooperative_launch) == 668, "cudaDeviceProp");
_Static_assert(offsetof(struct properties, memory_pools) == 720, "cudaDeviceProp");
_Static_assert(sizeof(struct properties) == 1008, "cudaDeviceProp");

/* Numbers of an H100, as far as torch computes with them. */
static const struct properties ALIKE = {
    .shared_bytes_per_block = 49152, .registers_per_block = 65536, .warp_size = 32, .largest_pitch = 2147483647,
    .threads_per_block = 1024, .block_dimensions = {1024, 1024, 64}, .grid_dimensions = {2147483647, 65535, 65535},
    .constant_bytes = 65536, .texture_alignment = 512, .texture_pitch_alignment = 32, .can_map_host_memory = 1,
    .concurrent_kernels = 1, .copy_engines = 3, .unified_addressing = 1, .memory_bus_bits = 5120,
    .l2_cache_bytes = 50 << 20, .threads_per_multiprocessor = 2048, .stream_priorities = 1,
    .shared_bytes_per_multiprocessor = 233472, .registers_per_multiprocessor = 65536, .host_pointer_of_registered = 1,
    .cooperative_launch = 1, .shared_bytes_per_block_at_most = 232448, .blocks_per_multiprocessor = 32,
    .reserved_shared_bytes_per_block = 1024, .host_register = 1, .memory_pools = 1,
};

EXPORT cudaError_t cudaGetDeviceProperties(struct properties *properties, int device) {
    int count = 0;
    cudaError_t code = initialise();
    if (code == CUDA_SUCCESS) code = cuDeviceGetCount(&count);
    if (code == CUDA_SUCCESS && (device < 0 || device >= count)) code = CUDA_ERROR_INVALID_DEVICE;
    if (code != CUDA_SUCCESS) return tell(code);
    *properties = ALIKE;
    cuDeviceGetName(properties->name, sizeof properties->name, device);
    cuDeviceGetUuid_v2(&properties->uuid, device);
    cuDeviceTotalMem_v2(&properties->memory_bytes, device);
    cuDeviceComputeCapability(&properties->major, &properties->minor, device);
    cuDeviceGetAttribute(&properties->multiprocessors, 16, device);
    properties->pci_bus = device;
    return CUDA_SUCCESS;
}

EXPORT cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    cudaError_t code = initialise();
    if (code == CUDA_SUCCESS) code = cuDeviceGetCount(count);
    return tell(code == CUDA_SUCCESS && *count == 0 ? ERROR_NO_DEVICE : code);
}

EXPORT cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int device) {
    cudaError_t code = initialise();
    return tell(code != CUDA_SUCCESS ? code : cuDeviceGetAttribute(value, attribute, device));
}

EXPORT cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device) {
    cudaError_t code = initialise();
    return tell(code != CUDA_SUCCESS ? code : cuDeviceGetPCIBusId(text, size, device));
}

EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    IN_CONTEXT(cuCtxGetStreamPriorityRange(least, greatest));
}

EXPORT cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    IN_CONTEXT(cuDeviceCanAccessPeer(can, device, peer));
}

/* All memory is the host's here: each device can reach that of the others. */
EXPORT cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
    (void)peer, (void)flags;
    return CUDA_SUCCESS;
}

/* vLLM looks it up, and does not call it. */
EXPORT cudaError_t cudaDeviceReset(void) { return not_emulated("function", "cudaDeviceReset"); }

EXPORT cudaError_t cudaDeviceSynchronize(void) { IN_CONTEXT(cuCtxSynchronize()); }

EXPORT cudaError_t cudaMemGetInfo(size_t *available, size_t *total) { IN_CONTEXT(cuMemGetInfo_v2(available, total)); }

EXPORT cudaError_t cudaDriverGetVersion(int *version) { return tell(cuDriverGetVersion(version)); }

EXPORT cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = RUNTIME_VERSION;
    return CUDA_SUCCESS;
}

/* What is not found is told by `status`, and is no error. */
EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                                    unsigned long long flags, int *status) {
    int found;
    CUresult code = cuGetProcAddress_v2(name, function, (int)version, flags, &found);
    if (status) *status = found;
    return tell(code == CUDA_ERROR_NOT_FOUND ? CUDA_SUCCESS : code);
}

EXPORT cudaError_t cudaProfilerStart(void) { return CUDA_SUCCESS; }

EXPORT cudaError_t cudaProfilerStop(void) { return CUDA_SUCCESS; }
