/* Kernels that the emulated runtime knows by their names: queued here with what they write, as fills and copies are. */
#include <stdlib.h>

#include "control.h"
#include "emulator.h"

static CUresult launch(void (*kernel)(void *), void *argument, size_t argument_size, struct range writes,
                       CUstream handle) {
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result == CUDA_SUCCESS && stream->device != current_device()) result = CUDA_ERROR_INVALID_HANDLE;
    if (result != CUDA_SUCCESS) return result;
    if (writes.size && !is_alive(writes, MEMORY_DEVICE)) {
        report(find_freed(writes.start) ? MISUSE_USE_AFTER_FREE : MISUSE_OUT_OF_BOUNDS, "a kernel writes %zu bytes at "
               "%#lx, which are not memory of the device's", writes.size, (unsigned long)writes.start);
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    enqueue(stream, (struct operation){.kind = OPERATION_KERNEL, .kernel = kernel, .argument = argument,
                                       .argument_size = argument_size, .writes = writes});
    return CUDA_SUCCESS;
}

CUresult emulator_launch(void (*kernel)(void *), void *argument, size_t argument_size, uint64_t writes, size_t size,
                         CUstream stream) {
    CUresult result = begin_call("cuLaunchKernel", NEEDS_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = end_call(launch(kernel, argument, argument_size, (struct range){writes, size}, stream));
    if (result != CUDA_SUCCESS) free(argument);
    return result;
}
