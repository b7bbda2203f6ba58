/* Memory pools, and memory that comes and goes in stream order: it may be used from its allocation's place in the
   stream on, and is gone from its free's place on. A pool on the host gives pinned memory. */
#include "emulator.h"

#include <stdlib.h>
#include <string.h>

enum { POOL_MAGIC = 0x9001u, LOCATION_DEVICE = 1, READ_WRITE = 3, MOST_ATTRIBUTES = 16 };
enum { ATTRIBUTE_RELEASE_THRESHOLD = 4, ATTRIBUTE_RESERVED_CURRENT = 5, ATTRIBUTE_USED_HIGH = 8 };

struct pool {
    uint32_t magic;
    enum memory_kind kind;
    bool is_default;
    bool destroyed;
    uint64_t attributes[MOST_ATTRIBUTES];
};

static struct pool device_pool = {.magic = POOL_MAGIC, .kind = MEMORY_DEVICE, .is_default = true};
static struct pool host_pool = {.magic = POOL_MAGIC, .kind = MEMORY_PINNED, .is_default = true};
static struct pool *current_device_pool = &device_pool;
static long live;

long pools_live(void) { return live; }

static bool is_pool(const struct pool *pool) { return pool && pool->magic == POOL_MAGIC && !pool->destroyed; }

static CUresult allocate_in_order(CUdeviceptr *pointer, size_t size, struct pool *pool, CUstream handle) {
    struct stream *stream;
    struct allocation *made;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS && !is_pool(pool)) result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) result = allocate(pool->kind, size, pool, &made);
    if (result != CUDA_SUCCESS) return result;
    *pointer = made->range.start;
    enqueue(stream, (struct operation){.kind = OPERATION_ALLOCATE, .writes = made->range, .allocation = made});
    return CUDA_SUCCESS;
}

CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t size, CUstream stream) {
    BEGIN_CALL(NEEDS_CONTEXT);
    return end_call(allocate_in_order(pointer, size, current_device_pool, stream));
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t size, CUmemoryPool pool, CUstream stream) {
    BEGIN_CALL(NEEDS_CONTEXT);
    return end_call(allocate_in_order(pointer, size, pool, stream));
}

CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream handle) {
    BEGIN_RELEASE();
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result != CUDA_SUCCESS) return end_call(result);
    struct allocation *allocation = find_allocation(pointer);
    if (!allocation || allocation->range.start != pointer || allocation->kind == MEMORY_REGISTERED ||
        allocation->free_is_pending) {
        report(MISUSE_INVALID_FREE, "%s of %#lx, which is not memory that is alive", current_call(),
               (unsigned long)pointer);
        return end_call(CUDA_ERROR_INVALID_VALUE);
    }
    allocation->free_is_pending = true;
    enqueue(stream, (struct operation){.kind = OPERATION_FREE, .writes = allocation->range, .allocation = allocation});
    return end_call(CUDA_SUCCESS);
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device) {
    BEGIN_CALL(NEEDS_INIT);
    *pool = &device_pool;
    return end_call(device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device) {
    BEGIN_CALL(NEEDS_INIT);
    *pool = current_device_pool;
    return end_call(device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

CUresult cuDeviceSetMemPool(CUdevice device, CUmemoryPool pool) {
    BEGIN_CALL(NEEDS_INIT);
    if (device != 0) return end_call(CUDA_ERROR_INVALID_DEVICE);
    if (!is_pool(pool) || pool->kind != MEMORY_DEVICE) return end_call(CUDA_ERROR_INVALID_VALUE);
    current_device_pool = pool;
    return end_call(CUDA_SUCCESS);
}

static CUresult pool_at(CUmemoryPool *pool, const CUmemLocation *location, struct pool *on_device) {
    *pool = location->type == LOCATION_DEVICE ? on_device : &host_pool;
    return CUDA_SUCCESS;
}

CUresult cuMemGetDefaultMemPool(CUmemoryPool *pool, CUmemLocation *location, int type) {
    (void)type;
    BEGIN_CALL(NEEDS_INIT);
    return end_call(pool_at(pool, location, &device_pool));
}

CUresult cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, int type) {
    (void)type;
    BEGIN_CALL(NEEDS_INIT);
    return end_call(pool_at(pool, location, current_device_pool));
}

CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *properties) {
    BEGIN_CALL(NEEDS_INIT);
    if (properties->handle_types != 0) return end_call(CUDA_ERROR_NOT_SUPPORTED);
    struct pool *made = calloc(1, sizeof *made);
    if (!made) abort();
    made->magic = POOL_MAGIC;
    made->kind = properties->location.type == LOCATION_DEVICE ? MEMORY_DEVICE : MEMORY_PINNED;
    live++;
    *pool = made;
    return end_call(CUDA_SUCCESS);
}

/* What was allocated from it stays alive until it is freed. The few bytes of the handle stay for good. */
CUresult cuMemPoolDestroy(CUmemoryPool pool) {
    BEGIN_RELEASE();
    if (!is_pool(pool) || pool->is_default) return end_call(CUDA_ERROR_INVALID_VALUE);
    pool->destroyed = true;
    if (current_device_pool == pool) current_device_pool = &device_pool;
    live--;
    return end_call(CUDA_SUCCESS);
}

CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t bytes) {
    (void)bytes;
    BEGIN_CALL(NEEDS_INIT);
    return end_call(is_pool(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

static CUresult pool_attribute(const struct pool *pool, int attribute) {
    bool known = is_pool(pool) && attribute > 0 && attribute < MOST_ATTRIBUTES;
    return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* Attributes 1 to 3 are ints, the rest 64-bit counts: the release threshold is kept, the counts are of all memory. */
CUresult cuMemPoolSetAttribute(CUmemoryPool pool, int attribute, void *value) {
    BEGIN_CALL(NEEDS_INIT);
    CUresult result = pool_attribute(pool, attribute);
    if (result == CUDA_SUCCESS)
        pool->attributes[attribute] = attribute < ATTRIBUTE_RELEASE_THRESHOLD ? *(uint32_t *)value : *(uint64_t *)value;
    return end_call(result);
}

CUresult cuMemPoolGetAttribute(CUmemoryPool pool, int attribute, void *value) {
    BEGIN_CALL(NEEDS_INIT);
    CUresult result = pool_attribute(pool, attribute);
    if (result != CUDA_SUCCESS) return end_call(result);
    uint64_t found = pool->attributes[attribute];
    if (attribute >= ATTRIBUTE_RESERVED_CURRENT && attribute <= ATTRIBUTE_USED_HIGH) {
        bool high = attribute == ATTRIBUTE_USED_HIGH || attribute == ATTRIBUTE_RESERVED_CURRENT + 1;
        found = high ? usage[pool->kind].peak_bytes : usage[pool->kind].bytes;
    }
    if (attribute < ATTRIBUTE_RELEASE_THRESHOLD) memcpy(value, &(uint32_t){(uint32_t)found}, sizeof(uint32_t));
    else memcpy(value, &found, sizeof found);
    return end_call(CUDA_SUCCESS);
}

CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *descriptions, size_t count) {
    (void)descriptions, (void)count;
    BEGIN_CALL(NEEDS_INIT);
    return end_call(is_pool(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

CUresult cuMemPoolGetAccess(int *flags, CUmemoryPool pool, CUmemLocation *location) {
    (void)location;
    BEGIN_CALL(NEEDS_INIT);
    *flags = READ_WRITE;
    return end_call(is_pool(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}
