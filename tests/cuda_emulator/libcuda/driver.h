/* The part of NVIDIA's cuda.h that the emulator has: types, codes, and the calls by their exported names. */
#ifndef DRIVER_H
#define DRIVER_H

#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct context *CUcontext;
typedef struct stream *CUstream;
typedef struct event *CUevent;
typedef struct pool *CUmemoryPool;
typedef struct graph *CUgraph;     /* and CUgraphExec */
typedef struct physical *CUmemGenericAllocationHandle;
typedef void (*CUhostFn)(void *);
typedef void (*CUstreamCallback)(CUstream, CUresult, void *);
typedef struct { char bytes[16]; } CUuuid;
typedef struct { int type; int id; } CUmemLocation;
typedef struct { int allocation_type; int handle_types; CUmemLocation location; void *security; size_t max_size; } CUmemPoolProps;
typedef struct { CUmemLocation location; int flags; } CUmemAccessDesc;
typedef struct { int type, handle_types; CUmemLocation location; void *meta; unsigned char flags[8]; } CUmemAllocationProp;


#define CU_STREAM_LEGACY ((CUstream)(uintptr_t)1)
#define CU_STREAM_PER_THREAD ((CUstream)(uintptr_t)2)
#define CU_STREAM_NON_BLOCKING 1u
#define CU_EVENT_DISABLE_TIMING 2u

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_DEVICE_UNAVAILABLE = 46,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_ECC_UNCORRECTABLE = 214,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_LAUNCH_TIMEOUT = 702,
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
    CUDA_ERROR_ASSERT = 710,
    CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED = 712,
    CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED = 713,
    CUDA_ERROR_HARDWARE_STACK_ERROR = 714,
    CUDA_ERROR_LAUNCH_FAILED = 719,
    CUDA_ERROR_NOT_PERMITTED = 800,
    CUDA_ERROR_NOT_SUPPORTED = 801,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
    CUDA_ERROR_STREAM_CAPTURE_MERGE = 902,
    CUDA_ERROR_STREAM_CAPTURE_UNMATCHED = 903,
    CUDA_ERROR_STREAM_CAPTURE_UNJOINED = 904,
    CUDA_ERROR_STREAM_CAPTURE_ISOLATION = 905,
    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT = 906,
    CUDA_ERROR_CAPTURED_EVENT = 907,
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD = 908,
    CUDA_ERROR_UNKNOWN = 999
};

/* context.c */
EXPORT CUresult cuInit(unsigned flags);
EXPORT CUresult cuDriverGetVersion(int *version);
EXPORT CUresult cuGetErrorName(CUresult code, const char **name);
EXPORT CUresult cuGetErrorString(CUresult code, const char **text);
EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device);
EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device);
EXPORT CUresult cuDevicePrimaryCtxReset_v2(CUdevice device);
EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active);
EXPORT CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags);
EXPORT CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device);
EXPORT CUresult cuCtxCreate_v4(CUcontext *context, void *parameters, unsigned flags, CUdevice device);
EXPORT CUresult cuCtxDestroy_v2(CUcontext context);
EXPORT CUresult cuCtxSetCurrent(CUcontext context);
EXPORT CUresult cuCtxGetCurrent(CUcontext *context);
EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context);
EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *context);
EXPORT CUresult cuCtxGetDevice(CUdevice *device);
EXPORT CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext context);
EXPORT CUresult cuCtxGetApiVersion(CUcontext context, unsigned *version);
EXPORT CUresult cuCtxGetFlags(unsigned *flags);
EXPORT CUresult cuCtxGetId(CUcontext context, unsigned long long *id);
EXPORT CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest);
EXPORT CUresult cuCtxSynchronize(void);
EXPORT CUresult cuCtxSynchronize_v2(CUcontext context);

/* device.c */
EXPORT CUresult cuDeviceGetCount(int *count);
EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal);
EXPORT CUresult cuDeviceGetName(char *name, int size, CUdevice device);
EXPORT CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device);
EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device);
EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device);
EXPORT CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device);
EXPORT CUresult cuDeviceGetPCIBusId(char *text, int size, CUdevice device);
EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device);
EXPORT CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer);

/* memory.c */
EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t size);
EXPORT CUresult cuMemFree_v2(CUdeviceptr pointer);
EXPORT CUresult cuMemGetInfo_v2(size_t *available, size_t *total);
EXPORT CUresult cuMemHostAlloc(void **pointer, size_t size, unsigned flags);
EXPORT CUresult cuMemAllocHost_v2(void **pointer, size_t size);
EXPORT CUresult cuMemFreeHost(void *pointer);
EXPORT CUresult cuMemHostRegister_v2(void *pointer, size_t size, unsigned flags);
EXPORT CUresult cuMemHostUnregister(void *pointer);

/* pointers.c */
EXPORT CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr pointer);
EXPORT CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *device, void *pointer, unsigned flags);
EXPORT CUresult cuMemHostGetFlags(unsigned *flags, void *pointer);
EXPORT CUresult cuPointerGetAttribute(void *value, int attribute, CUdeviceptr pointer);
EXPORT CUresult cuPointerGetAttributes(unsigned count, int *attributes, void **values, CUdeviceptr pointer);
EXPORT CUresult cuPointerSetAttribute(const void *value, int attribute, CUdeviceptr pointer);

/* pools.c */
EXPORT CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t size, CUstream stream);
EXPORT CUresult cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t size, CUmemoryPool pool, CUstream stream);
EXPORT CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream stream);
EXPORT CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device);
EXPORT CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device);
EXPORT CUresult cuDeviceSetMemPool(CUdevice device, CUmemoryPool pool);
EXPORT CUresult cuMemGetDefaultMemPool(CUmemoryPool *pool, CUmemLocation *location, int type);
EXPORT CUresult cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, int type);
EXPORT CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *properties);
EXPORT CUresult cuMemPoolDestroy(CUmemoryPool pool);
EXPORT CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t bytes);
EXPORT CUresult cuMemPoolSetAttribute(CUmemoryPool pool, int attribute, void *value);
EXPORT CUresult cuMemPoolGetAttribute(CUmemoryPool pool, int attribute, void *value);
EXPORT CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *descriptions, size_t count);
EXPORT CUresult cuMemPoolGetAccess(int *flags, CUmemoryPool pool, CUmemLocation *location);

/* virtual.c */
EXPORT CUresult cuMemAddressReserve(CUdeviceptr *pointer, size_t size, size_t alignment, CUdeviceptr wanted,
                                    unsigned long long flags);
EXPORT CUresult cuMemAddressFree(CUdeviceptr pointer, size_t size);
EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *properties,
                            unsigned long long flags);
EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle);
EXPORT CUresult cuMemMap(CUdeviceptr pointer, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                         unsigned long long flags);
EXPORT CUresult cuMemUnmap(CUdeviceptr pointer, size_t size);
EXPORT CUresult cuMemSetAccess(CUdeviceptr pointer, size_t size, const CUmemAccessDesc *descriptions, size_t count);
EXPORT CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *properties, int option);
EXPORT CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *properties,
                                                       CUmemGenericAllocationHandle handle);

/* copies.c and fills.c */
EXPORT CUresult cuMemcpy(CUdeviceptr target, CUdeviceptr source, size_t size);
EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr target, const void *source, size_t size);
EXPORT CUresult cuMemcpyDtoH_v2(void *target, CUdeviceptr source, size_t size);
EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr target, CUdeviceptr source, size_t size);
EXPORT CUresult cuMemcpyAsync(CUdeviceptr target, CUdeviceptr source, size_t size, CUstream stream);
EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void *source, size_t size, CUstream stream);
EXPORT CUresult cuMemcpyDtoHAsync_v2(void *target, CUdeviceptr source, size_t size, CUstream stream);
EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr target, CUdeviceptr source, size_t size, CUstream stream);
EXPORT CUresult cuMemcpyBatchAsync(CUdeviceptr *targets, CUdeviceptr *sources, size_t *sizes, size_t count,
                                   void *attributes, size_t *indices, size_t attribute_count, size_t *failed,
                                   CUstream stream);
EXPORT CUresult cuMemcpyBatchAsync_v2(CUdeviceptr *targets, CUdeviceptr *sources, size_t *sizes, size_t count,
                                      void *attributes, size_t *indices, size_t attribute_count, CUstream stream);
EXPORT CUresult cuMemsetD8_v2(CUdeviceptr target, unsigned char value, size_t count);
EXPORT CUresult cuMemsetD16_v2(CUdeviceptr target, unsigned short value, size_t count);
EXPORT CUresult cuMemsetD32_v2(CUdeviceptr target, unsigned value, size_t count);
EXPORT CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t count, CUstream stream);
EXPORT CUresult cuMemsetD16Async(CUdeviceptr target, unsigned short value, size_t count, CUstream stream);
EXPORT CUresult cuMemsetD32Async(CUdeviceptr target, unsigned value, size_t count, CUstream stream);

/* streams.c */
EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned flags);
EXPORT CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority);
EXPORT CUresult cuStreamDestroy_v2(CUstream stream);
EXPORT CUresult cuStreamSynchronize(CUstream stream);
EXPORT CUresult cuStreamQuery(CUstream stream);
EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags);
EXPORT CUresult cuStreamGetCtx(CUstream stream, CUcontext *context);
EXPORT CUresult cuStreamGetCtx_v2(CUstream stream, CUcontext *context, void **green_context);
EXPORT CUresult cuStreamGetFlags(CUstream stream, unsigned *flags);
EXPORT CUresult cuStreamGetPriority(CUstream stream, int *priority);
EXPORT CUresult cuStreamGetDevice(CUstream stream, CUdevice *device);
EXPORT CUresult cuStreamGetId(CUstream stream, unsigned long long *id);
EXPORT CUresult cuStreamAddCallback(CUstream stream, CUstreamCallback callback, void *argument, unsigned flags);
EXPORT CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *argument);

/* events.c */
EXPORT CUresult cuEventCreate(CUevent *event, unsigned flags);
EXPORT CUresult cuEventDestroy_v2(CUevent event);
EXPORT CUresult cuEventRecord(CUevent event, CUstream stream);
EXPORT CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags);
EXPORT CUresult cuEventQuery(CUevent event);
EXPORT CUresult cuEventSynchronize(CUevent event);
EXPORT CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end);
EXPORT CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end);

/* capture.c */
EXPORT CUresult cuThreadExchangeStreamCaptureMode(int *mode);
EXPORT CUresult cuStreamBeginCapture_v2(CUstream stream, int mode);
EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph);
EXPORT CUresult cuStreamIsCapturing(CUstream stream, int *status);
EXPORT CUresult cuStreamGetCaptureInfo_v3(CUstream stream, int *status, uint64_t *id, CUgraph *graph,
                                          const void **nodes, const void **edges, size_t *count);
EXPORT CUresult cuGraphInstantiateWithFlags(CUgraph *executable, CUgraph graph, unsigned long long flags);
EXPORT CUresult cuGraphLaunch(CUgraph executable, CUstream stream);
EXPORT CUresult cuGraphGetNodes(CUgraph graph, void **nodes, size_t *count);
EXPORT CUresult cuGraphDestroy(CUgraph graph);
EXPORT CUresult cuGraphExecDestroy(CUgraph executable);

/* symbols.c */
EXPORT CUresult cuGetProcAddress(const char *name, void **function, int version, uint64_t flags);
EXPORT CUresult cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status);
EXPORT CUresult cuGetExportTable(const void **table, const CUuuid *id);

#endif
