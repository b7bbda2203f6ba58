/* What one operation does when its stream gets to it. */
#include "emulator.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* FNV, of eight bytes at a time in four lanes: whole loads pass through here. */
uint64_t checksum(const void *bytes, size_t size) {
    enum { LANES = 4, STEP = LANES * sizeof(uint64_t) };
    const uint64_t prime = 1099511628211u, start = 14695981039346656037u;
    const unsigned char *byte = bytes;
    uint64_t lanes[LANES] = {start, start + 1, start + 2, start + 3}, sum = start;
    size_t at = 0;
    for (; at + STEP <= size; at += STEP)
        for (int lane = 0; lane < LANES; lane++) {
            uint64_t word;
            memcpy(&word, byte + at + sizeof word * (size_t)lane, sizeof word);
            lanes[lane] = (lanes[lane] ^ word) * prime;
        }
    for (; at < size; at++) sum = (sum ^ byte[at]) * prime;
    for (int lane = 0; lane < LANES; lane++) sum = (sum ^ lanes[lane]) * prime;
    return sum;
}

static bool is_mapped(struct range range) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = range.start / page * page;
    unsigned char resident;
    for (uintptr_t at = start; at < range.start + range.size; at += page)
        if (mincore((void *)at, 1, &resident) != 0) return false;
    return true;
}

/* Whether the bytes are there; that they were freed is told, and they are still poison, so the operation goes on. */
static bool check_memory(const struct operation *operation, struct range range) {
    if (range.size == 0) return true;
    if (find_freed(range.start))
        report(MISUSE_USE_AFTER_FREE, "%s (operation %lu) runs on memory at %#lx that was freed", operation->call,
               (unsigned long)operation->sequence, (unsigned long)range.start);
    const struct allocation *allocation = find_allocation(range.start);
    if (allocation && allocation->kind == MEMORY_REGISTERED && !is_mapped(range)) {
        report(MISUSE_UNMAPPED, "%s (operation %lu) runs on registered memory at %#lx that is no longer mapped",
               operation->call, (unsigned long)operation->sequence, (unsigned long)range.start);
        return false;
    }
    return true;
}

static void execute_copy(const struct operation *operation) {
    if (!check_memory(operation, operation->reads) || !check_memory(operation, operation->writes)) return;
    const void *source = operation->staged ? operation->staged : (const void *)operation->reads.start;
    if (operation->source_is_watched && checksum(source, operation->writes.size) != operation->source_checksum)
        report(MISUSE_SOURCE_CHANGED, "the pinned source of %s (operation %lu, %zu bytes at %#lx) changed between the "
               "call and the copy", operation->call, (unsigned long)operation->sequence, operation->writes.size,
               (unsigned long)operation->reads.start);
    memmove((void *)operation->writes.start, source, operation->writes.size);
}

static void execute_fill(const struct operation *operation) {
    if (!check_memory(operation, operation->writes)) return;
    char *target = (char *)operation->writes.start;
    for (size_t at = 0; at < operation->writes.size; at += operation->pattern_size)
        memcpy(target + at, &operation->pattern, operation->pattern_size);
}

/* CUDA runs host functions in a thread of its own; here the lock is let go, for a function may wait for Python's. */
static void execute_host_call(struct stream *stream, const struct operation *operation, CUresult error) {
    stream->in_host_call = true;
    pthread_mutex_unlock(&emulator_lock);
    set_in_host_call(true);
    if (operation->callback) operation->callback(stream, error, operation->argument);
    else if (error == CUDA_SUCCESS) operation->function(operation->argument);
    set_in_host_call(false);
    pthread_mutex_lock(&emulator_lock);
    stream->in_host_call = false;
    pthread_cond_broadcast(&host_call_ended);
}


/* On a lost device nothing is moved any more: the queues drain, memory is given back, callbacks hear of the error. */
void execute(struct stream *stream, struct operation *operation) {
    CUresult code;
    bool moves_bytes = operation->kind == OPERATION_COPY || operation->kind == OPERATION_FILL ||
                       operation->kind == OPERATION_CAST || operation->kind == OPERATION_KERNEL;
    if (moves_bytes && sticky_error() == CUDA_SUCCESS && operation_fails(operation->call, &code)) lose_device(code);
    CUresult error = sticky_error();
    switch (operation->kind) {
    case OPERATION_COPY:
        if (error == CUDA_SUCCESS) execute_copy(operation);
        break;
    case OPERATION_FILL:
        if (error == CUDA_SUCCESS) execute_fill(operation);
        break;
    case OPERATION_CAST:
        if (error == CUDA_SUCCESS && check_memory(operation, operation->reads) && check_memory(operation, operation->writes))
            execute_cast(operation->cast, operation->reads, operation->writes);
        break;
    case OPERATION_KERNEL:
        if (error == CUDA_SUCCESS && operation->kernel && check_memory(operation, operation->writes))
            operation->kernel(operation->argument);
        free(operation->argument);
        break;
    case OPERATION_RECORD:
        operation->event->ran_sequence = operation->sequence;
        operation->event->ran_at_ms = now_ms();
        break;
    case OPERATION_WAIT:
        break;
    case OPERATION_HOST_CALL:
        execute_host_call(stream, operation, error);
        break;
    case OPERATION_ALLOCATE:
        poison(operation->allocation->range,
               operation->allocation->kind == MEMORY_DEVICE ? POISON_DEVICE_NEW : POISON_PINNED_NEW);
        break;
    case OPERATION_FREE:
        release(operation->allocation);
        break;
    }
}
