/* Addresses and memory apart, as torch's expandable segments use them: addresses are reserved without memory, memory is
   a file without a name, and mapping the one into the other makes an allocation. */
#define _GNU_SOURCE
#include "emulator.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PHYSICAL_MAGIC = 0x9417u, GRANULARITY = 2 << 20, LOCATION_DEVICE = 1 };

struct physical {
    uint32_t magic;
    int file, maps;
    bool released;
    size_t size;
    CUmemAllocationProp properties;
};

static bool is_physical(const struct physical *physical) {
    return physical && physical->magic == PHYSICAL_MAGIC && !physical->released;
}

static bool is_whole(size_t size) { return size > 0 && size % GRANULARITY == 0; }

/* Addresses without memory, at which no access succeeds. */
static void *reserve(void *at, size_t size) {
    int fixed = at ? MAP_FIXED : 0;
    return mmap(at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
}

/* Memory is there as long as it has a handle or is mapped. The few bytes of the handle stay, to be known as stale. */
static void forget(struct physical *physical) {
    if (!physical->released || physical->maps) return;
    close(physical->file);
    device_used[physical->properties.location.id] -= physical->size;
}

CUresult cuMemAddressReserve(CUdeviceptr *pointer, size_t size, size_t alignment, CUdeviceptr wanted,
                             unsigned long long flags) {
    (void)alignment, (void)wanted, (void)flags;
    BEGIN_CALL(NEEDS_INIT);
    if (!is_whole(size)) return end_call(CUDA_ERROR_INVALID_VALUE);
    char *start = reserve(NULL, size + GRANULARITY);
    if (start == MAP_FAILED) return end_call(CUDA_ERROR_OUT_OF_MEMORY);
    size_t before = (size_t)(-(uintptr_t)start) % GRANULARITY;
    if (before) munmap(start, before);
    munmap(start + before + size, GRANULARITY - before);
    *pointer = (CUdeviceptr)(uintptr_t)(start + before);
    return end_call(CUDA_SUCCESS);
}

CUresult cuMemAddressFree(CUdeviceptr pointer, size_t size) {
    BEGIN_RELEASE();
    if (is_alive((struct range){pointer, 1}, MEMORY_DEVICE)) {
        report(MISUSE_INVALID_FREE, "%s of %#lx, where memory is still mapped", current_call(), (unsigned long)pointer);
        return end_call(CUDA_ERROR_INVALID_VALUE);
    }
    munmap((void *)(uintptr_t)pointer, size);
    return end_call(CUDA_SUCCESS);
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *properties,
                     unsigned long long flags) {
    (void)flags;
    BEGIN_CALL(NEEDS_INIT);
    int device = properties->location.id;
    if (properties->location.type != LOCATION_DEVICE) return end_call(CUDA_ERROR_NOT_SUPPORTED);
    if (!is_device(device)) return end_call(CUDA_ERROR_INVALID_DEVICE);
    if (!is_whole(size)) return end_call(CUDA_ERROR_INVALID_VALUE);
    int file = has_room(device, size) ? memfd_create("emulated device memory", MFD_CLOEXEC) : -1;
    if (file < 0 || ftruncate(file, (off_t)size)) return end_call(CUDA_ERROR_OUT_OF_MEMORY);
    struct physical *made = malloc(sizeof *made);
    if (!made) abort();
    *made = (struct physical){.magic = PHYSICAL_MAGIC, .file = file, .size = size, .properties = *properties};
    device_used[device] += size;
    *handle = made;
    return end_call(CUDA_SUCCESS);
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    BEGIN_RELEASE();
    if (!is_physical(handle)) return end_call(CUDA_ERROR_INVALID_VALUE);
    handle->released = true;
    forget(handle);
    return end_call(CUDA_SUCCESS);
}

CUresult cuMemMap(CUdeviceptr pointer, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags) {
    (void)flags;
    BEGIN_CALL(NEEDS_INIT);
    if (!is_physical(handle) || !is_whole(size) || offset + size > handle->size || find_allocation(pointer))
        return end_call(CUDA_ERROR_INVALID_VALUE);
    void *start = (void *)(uintptr_t)pointer;
    if (mmap(start, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, handle->file, (off_t)offset) == MAP_FAILED)
        return end_call(CUDA_ERROR_OUT_OF_MEMORY);
    struct allocation *made = add_allocation(MEMORY_DEVICE, start, size, NULL);
    made->device = handle->properties.location.id;
    made->mapped = handle;
    handle->maps++;
    poison(made->range, POISON_DEVICE_NEW);
    return end_call(CUDA_SUCCESS);
}

/* CUDA does not wait for work that is pending on the memory: torch has to. */
CUresult cuMemUnmap(CUdeviceptr pointer, size_t size) {
    BEGIN_RELEASE();
    const struct operation *pending = pending_use((struct range){pointer, size}, false);
    if (pending) {
        report(MISUSE_FREED_IN_USE, "%s of %#lx (%zu bytes) while %s (operation %lu) is pending on it", current_call(),
               (unsigned long)pointer, size, pending->call, (unsigned long)pending->sequence);
        run_all();
    }
    for (uintptr_t at = pointer; at < pointer + size;) {
        struct allocation *allocation = find_allocation(at);
        if (!allocation || !allocation->mapped || allocation->range.start != at)
            return end_call(CUDA_ERROR_INVALID_VALUE);
        struct physical *physical = allocation->mapped;
        struct range range = allocation->range;
        at += range.size;
        reserve((void *)range.start, range.size);
        release(allocation);
        physical->maps--;
        forget(physical);
    }
    return end_call(sticky_error());
}

CUresult cuMemSetAccess(CUdeviceptr pointer, size_t size, const CUmemAccessDesc *descriptions, size_t count) {
    (void)descriptions, (void)count;
    BEGIN_CALL(NEEDS_INIT);
    return end_call(is_alive((struct range){pointer, size}, MEMORY_DEVICE) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *properties, int option) {
    (void)properties, (void)option;
    BEGIN_CALL(NEEDS_INIT);
    *granularity = GRANULARITY;
    return end_call(CUDA_SUCCESS);
}

CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *properties, CUmemGenericAllocationHandle handle) {
    BEGIN_CALL(NEEDS_INIT);
    if (!is_physical(handle)) return end_call(CUDA_ERROR_INVALID_VALUE);
    *properties = handle->properties;
    return end_call(CUDA_SUCCESS);
}
