/* How libraries find the driver's functions: by public name and by the CUDA version that they were built for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emulator.h"

enum { ALWAYS = 0, PER_THREAD_DEFAULT_STREAM = 2 };
enum { SYMBOL_FOUND = 0, SYMBOL_UNKNOWN = 1, SYMBOL_TOO_NEW = 2 };

/* Of two rows of one name the later is the newer: it is for those who know its version. */
static const struct symbol {
    const char *name;
    int since;
    void *function;
} SYMBOLS[] = {
    {"cuInit", ALWAYS, cuInit},
    {"cuDriverGetVersion", ALWAYS, cuDriverGetVersion},
    {"cuGetErrorName", ALWAYS, cuGetErrorName},
    {"cuGetErrorString", ALWAYS, cuGetErrorString},
    {"cuDevicePrimaryCtxRetain", ALWAYS, cuDevicePrimaryCtxRetain},
    {"cuDevicePrimaryCtxRelease", 11000, cuDevicePrimaryCtxRelease_v2},
    {"cuDevicePrimaryCtxReset", 11000, cuDevicePrimaryCtxReset_v2},
    {"cuDevicePrimaryCtxGetState", ALWAYS, cuDevicePrimaryCtxGetState},
    {"cuDevicePrimaryCtxSetFlags", 11000, cuDevicePrimaryCtxSetFlags_v2},
    {"cuCtxCreate", ALWAYS, cuCtxCreate_v2},
    {"cuCtxCreate", 12050, cuCtxCreate_v4},
    {"cuCtxDestroy", ALWAYS, cuCtxDestroy_v2},
    {"cuCtxSetCurrent", ALWAYS, cuCtxSetCurrent},
    {"cuCtxGetCurrent", ALWAYS, cuCtxGetCurrent},
    {"cuCtxPushCurrent", ALWAYS, cuCtxPushCurrent_v2},
    {"cuCtxPopCurrent", ALWAYS, cuCtxPopCurrent_v2},
    {"cuCtxGetDevice", ALWAYS, cuCtxGetDevice},
    {"cuCtxGetDevice", 13000, cuCtxGetDevice_v2},
    {"cuCtxGetApiVersion", ALWAYS, cuCtxGetApiVersion},
    {"cuCtxGetFlags", ALWAYS, cuCtxGetFlags},
    {"cuCtxGetId", ALWAYS, cuCtxGetId},
    {"cuCtxGetStreamPriorityRange", ALWAYS, cuCtxGetStreamPriorityRange},
    {"cuCtxSynchronize", ALWAYS, cuCtxSynchronize},
    {"cuCtxSynchronize", 13000, cuCtxSynchronize_v2},
    {"cuDeviceGetCount", ALWAYS, cuDeviceGetCount},
    {"cuDeviceGet", ALWAYS, cuDeviceGet},
    {"cuDeviceGetName", ALWAYS, cuDeviceGetName},
    {"cuDeviceGetUuid", ALWAYS, cuDeviceGetUuid},
    {"cuDeviceGetUuid", 11040, cuDeviceGetUuid_v2},
    {"cuDeviceTotalMem", ALWAYS, cuDeviceTotalMem_v2},
    {"cuDeviceComputeCapability", ALWAYS, cuDeviceComputeCapability},
    {"cuDeviceGetPCIBusId", ALWAYS, cuDeviceGetPCIBusId},
    {"cuDeviceGetAttribute", ALWAYS, cuDeviceGetAttribute},
    {"cuDeviceCanAccessPeer", ALWAYS, cuDeviceCanAccessPeer},
    {"cuMemAlloc", ALWAYS, cuMemAlloc_v2},
    {"cuMemFree", ALWAYS, cuMemFree_v2},
    {"cuMemGetInfo", ALWAYS, cuMemGetInfo_v2},
    {"cuMemHostAlloc", ALWAYS, cuMemHostAlloc},
    {"cuMemAllocHost", ALWAYS, cuMemAllocHost_v2},
    {"cuMemFreeHost", ALWAYS, cuMemFreeHost},
    {"cuMemHostRegister", ALWAYS, cuMemHostRegister_v2},
    {"cuMemHostUnregister", ALWAYS, cuMemHostUnregister},
    {"cuMemGetAddressRange", ALWAYS, cuMemGetAddressRange_v2},
    {"cuMemHostGetDevicePointer", ALWAYS, cuMemHostGetDevicePointer_v2},
    {"cuMemHostGetFlags", ALWAYS, cuMemHostGetFlags},
    {"cuPointerGetAttribute", ALWAYS, cuPointerGetAttribute},
    {"cuPointerGetAttributes", ALWAYS, cuPointerGetAttributes},
    {"cuPointerSetAttribute", ALWAYS, cuPointerSetAttribute},
    {"cuMemAllocAsync", 11020, cuMemAllocAsync},
    {"cuMemAllocFromPoolAsync", 11020, cuMemAllocFromPoolAsync},
    {"cuMemFreeAsync", 11020, cuMemFreeAsync},
    {"cuDeviceGetDefaultMemPool", 11020, cuDeviceGetDefaultMemPool},
    {"cuDeviceGetMemPool", 11020, cuDeviceGetMemPool},
    {"cuDeviceSetMemPool", 11020, cuDeviceSetMemPool},
    {"cuMemGetDefaultMemPool", 13000, cuMemGetDefaultMemPool},
    {"cuMemGetMemPool", 13000, cuMemGetMemPool},
    {"cuMemPoolCreate", 11020, cuMemPoolCreate},
    {"cuMemPoolDestroy", 11020, cuMemPoolDestroy},
    {"cuMemPoolTrimTo", 11020, cuMemPoolTrimTo},
    {"cuMemPoolSetAttribute", 11020, cuMemPoolSetAttribute},
    {"cuMemPoolGetAttribute", 11020, cuMemPoolGetAttribute},
    {"cuMemPoolSetAccess", 11020, cuMemPoolSetAccess},
    {"cuMemPoolGetAccess", 11020, cuMemPoolGetAccess},
    {"cuMemAddressReserve", 10020, cuMemAddressReserve},
    {"cuMemAddressFree", 10020, cuMemAddressFree},
    {"cuMemCreate", 10020, cuMemCreate},
    {"cuMemRelease", 10020, cuMemRelease},
    {"cuMemMap", 10020, cuMemMap},
    {"cuMemUnmap", 10020, cuMemUnmap},
    {"cuMemSetAccess", 10020, cuMemSetAccess},
    {"cuMemGetAllocationGranularity", 10020, cuMemGetAllocationGranularity},
    {"cuMemGetAllocationPropertiesFromHandle", 10020, cuMemGetAllocationPropertiesFromHandle},
    {"cuMemcpy", ALWAYS, cuMemcpy},
    {"cuMemcpyHtoD", ALWAYS, cuMemcpyHtoD_v2},
    {"cuMemcpyDtoH", ALWAYS, cuMemcpyDtoH_v2},
    {"cuMemcpyDtoD", ALWAYS, cuMemcpyDtoD_v2},
    {"cuMemcpyAsync", ALWAYS, cuMemcpyAsync},
    {"cuMemcpyHtoDAsync", ALWAYS, cuMemcpyHtoDAsync_v2},
    {"cuMemcpyDtoHAsync", ALWAYS, cuMemcpyDtoHAsync_v2},
    {"cuMemcpyDtoDAsync", ALWAYS, cuMemcpyDtoDAsync_v2},
    {"cuMemcpyBatchAsync", 12080, cuMemcpyBatchAsync},
    {"cuMemcpyBatchAsync", 13000, cuMemcpyBatchAsync_v2},
    {"cuMemsetD8", ALWAYS, cuMemsetD8_v2},
    {"cuMemsetD16", ALWAYS, cuMemsetD16_v2},
    {"cuMemsetD32", ALWAYS, cuMemsetD32_v2},
    {"cuMemsetD8Async", ALWAYS, cuMemsetD8Async},
    {"cuMemsetD16Async", ALWAYS, cuMemsetD16Async},
    {"cuMemsetD32Async", ALWAYS, cuMemsetD32Async},
    {"cuStreamCreate", ALWAYS, cuStreamCreate},
    {"cuStreamCreateWithPriority", ALWAYS, cuStreamCreateWithPriority},
    {"cuStreamDestroy", ALWAYS, cuStreamDestroy_v2},
    {"cuStreamSynchronize", ALWAYS, cuStreamSynchronize},
    {"cuStreamQuery", ALWAYS, cuStreamQuery},
    {"cuStreamWaitEvent", ALWAYS, cuStreamWaitEvent},
    {"cuStreamGetCtx", ALWAYS, cuStreamGetCtx},
    {"cuStreamGetCtx", 12050, cuStreamGetCtx_v2},
    {"cuStreamGetFlags", ALWAYS, cuStreamGetFlags},
    {"cuStreamGetPriority", ALWAYS, cuStreamGetPriority},
    {"cuStreamGetDevice", 12080, cuStreamGetDevice},
    {"cuStreamGetId", ALWAYS, cuStreamGetId},
    {"cuStreamIsCapturing", ALWAYS, cuStreamIsCapturing},
    {"cuStreamAddCallback", ALWAYS, cuStreamAddCallback},
    {"cuLaunchHostFunc", 10000, cuLaunchHostFunc},
    {"cuEventCreate", ALWAYS, cuEventCreate},
    {"cuEventDestroy", ALWAYS, cuEventDestroy_v2},
    {"cuEventRecord", ALWAYS, cuEventRecord},
    {"cuEventRecordWithFlags", 11010, cuEventRecordWithFlags},
    {"cuEventQuery", ALWAYS, cuEventQuery},
    {"cuEventSynchronize", ALWAYS, cuEventSynchronize},
    {"cuEventElapsedTime", ALWAYS, cuEventElapsedTime},
    {"cuEventElapsedTime", 12080, cuEventElapsedTime_v2},
    {"cuThreadExchangeStreamCaptureMode", 10010, cuThreadExchangeStreamCaptureMode},
    {"cuStreamBeginCapture", 10010, cuStreamBeginCapture_v2},
    {"cuStreamEndCapture", 10000, cuStreamEndCapture},
    {"cuStreamGetCaptureInfo", 12030, cuStreamGetCaptureInfo_v3},
    {"cuGraphInstantiateWithFlags", 11040, cuGraphInstantiateWithFlags},
    {"cuGraphLaunch", 10000, cuGraphLaunch},
    {"cuGraphGetNodes", 10000, cuGraphGetNodes},
    {"cuGraphDestroy", 10000, cuGraphDestroy},
    {"cuGraphExecDestroy", 10000, cuGraphExecDestroy},
    {"cuGetProcAddress", 11030, cuGetProcAddress},
    {"cuGetProcAddress", 12000, cuGetProcAddress_v2},
    {"cuGetExportTable", ALWAYS, cuGetExportTable},
};

CUresult cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    int found = SYMBOL_UNKNOWN;
    *function = NULL;
    for (size_t i = 0; i < sizeof SYMBOLS / sizeof *SYMBOLS; i++) {
        const struct symbol *symbol = &SYMBOLS[i];
        if (strcmp(symbol->name, name) != 0) continue;
        if (symbol->since <= version && symbol->since <= driver_version()) *function = symbol->function;
        found = *function ? SYMBOL_FOUND : SYMBOL_TOO_NEW;
    }
    if (*function && flags & PER_THREAD_DEFAULT_STREAM && per_thread_variant(name)) *function = per_thread_variant(name);
    if (found == SYMBOL_UNKNOWN && (*function = absent_function(name))) found = SYMBOL_FOUND;
    if (!*function && getenv("CUDA_EMULATOR_LOG")) fprintf(stderr, "CUDA emulator: no %s\n", name);
    if (status) *status = found;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}

/* The private tables through which cudart talks to the driver: there are none. */
CUresult cuGetExportTable(const void **table, const CUuuid *id) {
    (void)id;
    *table = NULL;
    return CUDA_ERROR_NOT_SUPPORTED;
}
