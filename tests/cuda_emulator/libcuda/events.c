/* Events. A record names a stream and a place in it; the latest record is what waits, queries and waiting streams mean,
   from the call on. A wait that was made before a second record stays with the first. */
#include "emulator.h"

#include <stdlib.h>

enum { EVENT_MAGIC = 0xe7e4u, KNOWN_FLAGS = 7 };

static long live;

long events_live(void) { return live; }

static CUresult check_event(const struct event *event) {
    if (!event || event->magic != EVENT_MAGIC) return CUDA_ERROR_INVALID_HANDLE;
    if (!event->destroyed) return CUDA_SUCCESS;
    report(MISUSE_STALE_HANDLE, "%s uses an event that was destroyed", current_call());
    return CUDA_ERROR_INVALID_HANDLE;
}

/* An event that was never recorded is complete. */
static bool is_complete(const struct event *event) {
    return !event->stream || is_done(event->stream, event->sequence);
}

static void complete(struct event *event) {
    if (event->stream) run_until(event->stream, event->sequence);
}

CUresult cuEventCreate(CUevent *event, unsigned flags) {
    BEGIN_CALL(NEEDS_CONTEXT);
    if (flags & ~(unsigned)KNOWN_FLAGS) return end_call(CUDA_ERROR_INVALID_VALUE);
    struct event *made = calloc(1, sizeof *made);
    if (!made) abort();
    made->magic = EVENT_MAGIC;
    made->flags = flags;
    made->device = current_device();
    live++;
    *event = made;
    return end_call(CUDA_SUCCESS);
}

/* Its few bytes stay: records of it may be pending, and a stale handle is known as one. */
CUresult cuEventDestroy_v2(CUevent event) {
    BEGIN_RELEASE();
    CUresult result = check_event(event);
    if (result != CUDA_SUCCESS) return end_call(result);
    event->destroyed = true;
    live--;
    return end_call(sticky_error());
}

static CUresult record(CUevent event, CUstream handle) {
    struct stream *stream;
    CUresult result = check_event(event);
    if (result == CUDA_SUCCESS) result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS && stream->device != event->device) result = CUDA_ERROR_INVALID_HANDLE;
    if (result != CUDA_SUCCESS) return result;
    event->polls = 0;
    event->capture = NULL;
    if (stream->capture) {
        capture_record(event, stream);
        return CUDA_SUCCESS;
    }
    event->stream = stream;
    event->sequence = enqueue(stream, (struct operation){.kind = OPERATION_RECORD, .event = event});
    return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
    BEGIN_CALL(NEEDS_INIT);
    return end_call(record(event, stream));
}

CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags) {
    (void)flags;
    BEGIN_CALL(NEEDS_INIT);
    return end_call(record(event, stream));
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned flags) {
    (void)flags;
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = check_event(event);
    if (result == CUDA_SUCCESS) result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS && (stream->capture || event->capture)) return end_call(capture_wait(stream, event));
    if (result == CUDA_SUCCESS && event->stream)
        enqueue(stream, (struct operation){.kind = OPERATION_WAIT, .awaited = event->stream,
                                           .awaited_sequence = event->sequence});
    return end_call(result);
}

CUresult cuEventQuery(CUevent event) {
    BEGIN_CALL(NEEDS_INIT);
    CUresult result = check_event(event);
    if (result == CUDA_SUCCESS) result = refuse_captured(event);
    if (result != CUDA_SUCCESS) return end_call(result);
    if (!is_complete(event) && ++event->polls <= patience) return end_call(CUDA_ERROR_NOT_READY);
    complete(event);
    return end_call(sticky_error());
}

CUresult cuEventSynchronize(CUevent event) {
    BEGIN_CALL(NEEDS_INIT);
    CUresult result = check_event(event);
    if (result == CUDA_SUCCESS) result = refuse_captured(event);
    if (result != CUDA_SUCCESS) return end_call(result);
    complete(event);
    return end_call(sticky_error());
}

static CUresult elapsed(float *milliseconds, const struct event *start, const struct event *end) {
    CUresult result = check_event(start);
    if (result == CUDA_SUCCESS) result = check_event(end);
    if (result != CUDA_SUCCESS) return result;
    if ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING || !start->stream || !end->stream)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!is_complete(start) || !is_complete(end)) return CUDA_ERROR_NOT_READY;
    *milliseconds = (float)(end->ran_at_ms - start->ran_at_ms);
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    BEGIN_CALL(NEEDS_INIT);
    return end_call(elapsed(milliseconds, start, end));
}

CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
    BEGIN_CALL(NEEDS_INIT);
    return end_call(elapsed(milliseconds, start, end));
}
