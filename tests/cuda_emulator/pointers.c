/* What CUDA tells of a pointer. */
#include "emulator.h"

#include <string.h>

enum pointer_attribute {
    ATTRIBUTE_CONTEXT = 1, ATTRIBUTE_MEMORY_TYPE = 2, ATTRIBUTE_DEVICE_POINTER = 3, ATTRIBUTE_HOST_POINTER = 4,
    ATTRIBUTE_SYNC_MEMOPS = 6, ATTRIBUTE_BUFFER_ID = 7, ATTRIBUTE_IS_MANAGED = 8, ATTRIBUTE_DEVICE_ORDINAL = 9,
    ATTRIBUTE_RANGE_START = 11, ATTRIBUTE_RANGE_SIZE = 12, ATTRIBUTE_MAPPED = 13, ATTRIBUTE_HANDLE_TYPES = 14,
    ATTRIBUTE_GPU_DIRECT = 15, ATTRIBUTE_ACCESS_FLAGS = 16, ATTRIBUTE_POOL = 17
};
enum { MEMORY_TYPE_HOST = 1, MEMORY_TYPE_DEVICE = 2, HOST_FLAG_PORTABLE = 1, ACCESS_READ_WRITE = 3 };

CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr pointer) {
    BEGIN_CALL(NEEDS_INIT);
    const struct allocation *allocation = find_allocation(pointer);
    if (!allocation) return end_call(CUDA_ERROR_NOT_FOUND);
    if (base) *base = allocation->range.start;
    if (size) *size = allocation->range.size;
    return end_call(CUDA_SUCCESS);
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *device, void *pointer, unsigned flags) {
    (void)flags;
    BEGIN_CALL(NEEDS_CONTEXT);
    *device = (CUdeviceptr)(uintptr_t)pointer;
    return end_call(find_allocation((uintptr_t)pointer) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

CUresult cuMemHostGetFlags(unsigned *flags, void *pointer) {
    BEGIN_CALL(NEEDS_CONTEXT);
    const struct allocation *allocation = find_allocation((uintptr_t)pointer);
    *flags = HOST_FLAG_PORTABLE;
    return end_call(allocation && allocation->kind != MEMORY_DEVICE ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

static size_t size_of(int attribute) {
    switch (attribute) {
    case ATTRIBUTE_MEMORY_TYPE: case ATTRIBUTE_IS_MANAGED: case ATTRIBUTE_DEVICE_ORDINAL: case ATTRIBUTE_SYNC_MEMOPS:
    case ATTRIBUTE_MAPPED: case ATTRIBUTE_GPU_DIRECT: case ATTRIBUTE_ACCESS_FLAGS:
        return sizeof(int);
    default:
        return sizeof(uint64_t);
    }
}

/* The attribute as 64 bits, of which the caller takes as many as it has. False: this memory has no such attribute. */
static bool attribute_of(const struct allocation *allocation, CUdeviceptr pointer, int attribute, uint64_t *value) {
    bool on_device = allocation->kind == MEMORY_DEVICE;
    switch (attribute) {
    case ATTRIBUTE_CONTEXT: *value = (uintptr_t)&primary_context; return true;
    case ATTRIBUTE_MEMORY_TYPE: *value = on_device ? MEMORY_TYPE_DEVICE : MEMORY_TYPE_HOST; return true;
    case ATTRIBUTE_DEVICE_POINTER: *value = pointer; return true;
    case ATTRIBUTE_HOST_POINTER: *value = on_device ? 0 : pointer; return !on_device;
    case ATTRIBUTE_BUFFER_ID: *value = allocation->id; return true;
    case ATTRIBUTE_RANGE_START: *value = allocation->range.start; return true;
    case ATTRIBUTE_RANGE_SIZE: *value = allocation->range.size; return true;
    case ATTRIBUTE_MAPPED: *value = 1; return true;
    case ATTRIBUTE_ACCESS_FLAGS: *value = ACCESS_READ_WRITE; return true;
    case ATTRIBUTE_POOL: *value = (uintptr_t)allocation->pool; return true;
    case ATTRIBUTE_SYNC_MEMOPS: case ATTRIBUTE_IS_MANAGED: case ATTRIBUTE_DEVICE_ORDINAL:
    case ATTRIBUTE_HANDLE_TYPES: case ATTRIBUTE_GPU_DIRECT:
        *value = 0;
        return true;
    default:
        return false;
    }
}

CUresult cuPointerGetAttribute(void *value, int attribute, CUdeviceptr pointer) {
    BEGIN_CALL(NEEDS_INIT);
    const struct allocation *allocation = find_allocation(pointer);
    uint64_t found;
    if (!allocation || !attribute_of(allocation, pointer, attribute, &found)) return end_call(CUDA_ERROR_INVALID_VALUE);
    memcpy(value, &found, size_of(attribute));
    return end_call(CUDA_SUCCESS);
}

/* Of memory that CUDA does not know all attributes are zero, but for the ordinal of the device. */
CUresult cuPointerGetAttributes(unsigned count, int *attributes, void **values, CUdeviceptr pointer) {
    BEGIN_CALL(NEEDS_INIT);
    const struct allocation *allocation = find_allocation(pointer);
    for (unsigned i = 0; i < count; i++) {
        uint64_t found = 0;
        if (allocation) attribute_of(allocation, pointer, attributes[i], &found);
        else if (attributes[i] == ATTRIBUTE_DEVICE_ORDINAL) found = (uint64_t)-2;
        memcpy(values[i], &found, size_of(attributes[i]));
    }
    return end_call(CUDA_SUCCESS);
}

CUresult cuPointerSetAttribute(const void *value, int attribute, CUdeviceptr pointer) {
    (void)value, (void)attribute;
    BEGIN_CALL(NEEDS_CONTEXT);
    return end_call(find_allocation(pointer) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}
