/* The streams' queues, and when what stands in them runs.

   Operations carry one sequence number across all streams, so "everything that a stream was given by then" is a number:
   an event is a stream and a number, and so is a wait for it. An operation runs after its own stream's earlier ones,
   after what its stream was told to wait for, and, between the legacy default stream and blocking streams, after what
   was enqueued earlier on the other side. Nothing else runs it early. */
#include "emulator.h"

#include <stdlib.h>

enum { STREAM_MAGIC = 0x57e4u };

#define LEGACY(n, after) {.magic = STREAM_MAGIC, .id = 1, .device = n, .next = after}
struct stream legacy_streams[MOST_DEVICES] = {
    LEGACY(0, &legacy_streams[1]), LEGACY(1, &legacy_streams[2]), LEGACY(2, &legacy_streams[3]),
    LEGACY(3, &legacy_streams[4]), LEGACY(4, &legacy_streams[5]), LEGACY(5, &legacy_streams[6]),
    LEGACY(6, &legacy_streams[7]), LEGACY(7, NULL),
};
struct stream *all_streams = legacy_streams;

bool is_legacy(const struct stream *stream) {
    return stream >= legacy_streams && stream < legacy_streams + MOST_DEVICES;
}

static __thread struct stream *own_default_streams[MOST_DEVICES];
static uint64_t sequence_given;
static uint64_t streams_made = 1;
static long pending;

struct stream *add_stream(unsigned flags, int priority) {
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream) abort();
    *stream = (struct stream){.magic = STREAM_MAGIC, .device = current_device(), .id = ++streams_made, .flags = flags,
                              .priority = priority};
    stream->next = legacy_streams[0].next;
    legacy_streams[0].next = stream;
    return stream;
}

/* Its few bytes stay, so that a stale handle is known as one. */
void forget_drained_stream(struct stream *stream) {
    if (is_legacy(stream) || !stream->destroyed || stream->first || stream->in_host_call) return;
    for (struct stream *before = all_streams; before; before = before->next)
        if (before->next == stream) before->next = stream->next;
}

struct stream *per_thread_stream(void) {
    struct stream **own = &own_default_streams[current_device()];
    if (!*own) *own = add_stream(0, 0);
    return *own;
}

CUresult find_stream(CUstream handle, struct stream **stream) {
    if (handle == NULL || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) {
        CUresult no_context = check_context();
        if (no_context != CUDA_SUCCESS) return no_context;
        *stream = handle == CU_STREAM_PER_THREAD ? per_thread_stream() : &legacy_streams[current_device()];
        return is_legacy(*stream) ? refuse_legacy(current_device()) : CUDA_SUCCESS;
    }
    if (handle->magic != STREAM_MAGIC) return CUDA_ERROR_INVALID_HANDLE;
    if (handle->destroyed) {
        report(MISUSE_STALE_HANDLE, "%s uses stream %lu, which was destroyed", current_call(), (unsigned long)handle->id);
        return CUDA_ERROR_INVALID_HANDLE;
    }
    *stream = handle;
    return CUDA_SUCCESS;
}

bool is_blocking(const struct stream *stream) {
    return !is_legacy(stream) && !(stream->flags & CU_STREAM_NON_BLOCKING);
}

uint64_t latest_sequence(void) { return sequence_given; }

long operations_pending(void) { return pending; }

bool is_done(const struct stream *stream, uint64_t sequence) {
    return !stream->first || stream->first->sequence > sequence;
}

uint64_t enqueue(struct stream *stream, struct operation operation) {
    if (stream->capture) {
        capture_operation(stream, &operation);
        return 0;
    }
    struct operation *entry = malloc(sizeof *entry);
    if (!entry) abort();
    *entry = operation;
    uint64_t sequence = ++sequence_given;
    entry->sequence = sequence;
    entry->call = current_call();
    entry->next = NULL;
    report_races(stream, entry);
    if (stream->last) stream->last->next = entry;
    else stream->first = entry;
    stream->last = entry;
    pending++;
    if (mode == MODE_EAGER) run_until(stream, sequence);
    return sequence;
}

static void run_blocking_streams(int device, uint64_t sequence) {
    for (struct stream *stream = all_streams, *next; stream; stream = next) {
        next = stream->next;
        if (is_blocking(stream) && stream->device == device) run_until(stream, sequence);
    }
}

static void run_predecessors(struct stream *stream, const struct operation *operation) {
    uint64_t before = operation->sequence - 1;
    if (operation->kind == OPERATION_WAIT) run_until(operation->awaited, operation->awaited_sequence);
    if (is_blocking(stream)) run_until(&legacy_streams[stream->device], before);
    if (is_legacy(stream)) run_blocking_streams(stream->device, before);
}

void run_until(struct stream *stream, uint64_t sequence) {
    for (;;) {
        while (stream->in_host_call) pthread_cond_wait(&host_call_ended, &emulator_lock);
        struct operation *operation = stream->first;
        if (!operation || operation->sequence > sequence) return;
        uint64_t chosen = operation->sequence;
        run_predecessors(stream, operation);
        /* A host function among them ran without the lock: another thread may have been here. */
        if (stream->in_host_call || !stream->first || stream->first->sequence != chosen) continue;
        execute(stream, operation);
        stream->first = operation->next;
        if (!stream->first) stream->last = NULL;
        free(operation->staged);
        free(operation);
        pending--;
        forget_drained_stream(stream);
    }
}

/* Waiting for the legacy default stream is waiting for the blocking streams too. */
void synchronize(struct stream *stream, uint64_t sequence) {
    if (is_legacy(stream)) run_blocking_streams(stream->device, sequence);
    run_until(stream, sequence);
}

bool is_synchronized(const struct stream *stream) {
    if (is_legacy(stream))
        for (const struct stream *other = all_streams; other; other = other->next)
            if (is_blocking(other) && other->device == stream->device && other->first) return false;
    return stream->first == NULL;
}

void run_all(void) {
    uint64_t now = sequence_given;
    for (struct stream *stream = all_streams, *next; stream; stream = next) {
        next = stream->next;
        run_until(stream, now);
    }
}

/* Some of what may run: of about half the streams, a few operations each. Not while a host function runs: it may wait
   for this very thread, which only passes by. */
void run_some(void) {
    for (struct stream *stream = all_streams; stream; stream = stream->next)
        if (stream->in_host_call) return;
    for (struct stream *stream = all_streams, *next; stream; stream = next) {
        next = stream->next;
        if (!stream->first) continue;
        uint64_t chance = next_random();
        if (chance % 2) continue;
        struct operation *last = stream->first;
        for (uint64_t more = (chance >> 8) % 4; more > 0 && last->next; more--) last = last->next;
        run_until(stream, last->sequence);
    }
}
