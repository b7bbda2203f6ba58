/* The memory that CUDA knows of: what is alive, and freed memory, kept for a while as poison at its old address. */
#include "emulator.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 512 };
static const size_t QUARANTINE_BYTES = (size_t)256 << 20;

size_t device_capacity = (size_t)8 << 30;
size_t device_used[MOST_DEVICES];
struct usage usage[MEMORY_KINDS];

static struct allocation *alive;
static struct allocation *freed_first, *freed_last;     /* oldest first */
static size_t freed_bytes;
static uint64_t allocations_made;

static struct allocation *find_in(struct allocation *list, uintptr_t address) {
    for (struct allocation *allocation = list; allocation; allocation = allocation->next)
        if (address >= allocation->range.start && address - allocation->range.start < allocation->range.size)
            return allocation;
    return NULL;
}

struct allocation *find_allocation(uintptr_t address) { return find_in(alive, address); }

struct allocation *find_freed(uintptr_t address) { return find_in(freed_first, address); }

/* Whether all of the range is memory of this kind: in virtual memory, it may be several pieces that adjoin. */
bool is_alive(struct range range, enum memory_kind kind) {
    while (range.size) {
        const struct allocation *allocation = find_allocation(range.start);
        if (!allocation || allocation->kind != kind) return false;
        size_t room = allocation->range.size - (range.start - allocation->range.start);
        if (range.size <= room) return true;
        range.start += room;
        range.size -= room;
    }
    return true;
}

bool has_room(int device, size_t size) {
    return device_used[device] <= device_capacity && size <= device_capacity - device_used[device];
}

void poison(struct range range, int byte) { memset((void *)range.start, byte, range.size); }

static void count(enum memory_kind kind, long allocations, size_t size) {
    usage[kind].count += allocations;
    if (allocations > 0) usage[kind].bytes += size;
    else usage[kind].bytes -= size;
    if (usage[kind].bytes > usage[kind].peak_bytes) usage[kind].peak_bytes = usage[kind].bytes;
}

void reset_peaks(void) {
    for (int kind = 0; kind < MEMORY_KINDS; kind++) usage[kind].peak_bytes = usage[kind].bytes;
}

struct allocation *add_allocation(enum memory_kind kind, void *start, size_t size, struct pool *pool) {
    struct allocation *allocation = calloc(1, sizeof *allocation);
    if (!allocation) abort();
    *allocation = (struct allocation){.range = {(uintptr_t)start, size}, .kind = kind, .device = current_device(),
                                      .pool = pool, .id = ++allocations_made, .next = alive};
    alive = allocation;
    count(kind, 1, size);
    return allocation;
}

CUresult allocate(enum memory_kind kind, size_t size, struct pool *pool, struct allocation **made) {
    if (size == 0) return CUDA_ERROR_INVALID_VALUE;
    if (size > SIZE_MAX / 2) return CUDA_ERROR_OUT_OF_MEMORY;
    int device = pool && pool_device(pool) >= 0 ? pool_device(pool) : current_device();
    if (kind == MEMORY_DEVICE && !has_room(device, size)) return CUDA_ERROR_OUT_OF_MEMORY;
    size_t alignment = kind == MEMORY_DEVICE ? ALIGNMENT : 4096;
    void *start = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    if (!start) return CUDA_ERROR_OUT_OF_MEMORY;
    *made = add_allocation(kind, start, size, pool);
    (*made)->device = device;
    if (kind == MEMORY_DEVICE) device_used[device] += size;
    poison((*made)->range, kind == MEMORY_DEVICE ? POISON_DEVICE_NEW : POISON_PINNED_NEW);
    return CUDA_SUCCESS;
}

static void take_from_alive(struct allocation *allocation) {
    struct allocation **link = &alive;
    while (*link != allocation) link = &(*link)->next;
    *link = allocation->next;
    allocation->next = NULL;
    count(allocation->kind, -1, allocation->range.size);
}

static void drop_oldest_freed(void) {
    struct allocation *oldest = freed_first;
    freed_first = oldest->next;
    if (!freed_first) freed_last = NULL;
    freed_bytes -= oldest->range.size;
    free((void *)oldest->range.start);
    free(oldest);
}

void release(struct allocation *allocation) {
    take_from_alive(allocation);
    if (allocation->kind == MEMORY_REGISTERED || allocation->mapped) {
        free(allocation);
        return;
    }
    if (allocation->kind == MEMORY_DEVICE) device_used[allocation->device] -= allocation->range.size;
    allocation->freed = true;
    poison(allocation->range, allocation->kind == MEMORY_DEVICE ? POISON_DEVICE_FREED : POISON_PINNED_FREED);
    if (freed_last) freed_last->next = allocation;
    else freed_first = allocation;
    freed_last = allocation;
    freed_bytes += allocation->range.size;
    while (freed_bytes > QUARANTINE_BYTES && freed_first != freed_last) drop_oldest_freed();
}

/* With operations pending the poison stays: one of them may be about to show that it uses freed memory. */
void empty_quarantine(void) {
    while (freed_first && operations_pending() == 0) drop_oldest_freed();
}
