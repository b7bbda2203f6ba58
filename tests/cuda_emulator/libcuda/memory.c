/* Device and pinned memory that is there at once: cuMemAlloc, cuMemHostAlloc, cuMemHostRegister and their ends. */
#include "emulator.h"

bool pinning_waits;

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t size) {
    BEGIN_CALL(NEEDS_CONTEXT);
    struct allocation *made;
    CUresult result = allocate(MEMORY_DEVICE, size, NULL, &made);
    if (result == CUDA_SUCCESS) *pointer = made->range.start;
    return end_call(result);
}

/* Gives back what starts at `address`. CUDA waits for work that is still pending on the memory; relying on that is a
   fault all the same, for it stalls the device, and pools and other allocators do not wait. */
static CUresult give_back(enum memory_kind kind, uintptr_t address, CUresult if_unknown) {
    struct allocation *allocation = find_allocation(address);
    if (!allocation || allocation->kind != kind || allocation->range.start != address || allocation->free_is_pending) {
        report(MISUSE_INVALID_FREE, "%s of %#lx, which is %s", current_call(), (unsigned long)address,
               find_freed(address) || (allocation && allocation->free_is_pending) ? "freed already"
                                                                                 : "not the start of such memory");
        return if_unknown;
    }
    const struct operation *pending = pending_use(allocation->range, false);
    if (pending) {
        report(MISUSE_FREED_IN_USE, "%s of %#lx (%zu bytes) while %s (operation %lu) is pending on it", current_call(),
               (unsigned long)address, allocation->range.size, pending->call, (unsigned long)pending->sequence);
        run_all();
    }
    if (kind != MEMORY_DEVICE && pinning_waits) run_all();
    release(allocation);
    return sticky_error();
}

CUresult cuMemFree_v2(CUdeviceptr pointer) {
    BEGIN_RELEASE();
    return end_call(pointer ? give_back(MEMORY_DEVICE, pointer, CUDA_ERROR_INVALID_VALUE) : CUDA_SUCCESS);
}

CUresult cuMemGetInfo_v2(size_t *available, size_t *total) {
    BEGIN_CALL(NEEDS_CONTEXT);
    size_t used = device_used[current_device()];
    *total = device_capacity;
    *available = used < device_capacity ? device_capacity - used : 0;
    return end_call(CUDA_SUCCESS);
}

static CUresult allocate_pinned(void **pointer, size_t size) {
    struct allocation *made;
    if (pinning_waits) run_all();
    CUresult result = allocate(MEMORY_PINNED, size, NULL, &made);
    if (result == CUDA_SUCCESS) *pointer = (void *)made->range.start;
    return result;
}

CUresult cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
    (void)flags;
    BEGIN_CALL(NEEDS_CONTEXT);
    return end_call(allocate_pinned(pointer, size));
}

CUresult cuMemAllocHost_v2(void **pointer, size_t size) {
    BEGIN_CALL(NEEDS_CONTEXT);
    return end_call(allocate_pinned(pointer, size));
}

CUresult cuMemFreeHost(void *pointer) {
    BEGIN_RELEASE();
    return end_call(give_back(MEMORY_PINNED, (uintptr_t)pointer, CUDA_ERROR_INVALID_VALUE));
}

CUresult cuMemHostRegister_v2(void *pointer, size_t size, unsigned flags) {
    (void)flags;
    BEGIN_CALL(NEEDS_CONTEXT);
    uintptr_t start = (uintptr_t)pointer;
    if (!pointer || size == 0) return end_call(CUDA_ERROR_INVALID_VALUE);
    if (find_allocation(start) || find_allocation(start + size - 1))
        return end_call(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    if (pinning_waits) run_all();
    add_allocation(MEMORY_REGISTERED, pointer, size, NULL);
    return end_call(CUDA_SUCCESS);
}

CUresult cuMemHostUnregister(void *pointer) {
    BEGIN_RELEASE();
    return end_call(give_back(MEMORY_REGISTERED, (uintptr_t)pointer, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED));
}
