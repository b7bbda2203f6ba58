/* Stream capture: what is enqueued on a capturing stream goes into a graph, and runs when the graph is launched.

   A stream that waits for an event of a capture joins it, and has to be waited for in turn before the capture ends. While
   one goes on, CUDA forbids calls that may wait for the device or make it wait: in the capturing thread, and, if the
   capture is global, in all others. Such a call fails, and breaks the capture; a thread can have itself excepted
   (cuThreadExchangeStreamCaptureMode). Calls that meet the capture itself are forbidden in any thread. */
#include <stdlib.h>
#include <string.h>

#include "emulator.h"

enum { GRAPH_MAGIC = 0x96a7u };
enum { STATUS_NONE = 0, STATUS_ACTIVE = 1, STATUS_INVALIDATED = 2 };
enum capture_mode { CAPTURE_GLOBAL, CAPTURE_THREAD_LOCAL, CAPTURE_RELAXED, CAPTURE_MODES };

struct graph {
    uint32_t magic;
    struct operation *first, *last;
    size_t count;
};

struct capture {
    uint64_t id;
    enum capture_mode mode;
    const void *thread;             /* that began it: by the address of its own variable */
    struct stream *origin;
    bool invalid;
    struct graph *graph;
    uint64_t index;                 /* of what was captured last */
    struct capture *next;
};

static struct capture *captures;    /* that have not ended */
static uint64_t captures_begun;
static __thread enum capture_mode thread_mode;

static CUresult invalidate(struct capture *capture, CUresult code) {
    capture->invalid = true;
    return code;
}

/* The public names of what waits for the device, or may make it wait. */
static bool is_unsafe(const char *call) {
    static const char *const UNSAFE[] = {
        "cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemAllocHost", "cuMemFreeHost", "cuMemHostRegister",
        "cuMemHostUnregister", "cuMemcpy", "cuMemcpyHtoD", "cuMemcpyDtoH", "cuMemcpyDtoD", "cuMemsetD8", "cuMemsetD16",
        "cuMemsetD32", "cuEventQuery", "cuEventSynchronize", "cuStreamQuery", "cuStreamSynchronize", "cuCtxSynchronize",
    };
    for (size_t i = 0; i < sizeof UNSAFE / sizeof *UNSAFE; i++)
        if (strcmp(UNSAFE[i], call) == 0) return true;
    return false;
}

CUresult refuse_in_capture(const char *call) {
    if (!captures || thread_mode == CAPTURE_RELAXED || !is_unsafe(call)) return CUDA_SUCCESS;
    for (struct capture *capture = captures; capture; capture = capture->next) {
        bool own = capture->thread == &thread_mode;
        bool everyone = capture->mode == CAPTURE_GLOBAL && thread_mode == CAPTURE_GLOBAL;
        if (capture->mode != CAPTURE_RELAXED && (own || everyone))
            return invalidate(capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    return CUDA_SUCCESS;
}

/* Waiting for a stream that captures, or asking whether it is done, has no meaning. */
CUresult refuse_to_wait(const struct stream *stream) {
    return stream->capture ? invalidate(stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED) : CUDA_SUCCESS;
}

/* The legacy stream waits for all blocking streams, which would draw it into the capture of one. */
CUresult refuse_legacy(int device) {
    for (struct stream *stream = captures ? all_streams : NULL; stream; stream = stream->next)
        if (stream->capture && is_blocking(stream) && stream->device == device)
            return invalidate(stream->capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    return CUDA_SUCCESS;
}

static struct operation *copy_of(const struct operation *operation) {
    struct operation *copy = malloc(sizeof *copy);
    if (!copy) abort();
    *copy = *operation;
    copy->next = NULL;
    if (operation->argument_size) {
        copy->argument = malloc(operation->argument_size);
        if (!copy->argument) abort();
        memcpy(copy->argument, operation->argument, operation->argument_size);
    }
    return copy;
}

static void append(struct graph *graph, struct operation *operation) {
    if (graph->last) graph->last->next = operation;
    else graph->first = operation;
    graph->last = operation;
    graph->count++;
}

/* Its argument becomes the graph's. */
void capture_operation(struct stream *stream, const struct operation *operation) {
    struct operation *entry = malloc(sizeof *entry);
    if (!entry) abort();
    *entry = *operation;
    entry->next = NULL;
    entry->call = current_call();
    append(stream->capture->graph, entry);
    stream->captured = ++stream->capture->index;
}

void capture_record(struct event *event, struct stream *stream) {
    event->capture = stream->capture;
    event->stream = stream;
    event->captured = stream->captured;
}

static bool goes_on(const struct capture *capture) {
    for (const struct capture *one = captures; one; one = one->next)
        if (one == capture) return true;
    return false;
}

CUresult refuse_captured(const struct event *event) {
    if (!event->capture) return CUDA_SUCCESS;
    return goes_on(event->capture) ? invalidate(event->capture, CUDA_ERROR_CAPTURED_EVENT) : CUDA_ERROR_CAPTURED_EVENT;
}

CUresult capture_wait(struct stream *stream, const struct event *event) {
    if (!event->capture)
        return event->stream ? invalidate(stream->capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION) : CUDA_SUCCESS;
    if (!goes_on(event->capture)) return CUDA_ERROR_CAPTURED_EVENT;
    if (stream->capture && stream->capture != event->capture)
        return invalidate(stream->capture, CUDA_ERROR_STREAM_CAPTURE_MERGE);
    stream->capture = event->capture;
    stream->captured = ++stream->capture->index;
    if (event->captured > event->stream->joined) event->stream->joined = event->captured;
    return CUDA_SUCCESS;
}

CUresult cuThreadExchangeStreamCaptureMode(int *mode) {
    BEGIN_CALL(NEEDS_NOTHING);
    if (*mode < 0 || *mode >= CAPTURE_MODES) return end_call(CUDA_ERROR_INVALID_VALUE);
    enum capture_mode before = thread_mode;
    thread_mode = (enum capture_mode)*mode;
    *mode = (int)before;
    return end_call(CUDA_SUCCESS);
}

static struct graph *add_graph(void) {
    struct graph *graph = calloc(1, sizeof *graph);
    if (!graph) abort();
    graph->magic = GRAPH_MAGIC;
    return graph;
}

CUresult cuStreamBeginCapture_v2(CUstream handle, int mode) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS && (is_legacy(stream) || stream->capture)) result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (result == CUDA_SUCCESS && (mode < 0 || mode >= CAPTURE_MODES)) result = CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS) return end_call(result);
    struct capture *made = calloc(1, sizeof *made);
    if (!made) abort();
    *made = (struct capture){.id = ++captures_begun, .mode = (enum capture_mode)mode, .thread = &thread_mode,
                             .origin = stream, .graph = add_graph(), .next = captures};
    captures = made;
    stream->capture = made;
    return end_call(CUDA_SUCCESS);
}

/* Its few bytes stay: events may name it. */
static CUresult end(struct capture *capture) {
    struct capture **link = &captures;
    while (*link != capture) link = &(*link)->next;
    *link = capture->next;
    CUresult result = capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
    for (struct stream *stream = all_streams; stream; stream = stream->next) {
        if (stream->capture != capture) continue;
        bool joined = stream == capture->origin || stream->joined >= stream->captured;
        if (!joined && result == CUDA_SUCCESS) result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
        stream->capture = NULL;
        stream->captured = stream->joined = 0;
    }
    return result;
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph *graph) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    *graph = NULL;
    CUresult result = find_stream(handle, &stream);
    if (result != CUDA_SUCCESS) return end_call(result);
    struct capture *capture = stream->capture;
    if (!capture) return end_call(CUDA_ERROR_INVALID_VALUE);
    if (capture->origin != stream) return end_call(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    if (capture->mode != CAPTURE_RELAXED && capture->thread != &thread_mode)
        return end_call(invalidate(capture, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD));
    result = end(capture);
    if (result == CUDA_SUCCESS) *graph = capture->graph;
    return end_call(result);
}

static int status_of(const struct stream *stream) {
    if (!stream->capture) return STATUS_NONE;
    return stream->capture->invalid ? STATUS_INVALIDATED : STATUS_ACTIVE;
}

CUresult cuStreamIsCapturing(CUstream handle, int *status) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    *status = result == CUDA_SUCCESS ? status_of(stream) : STATUS_NONE;
    return end_call(result);
}

/* Of the nodes that come next is known that there are none: a graph here is one chain. */
CUresult cuStreamGetCaptureInfo_v3(CUstream handle, int *status, uint64_t *id, CUgraph *graph, const void **nodes,
                                   const void **edges, size_t *count) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    *status = result == CUDA_SUCCESS ? status_of(stream) : STATUS_NONE;
    if (*status == STATUS_ACTIVE && id) *id = stream->capture->id;
    if (*status == STATUS_ACTIVE && graph) *graph = stream->capture->graph;
    if (nodes) *nodes = NULL;
    if (edges) *edges = NULL;
    if (count) *count = 0;
    return end_call(result);
}

CUresult cuGraphInstantiateWithFlags(CUgraph *executable, CUgraph graph, unsigned long long flags) {
    (void)flags;
    BEGIN_CALL(NEEDS_INIT);
    if (!graph || graph->magic != GRAPH_MAGIC) return end_call(CUDA_ERROR_INVALID_VALUE);
    *executable = add_graph();
    for (const struct operation *operation = graph->first; operation; operation = operation->next)
        append(*executable, copy_of(operation));
    return end_call(CUDA_SUCCESS);
}

CUresult cuGraphLaunch(CUgraph executable, CUstream handle) {
    BEGIN_CALL(NEEDS_INIT);
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS && (!executable || executable->magic != GRAPH_MAGIC)) result = CUDA_ERROR_INVALID_VALUE;
    for (struct operation *operation = result == CUDA_SUCCESS ? executable->first : NULL; operation;
         operation = operation->next) {
        struct operation *copy = copy_of(operation);
        enqueue(stream, *copy);
        free(copy);
    }
    return end_call(result);
}

CUresult cuGraphGetNodes(CUgraph graph, void **nodes, size_t *count) {
    BEGIN_CALL(NEEDS_INIT);
    if (!graph || graph->magic != GRAPH_MAGIC || nodes) return end_call(CUDA_ERROR_INVALID_VALUE);
    *count = graph->count;
    return end_call(CUDA_SUCCESS);
}

static CUresult destroy(struct graph *graph) {
    if (!graph || graph->magic != GRAPH_MAGIC) return CUDA_ERROR_INVALID_VALUE;
    for (struct operation *operation = graph->first, *next; operation; operation = next) {
        next = operation->next;
        if (operation->argument_size) free(operation->argument);
        free(operation);
    }
    graph->magic = 0;
    graph->first = graph->last = NULL;
    return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
    BEGIN_RELEASE();
    return end_call(destroy(graph));
}

CUresult cuGraphExecDestroy(CUgraph executable) {
    BEGIN_RELEASE();
    return end_call(destroy(executable));
}
