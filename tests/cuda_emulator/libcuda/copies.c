/* Copies. Which side is where decides when the host's bytes are read and when the call returns:

   pinned -> device        the source is read when the copy runs: as late as the stream gets there
   pageable -> device      the source is copied at the call; the rest is as late as above
   device -> pinned        written when the copy runs
   anything -> pageable    done when the call returns
   A call without a stream waits for its copy, but for the two that CUDA does not promise it for: between two places on
   the device, and the second half of pageable -> device (which waits for what came before). */
#include <stdlib.h>
#include <string.h>

#include "emulator.h"

enum place { PLACE_DEVICE, PLACE_PINNED, PLACE_PAGEABLE, PLACE_INVALID };

static enum place invalid_place(struct range range, enum misuse_kind kind, const char *why) {
    report(kind, "%s uses %zu bytes at %#lx, %s", current_call(), range.size, (unsigned long)range.start, why);
    return PLACE_INVALID;
}

static enum place place_of(struct range range, bool must_be_known) {
    const struct allocation *allocation = find_allocation(range.start);
    if (!allocation && find_freed(range.start))
        return invalid_place(range, MISUSE_USE_AFTER_FREE, "which were freed");
    if (!allocation && must_be_known)
        return invalid_place(range, MISUSE_OUT_OF_BOUNDS, "where no memory of the device's is");
    if (!allocation) return PLACE_PAGEABLE;
    if (!is_alive(range, allocation->kind))
        return invalid_place(range, MISUSE_OUT_OF_BOUNDS, "past the end of their allocation");
    if (allocation->free_is_pending) return invalid_place(range, MISUSE_USE_AFTER_FREE, "after their free in stream order");
    return allocation->kind == MEMORY_DEVICE ? PLACE_DEVICE : PLACE_PINNED;
}

bool is_on_device(struct range range) { return place_of(range, true) == PLACE_DEVICE; }

static unsigned char *staged_copy(struct range source) {
    unsigned char *staged = malloc(source.size);
    if (!staged) abort();
    return memcpy(staged, (void *)source.start, source.size);
}

static CUresult copy(enum sides sides, CUdeviceptr target, CUdeviceptr source, size_t size, CUstream handle, bool waits) {
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result != CUDA_SUCCESS || size == 0) return result;
    struct operation operation = {.kind = OPERATION_COPY, .reads = {source, size}, .writes = {target, size}};
    enum place from = place_of(operation.reads, sides == SIDES_FROM_DEVICE || sides == SIDES_ON_DEVICE);
    enum place to = place_of(operation.writes, sides == SIDES_TO_DEVICE || sides == SIDES_ON_DEVICE);
    if (from == PLACE_INVALID || to == PLACE_INVALID) return CUDA_ERROR_INVALID_VALUE;
    if (stream->capture) {
        enqueue(stream, operation);     /* both sides are used when the graph runs, whatever they are */
        return CUDA_SUCCESS;
    }
    if (from == PLACE_PAGEABLE) {
        if (waits) synchronize(stream, latest_sequence());
        operation.staged = staged_copy(operation.reads);
        operation.reads.size = 0;
    } else if (from == PLACE_PINNED && !pending_use(operation.reads, true)) {
        operation.source_is_watched = true;
        operation.source_checksum = checksum((void *)operation.reads.start, size);
    }
    uint64_t sequence = enqueue(stream, operation);
    bool is_promised = to != PLACE_DEVICE || from == PLACE_PINNED;
    if (to != PLACE_PAGEABLE && !(waits && is_promised)) return CUDA_SUCCESS;
    run_until(stream, sequence);
    return sticky_error();
}

CUresult copy_call(const char *function, enum sides sides, CUdeviceptr target, CUdeviceptr source, size_t size,
                   CUstream stream, bool waits) {
    CUresult refused = begin_call(function, NEEDS_CONTEXT);
    return refused != CUDA_SUCCESS ? refused : end_call(copy(sides, target, source, size, stream, waits));
}

CUresult cuMemcpy(CUdeviceptr target, CUdeviceptr source, size_t size) {
    return copy_call(__func__, SIDES_ANY, target, source, size, CU_STREAM_LEGACY, true);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr target, const void *source, size_t size) {
    return copy_call(__func__, SIDES_TO_DEVICE, target, (uintptr_t)source, size, CU_STREAM_LEGACY, true);
}

CUresult cuMemcpyDtoH_v2(void *target, CUdeviceptr source, size_t size) {
    return copy_call(__func__, SIDES_FROM_DEVICE, (uintptr_t)target, source, size, CU_STREAM_LEGACY, true);
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr target, CUdeviceptr source, size_t size) {
    return copy_call(__func__, SIDES_ON_DEVICE, target, source, size, CU_STREAM_LEGACY, true);
}

CUresult cuMemcpyAsync(CUdeviceptr target, CUdeviceptr source, size_t size, CUstream stream) {
    return copy_call(__func__, SIDES_ANY, target, source, size, stream, false);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void *source, size_t size, CUstream stream) {
    return copy_call(__func__, SIDES_TO_DEVICE, target, (uintptr_t)source, size, stream, false);
}

CUresult cuMemcpyDtoHAsync_v2(void *target, CUdeviceptr source, size_t size, CUstream stream) {
    return copy_call(__func__, SIDES_FROM_DEVICE, (uintptr_t)target, source, size, stream, false);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr target, CUdeviceptr source, size_t size, CUstream stream) {
    return copy_call(__func__, SIDES_ON_DEVICE, target, source, size, stream, false);
}

/* Sources are read in stream order whatever the attributes say: later than at the call, which CUDA allows too. */
CUresult cuMemcpyBatchAsync_v2(CUdeviceptr *targets, CUdeviceptr *sources, size_t *sizes, size_t count,
                               void *attributes, size_t *indices, size_t attribute_count, CUstream stream) {
    (void)attributes, (void)indices, (void)attribute_count;
    BEGIN_CALL(NEEDS_CONTEXT);
    CUresult result = CUDA_SUCCESS;
    for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++)
        result = copy(SIDES_ANY, targets[i], sources[i], sizes[i], stream, false);
    return end_call(result);
}

CUresult cuMemcpyBatchAsync(CUdeviceptr *targets, CUdeviceptr *sources, size_t *sizes, size_t count, void *attributes,
                            size_t *indices, size_t attribute_count, size_t *failed, CUstream stream) {
    (void)failed;
    return cuMemcpyBatchAsync_v2(targets, sources, sizes, count, attributes, indices, attribute_count, stream);
}
