/* Stream capture and graphs: the driver's, under the runtime's names. */
#include "runtime.h"

EXPORT cudaError_t cudaStreamBeginCapture(CUstream stream, int mode) {
    IN_CONTEXT(cuStreamBeginCapture_v2(stream, mode));
}

EXPORT cudaError_t cudaStreamEndCapture(CUstream stream, CUgraph *graph) {
    IN_CONTEXT(cuStreamEndCapture(stream, graph));
}

EXPORT cudaError_t cudaStreamIsCapturing(CUstream stream, int *status) {
    IN_CONTEXT(cuStreamIsCapturing(stream, status));
}

EXPORT cudaError_t cudaStreamGetCaptureInfo(CUstream stream, int *status, unsigned long long *id, CUgraph *graph,
                                            const void **nodes, const void **edges, size_t *count) {
    IN_CONTEXT(cuStreamGetCaptureInfo_v3(stream, status, (uint64_t *)id, graph, nodes, edges, count));
}

EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(int *mode) {
    return tell(cuThreadExchangeStreamCaptureMode(mode));
}

EXPORT cudaError_t cudaGraphInstantiateWithFlags(CUgraph *executable, CUgraph graph, unsigned long long flags) {
    IN_CONTEXT(cuGraphInstantiateWithFlags(executable, graph, flags));
}

EXPORT cudaError_t cudaGraphLaunch(CUgraph executable, CUstream stream) { IN_CONTEXT(cuGraphLaunch(executable, stream)); }

EXPORT cudaError_t cudaGraphGetNodes(CUgraph graph, void **nodes, size_t *count) {
    IN_CONTEXT(cuGraphGetNodes(graph, nodes, count));
}

EXPORT cudaError_t cudaGraphDestroy(CUgraph graph) { IN_CONTEXT(cuGraphDestroy(graph)); }

EXPORT cudaError_t cudaGraphExecDestroy(CUgraph executable) { IN_CONTEXT(cuGraphExecDestroy(executable)); }

/* No graph here has memory of its own. */
EXPORT cudaError_t cudaDeviceGetGraphMemAttribute(int device, int attribute, void *value) {
    (void)device, (void)attribute;
    *(uint64_t *)value = 0;
    return CUDA_SUCCESS;
}
