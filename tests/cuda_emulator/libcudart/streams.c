/* Streams and events: the driver's, under the runtime's names. */
#include "runtime.h"

EXPORT cudaError_t cudaStreamCreate(CUstream *stream) { IN_CONTEXT(cuStreamCreate(stream, 0)); }

EXPORT cudaError_t cudaStreamCreateWithFlags(CUstream *stream, unsigned flags) {
    IN_CONTEXT(cuStreamCreate(stream, flags));
}

EXPORT cudaError_t cudaStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority) {
    IN_CONTEXT(cuStreamCreateWithPriority(stream, flags, priority));
}

EXPORT cudaError_t cudaStreamDestroy(CUstream stream) { IN_CONTEXT(cuStreamDestroy_v2(stream)); }

EXPORT cudaError_t cudaStreamSynchronize(CUstream stream) { IN_CONTEXT(cuStreamSynchronize(stream)); }

EXPORT cudaError_t cudaStreamQuery(CUstream stream) { IN_CONTEXT(cuStreamQuery(stream)); }

EXPORT cudaError_t cudaStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
    IN_CONTEXT(cuStreamWaitEvent(stream, event, flags));
}

EXPORT cudaError_t cudaStreamGetPriority(CUstream stream, int *priority) {
    IN_CONTEXT(cuStreamGetPriority(stream, priority));
}

EXPORT cudaError_t cudaStreamGetFlags(CUstream stream, unsigned *flags) { IN_CONTEXT(cuStreamGetFlags(stream, flags)); }

EXPORT cudaError_t cudaStreamGetDevice(CUstream stream, int *device) { IN_CONTEXT(cuStreamGetDevice(stream, device)); }

EXPORT cudaError_t cudaStreamGetId(CUstream stream, unsigned long long *id) { IN_CONTEXT(cuStreamGetId(stream, id)); }

EXPORT cudaError_t cudaStreamAddCallback(CUstream stream, CUstreamCallback callback, void *argument, unsigned flags) {
    IN_CONTEXT(cuStreamAddCallback(stream, callback, argument, flags));
}

EXPORT cudaError_t cudaLaunchHostFunc(CUstream stream, CUhostFn function, void *argument) {
    IN_CONTEXT(cuLaunchHostFunc(stream, function, argument));
}

EXPORT cudaError_t cudaEventCreate(CUevent *event) { IN_CONTEXT(cuEventCreate(event, 0)); }

EXPORT cudaError_t cudaEventCreateWithFlags(CUevent *event, unsigned flags) { IN_CONTEXT(cuEventCreate(event, flags)); }

EXPORT cudaError_t cudaEventDestroy(CUevent event) { IN_CONTEXT(cuEventDestroy_v2(event)); }

EXPORT cudaError_t cudaEventRecord(CUevent event, CUstream stream) { IN_CONTEXT(cuEventRecord(event, stream)); }

EXPORT cudaError_t cudaEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags) {
    IN_CONTEXT(cuEventRecordWithFlags(event, stream, flags));
}

EXPORT cudaError_t cudaEventQuery(CUevent event) { IN_CONTEXT(cuEventQuery(event)); }

EXPORT cudaError_t cudaEventSynchronize(CUevent event) { IN_CONTEXT(cuEventSynchronize(event)); }

EXPORT cudaError_t cudaEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    IN_CONTEXT(cuEventElapsedTime(milliseconds, start, end));
}
