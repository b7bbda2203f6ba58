/* Filling device memory: in stream order, and not waited for even by the calls without a stream. */
#include "emulator.h"

static CUresult fill(CUdeviceptr target, uint32_t value, size_t value_size, size_t count, CUstream handle) {
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result != CUDA_SUCCESS || count == 0) return result;
    const struct allocation *allocation = find_allocation(target);
    bool known = allocation && is_alive((struct range){target, count * value_size}, allocation->kind);
    if (!known || allocation->free_is_pending || target % value_size) {
        bool freed = find_freed(target) || (allocation && allocation->free_is_pending);
        report(freed ? MISUSE_USE_AFTER_FREE : MISUSE_OUT_OF_BOUNDS, "%s of %zu values of %zu bytes at %#lx, %s",
               current_call(), count, value_size, (unsigned long)target,
               freed ? "which were freed" : "which are not all in one allocation, aligned");
        return CUDA_ERROR_INVALID_VALUE;
    }
    enqueue(stream, (struct operation){.kind = OPERATION_FILL, .writes = {target, count * value_size},
                                       .pattern = value, .pattern_size = value_size});
    return CUDA_SUCCESS;
}

CUresult fill_call(const char *function, CUdeviceptr target, uint32_t value, size_t value_size, size_t count,
                   CUstream stream) {
    CUresult refused = begin_call(function, NEEDS_CONTEXT);
    return refused != CUDA_SUCCESS ? refused : end_call(fill(target, value, value_size, count, stream));
}

CUresult cuMemsetD8_v2(CUdeviceptr target, unsigned char value, size_t count) {
    return fill_call(__func__, target, value, 1, count, CU_STREAM_LEGACY);
}

CUresult cuMemsetD16_v2(CUdeviceptr target, unsigned short value, size_t count) {
    return fill_call(__func__, target, value, 2, count, CU_STREAM_LEGACY);
}

CUresult cuMemsetD32_v2(CUdeviceptr target, unsigned value, size_t count) {
    return fill_call(__func__, target, value, 4, count, CU_STREAM_LEGACY);
}

CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t count, CUstream stream) {
    return fill_call(__func__, target, value, 1, count, stream);
}

CUresult cuMemsetD16Async(CUdeviceptr target, unsigned short value, size_t count, CUstream stream) {
    return fill_call(__func__, target, value, 2, count, stream);
}

CUresult cuMemsetD32Async(CUdeviceptr target, unsigned value, size_t count, CUstream stream) {
    return fill_call(__func__, target, value, 4, count, stream);
}
