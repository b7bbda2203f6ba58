/* Memory: allocations, pools, copies, fills, and what the runtime tells of a pointer. */
#include <string.h>

#include "runtime.h"

enum { TYPE_UNREGISTERED = 0, TYPE_HOST = 1, TYPE_DEVICE = 2 };
enum { ATTRIBUTE_MEMORY_TYPE = 2, ATTRIBUTE_DEVICE_ORDINAL = 9, DRIVER_TYPE_DEVICE = 2, NO_DEVICE = -2 };

/* cudaPointerAttributes of CUDA 13. */
struct pointer_attributes {
    int type, device;
    void *on_device, *on_host;
    long reserved[8];
};
_Static_assert(sizeof(struct pointer_attributes) == 88, "cudaPointerAttributes");

static CUdeviceptr place(const void *pointer) { return (CUdeviceptr)(uintptr_t)pointer; }

static CUresult allocate(void **pointer, size_t size) {
    *pointer = NULL;
    return size ? cuMemAlloc_v2((CUdeviceptr *)pointer, size) : CUDA_SUCCESS;
}

EXPORT cudaError_t cudaMalloc(void **pointer, size_t size) { IN_CONTEXT(allocate(pointer, size)); }

EXPORT cudaError_t cudaFree(void *pointer) { IN_CONTEXT(cuMemFree_v2(place(pointer))); }

EXPORT cudaError_t cudaHostAlloc(void **pointer, size_t size, unsigned flags) {
    IN_CONTEXT(cuMemHostAlloc(pointer, size, flags));
}

EXPORT cudaError_t cudaMallocHost(void **pointer, size_t size) { return cudaHostAlloc(pointer, size, 0); }

EXPORT cudaError_t cudaFreeHost(void *pointer) { IN_CONTEXT(pointer ? cuMemFreeHost(pointer) : CUDA_SUCCESS); }

EXPORT cudaError_t cudaHostRegister(void *pointer, size_t size, unsigned flags) {
    IN_CONTEXT(cuMemHostRegister_v2(pointer, size, flags));
}

EXPORT cudaError_t cudaHostUnregister(void *pointer) { IN_CONTEXT(cuMemHostUnregister(pointer)); }

EXPORT cudaError_t cudaHostGetDevicePointer(void **device, void *pointer, unsigned flags) {
    IN_CONTEXT(cuMemHostGetDevicePointer_v2((CUdeviceptr *)device, pointer, flags));
}

EXPORT cudaError_t cudaPointerGetAttributes(struct pointer_attributes *found, const void *pointer) {
    cudaError_t entered = enter();
    if (entered != CUDA_SUCCESS) return tell(entered);
    int type = 0, device = NO_DEVICE;
    bool known = cuPointerGetAttribute(&type, ATTRIBUTE_MEMORY_TYPE, place(pointer)) == CUDA_SUCCESS;
    if (known) cuPointerGetAttribute(&device, ATTRIBUTE_DEVICE_ORDINAL, place(pointer));
    *found = (struct pointer_attributes){.type = TYPE_UNREGISTERED, .device = device};
    if (!known) return CUDA_SUCCESS;
    found->type = type == DRIVER_TYPE_DEVICE ? TYPE_DEVICE : TYPE_HOST;
    found->on_device = (void *)pointer;
    if (found->type == TYPE_HOST) found->on_host = (void *)pointer;
    return CUDA_SUCCESS;
}

EXPORT cudaError_t cudaMallocAsync(void **pointer, size_t size, CUstream stream) {
    IN_CONTEXT(cuMemAllocAsync((CUdeviceptr *)pointer, size, stream));
}

EXPORT cudaError_t cudaFreeAsync(void *pointer, CUstream stream) { IN_CONTEXT(cuMemFreeAsync(place(pointer), stream)); }

EXPORT cudaError_t cudaDeviceGetDefaultMemPool(CUmemoryPool *pool, int device) {
    cudaError_t code = retain(device);
    return tell(code != CUDA_SUCCESS ? code : cuDeviceGetDefaultMemPool(pool, device));
}

EXPORT cudaError_t cudaMemPoolGetAttribute(CUmemoryPool pool, int attribute, void *value) {
    return tell(cuMemPoolGetAttribute(pool, attribute, value));
}

EXPORT cudaError_t cudaMemPoolSetAttribute(CUmemoryPool pool, int attribute, void *value) {
    return tell(cuMemPoolSetAttribute(pool, attribute, value));
}

EXPORT cudaError_t cudaMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *list, size_t count) {
    return tell(cuMemPoolSetAccess(pool, list, count));
}

EXPORT cudaError_t cudaMemPoolTrimTo(CUmemoryPool pool, size_t keep) { return tell(cuMemPoolTrimTo(pool, keep)); }

static CUresult copy(void *target, const void *source, size_t size, enum copy_kind kind) {
    switch (kind) {
    case HOST_TO_DEVICE: return cuMemcpyHtoD_v2(place(target), source, size);
    case DEVICE_TO_HOST: return cuMemcpyDtoH_v2(target, place(source), size);
    case DEVICE_TO_DEVICE: return cuMemcpyDtoD_v2(place(target), place(source), size);
    default: return cuMemcpy(place(target), place(source), size);
    }
}

static CUresult queue_copy(void *target, const void *source, size_t size, enum copy_kind kind, CUstream stream) {
    switch (kind) {
    case HOST_TO_DEVICE: return cuMemcpyHtoDAsync_v2(place(target), source, size, stream);
    case DEVICE_TO_HOST: return cuMemcpyDtoHAsync_v2(target, place(source), size, stream);
    case DEVICE_TO_DEVICE: return cuMemcpyDtoDAsync_v2(place(target), place(source), size, stream);
    default: return cuMemcpyAsync(place(target), place(source), size, stream);
    }
}

EXPORT cudaError_t cudaMemcpy(void *target, const void *source, size_t size, enum copy_kind kind) {
    IN_CONTEXT(copy(target, source, size, kind));
}

EXPORT cudaError_t cudaMemcpyAsync(void *target, const void *source, size_t size, enum copy_kind kind,
                                   CUstream stream) {
    IN_CONTEXT(queue_copy(target, source, size, kind, stream));
}

EXPORT cudaError_t cudaMemcpyPeerAsync(void *target, int to, const void *source, int from, size_t size,
                                       CUstream stream) {
    (void)to, (void)from;
    IN_CONTEXT(cuMemcpyAsync(place(target), place(source), size, stream));
}

static CUresult copy_rows(char *target, size_t target_pitch, const char *source, size_t source_pitch, size_t width,
                          size_t height, enum copy_kind kind, CUstream stream) {
    CUresult code = CUDA_SUCCESS;
    for (size_t row = 0; row < height && code == CUDA_SUCCESS; row++)
        code = queue_copy(target + row * target_pitch, source + row * source_pitch, width, kind, stream);
    return code;
}

EXPORT cudaError_t cudaMemcpy2DAsync(void *target, size_t target_pitch, const void *source, size_t source_pitch,
                                     size_t width, size_t height, enum copy_kind kind, CUstream stream) {
    IN_CONTEXT(copy_rows(target, target_pitch, source, source_pitch, width, height, kind, stream));
}

EXPORT cudaError_t cudaMemset(void *target, int value, size_t count) {
    IN_CONTEXT(cuMemsetD8_v2(place(target), (unsigned char)value, count));
}

EXPORT cudaError_t cudaMemsetAsync(void *target, int value, size_t count, CUstream stream) {
    IN_CONTEXT(cuMemsetD8Async(place(target), (unsigned char)value, count, stream));
}
