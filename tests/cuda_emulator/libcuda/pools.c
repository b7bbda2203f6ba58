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
    int device;
    bool is_default;
    bool destroyed;
    uint64_t attributes[MOST_ATTRIBUTES];
};

static struct pool device_pools[MOST_DEVICES];          /* the default ones, made when they are asked for */
static struct pool host_pool = {.magic = POOL_MAGIC, .kind = MEMORY_PINNED, .device = -1, .is_default = true};
static struct pool *chosen_pools[MOST_DEVICES];         /* by cuDeviceSetMemPool; NULL: the default one */
static long live;

long pools_live(void) { return live; }

int pool_device(const struct pool *pool) { return pool->device; }

static struct pool *default_pool(int device) {
    struct pool *pool = &device_pools[device];
    if (!pool->magic)
        *pool = (struct pool){.magic = POOL_MAGIC, .kind = MEMORY_DEVICE, .device = device, .is_default = true};
    return pool;
}

static struct pool *current_pool(int device) {
    return chosen_pools[device] ? chosen_pools[device] : default_pool(device);
}

static bool is_pool(const struct pool *pool) { return pool && pool->magic == POOL_MAGIC && !pool->destroyed; }

/* pool: NULL for the current one of the stream's device. */
static CUresult allocate_in_order(CUdeviceptr *pointer, size_t size, struct pool *pool, CUstream handle) {
    struct stream *stream;
    struct allocation *made;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS && stream->capture) result = CUDA_ERROR_NOT_SUPPORTED;
    if (result == CUDA_SUCCESS && !pool) pool = current_pool(stream->device);
    if (result == CUDA_SUCCESS && !is_pool(pool)) result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) result = allocate(pool->kind, size, pool, &made);
    if (result != CUDA_SUCCESS) return result;
    *pointer = made->range.start;
    enqueue(stream, (struct operation){.kind = OPERATION_ALLOCATE, .writes = made->range, .allocation = made});
    return CUDA_SUCCESS;
}

CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t size, CUstream stream) {
    BEGIN_CALL(NEEDS_CONTEXT);
    return end_call(allocate_in_order(pointer, size, NULL, stream));
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t size, CUmemoryPool pool, CUstream stream) {
    BEGIN_CALL(NEEDS_CONTEXT);
    return end_call(allocate_in_order(pointer, size, pool, stream));
}

CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream handle) {
    BEGIN_RELEASE();
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS && stream->capture) result = CUDA_ERROR_NOT_SUPPORTED;
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
    if (!is_device(device)) return end_call(CUDA_ERROR_INVALID_DEVICE);
    *pool = default_pool(device);
    return end_call(CUDA_SUCCESS);
}

CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device) {
    BEGIN_CALL(NEEDS_INIT);
    if (!is_device(device)) return end_call(CUDA_ERROR_INVALID_DEVICE);
    *pool = current_pool(device);
    return end_call(CUDA_SUCCESS);
}

CUresult cuDeviceSetMemPool(CUdevice device, CUmemoryPool pool) {
    BEGIN_CALL(NEEDS_INIT);
    if (!is_device(device)) return end_call(CUDA_ERROR_INVALID_DEVICE);
    if (!is_pool(pool) || pool->device != device) return end_call(CUDA_ERROR_INVALID_VALUE);
    chosen_pools[device] = pool;
    return end_call(CUDA_SUCCESS);
}

static CUresult pool_at(CUmemoryPool *pool, const CUmemLocation *location, struct pool *(*on_device)(int device)) {
    bool device = location->type == LOCATION_DEVICE;
    if (device && !is_device(location->id)) return CUDA_ERROR_INVALID_DEVICE;
    *pool = device ? on_device(location->id) : &host_pool;
    return CUDA_SUCCESS;
}

CUresult cuMemGetDefaultMemPool(CUmemoryPool *pool, CUmemLocation *location, int type) {
    (void)type;
    BEGIN_CALL(NEEDS_INIT);
    return end_call(pool_at(pool, location, default_pool));
}

CUresult cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, int type) {
    (void)type;
    BEGIN_CALL(NEEDS_INIT);
    return end_call(pool_at(pool, location, current_pool));
}

CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *properties) {
    BEGIN_CALL(NEEDS_INIT);
    bool on_device = properties->location.type == LOCATION_DEVICE;
    if (properties->handle_types != 0) return end_call(CUDA_ERROR_NOT_SUPPORTED);
    if (on_device && !is_device(properties->location.id)) return end_call(CUDA_ERROR_INVALID_DEVICE);
    struct pool *made = calloc(1, sizeof *made);
    if (!made) abort();
    made->magic = POOL_MAGIC;
    made->kind = on_device ? MEMORY_DEVICE : MEMORY_PINNED;
    made->device = on_device ? properties->location.id : -1;
    live++;
    *pool = made;
    return end_call(CUDA_SUCCESS);
}

/* What was allocated from it stays alive until it is freed. The few bytes of the handle stay for good. */
CUresult cuMemPoolDestroy(CUmemoryPool pool) {
    BEGIN_RELEASE();
    if (!is_pool(pool) || pool->is_default) return end_call(CUDA_ERROR_INVALID_VALUE);
    pool->destroyed = true;
    if (pool->device >= 0 && chosen_pools[pool->device] == pool) chosen_pools[pool->device] = NULL;
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
