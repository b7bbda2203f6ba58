/* What tests ask the emulator about memory, handles and operations. The rest of the control API is in state.c. */
#include "control.h"

#include <string.h>

#include "emulator.h"

void emulator_set_patience(unsigned polls) {
    pthread_mutex_lock(&emulator_lock);
    patience = polls;
    pthread_mutex_unlock(&emulator_lock);
}

void emulator_set_device_memory(size_t bytes) {
    pthread_mutex_lock(&emulator_lock);
    device_capacity = bytes;
    pthread_mutex_unlock(&emulator_lock);
}

static long count_of(const char *what) {
    static const char *const MEMORY[MEMORY_KINDS] = {"device", "pinned", "registered"};
    for (int kind = 0; kind < MEMORY_KINDS; kind++) {
        size_t length = strlen(MEMORY[kind]);
        if (strncmp(what, MEMORY[kind], length) != 0) continue;
        if (strcmp(what + length, "") == 0) return usage[kind].count;
        if (strcmp(what + length, "_bytes") == 0) return (long)usage[kind].bytes;
        if (strcmp(what + length, "_bytes_peak") == 0) return (long)usage[kind].peak_bytes;
    }
    if (strcmp(what, "streams") == 0) return streams_live();
    if (strcmp(what, "events") == 0) return events_live();
    if (strcmp(what, "pools") == 0) return pools_live();
    if (strcmp(what, "contexts") == 0) return contexts_retained();
    if (strcmp(what, "operations") == 0) return operations_pending();
    return -1;
}

long emulator_live(const char *what) {
    pthread_mutex_lock(&emulator_lock);
    long count = count_of(what);
    pthread_mutex_unlock(&emulator_lock);
    return count;
}

void emulator_host_access(uint64_t address, size_t size, int writes) {
    pthread_mutex_lock(&emulator_lock);
    struct range range = {address, size};
    const struct operation *pending = pending_use(range, writes == 0);
    if (pending)
        report(MISUSE_HOST_ACCESS, "the CPU %s %zu bytes at %#lx while %s (operation %lu) is pending on them",
               writes ? "writes" : "reads", size, (unsigned long)address, pending->call,
               (unsigned long)pending->sequence);
    pthread_mutex_unlock(&emulator_lock);
}
