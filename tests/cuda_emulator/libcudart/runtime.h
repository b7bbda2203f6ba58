/* The emulated CUDA runtime: what its files share, and its types as far as they are not the driver's.

   Streams, events, pools and graphs are the driver's handles and contexts are its contexts, so that both APIs are one
   world. A call of the runtime's makes its device's primary context current first, where the thread has none. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <stdbool.h>

#include "../libcuda/driver.h"

typedef int cudaError_t;
typedef struct { unsigned x, y, z; } dim3;

enum { RUNTIME_VERSION = 13000 };

/* Errors have the driver's numbers. These are the runtime's alone. */
enum { ERROR_NO_DEVICE = 100, ERROR_INVALID_DEVICE_FUNCTION = 98 };

enum copy_kind { HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE, COPY_DEFAULT };

/* state.c */
cudaError_t tell(int code);         /* remembers an error as the thread's last one, and returns the code */
cudaError_t enter(void);            /* makes a context current where the thread has none */
cudaError_t initialise(void);
cudaError_t retain(int device);     /* makes the device's primary context */

/* For calls that need a context: the driver's call is made in one. */
#define IN_CONTEXT(call) \
    do { \
        cudaError_t entered = enter(); \
        return tell(entered != CUDA_SUCCESS ? entered : (call)); \
    } while (0)

/* By which tests know that a process has this runtime. */
extern EXPORT const int emulator_runtime;

/* kernels.c: what is done in the place of the kernel of this name */
cudaError_t run_kernel(const char *name, void **parameters, CUstream stream);

/* Said once for each name on stderr: a kernel or a function that torch wants and the emulation does not have. */
cudaError_t not_emulated(const char *what, const char *name);

#endif
