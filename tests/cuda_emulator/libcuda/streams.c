/* The calls on streams. What they enqueue, and when it runs, is in queue.c. */
#include "emulator.h"

enum { HIGHEST_PRIORITY = -5 };

static long live;

long streams_live(void) { return live; }

static CUresult create(CUstream *stream, unsigned flags, int priority) {
    if (flags & ~CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
    if (priority > 0) priority = 0;
    if (priority < HIGHEST_PRIORITY) priority = HIGHEST_PRIORITY;
    *stream = add_stream(flags, priority);
    live++;
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    BEGIN_CALL(NEEDS_CONTEXT);
    return end_call(create(stream, flags, 0));
}

CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority) {
    BEGIN_CALL(NEEDS_CONTEXT);
    return end_call(create(stream, flags, priority));
}

/* Returns at once: what is pending runs all the same, when somebody needs it. */
CUresult cuStreamDestroy_v2(CUstream handle) {
    BEGIN_RELEASE();
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS && stream != handle) result = CUDA_ERROR_INVALID_HANDLE;
    if (result != CUDA_SUCCESS) return end_call(result);
    stream->destroyed = true;
    live--;
    forget_drained_stream(stream);
    return end_call(sticky_error());
}

CUresult cuStreamSynchronize(CUstream handle) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS) result = refuse_to_wait(stream);
    if (result != CUDA_SUCCESS) return end_call(result);
    synchronize(stream, latest_sequence());
    return end_call(sticky_error());
}

CUresult cuStreamQuery(CUstream handle) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS) result = refuse_to_wait(stream);
    if (result != CUDA_SUCCESS) return end_call(result);
    if (!is_synchronized(stream) && ++stream->polls <= patience) return end_call(CUDA_ERROR_NOT_READY);
    stream->polls = 0;
    synchronize(stream, latest_sequence());
    return end_call(sticky_error());
}

CUresult cuStreamGetCtx(CUstream handle, CUcontext *context) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS) *context = &contexts[stream->device];
    return end_call(result);
}

CUresult cuStreamGetCtx_v2(CUstream handle, CUcontext *context, void **green_context) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    *green_context = NULL;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS) *context = &contexts[stream->device];
    return end_call(result);
}

CUresult cuStreamGetFlags(CUstream handle, unsigned *flags) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS) *flags = stream->flags;
    return end_call(result);
}

CUresult cuStreamGetPriority(CUstream handle, int *priority) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS) *priority = stream->priority;
    return end_call(result);
}

CUresult cuStreamGetDevice(CUstream handle, CUdevice *device) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS) *device = stream->device;
    return end_call(result);
}

CUresult cuStreamGetId(CUstream handle, unsigned long long *id) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS) *id = stream->id;
    return end_call(result);
}

CUresult cuStreamAddCallback(CUstream handle, CUstreamCallback callback, void *argument, unsigned flags) {
    (void)flags;
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS)
        enqueue(stream, (struct operation){.kind = OPERATION_HOST_CALL, .callback = callback, .argument = argument});
    return end_call(result);
}

CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void *argument) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS)
        enqueue(stream, (struct operation){.kind = OPERATION_HOST_CALL, .function = function, .argument = argument});
    return end_call(result);
}
