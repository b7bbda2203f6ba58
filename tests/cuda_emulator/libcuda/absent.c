/* Functions that torch insists on finding, all or none, and that nothing here uses: a call says its name, and fails. */
#include <stdio.h>
#include <string.h>

#include "emulator.h"

#define ABSENT(X) \
    X(cuMemExportToShareableHandle) X(cuMemImportFromShareableHandle) X(cuMemRetainAllocationHandle) \
    X(cuMulticastAddDevice) X(cuMulticastBindMem) X(cuMulticastCreate) X(cuMulticastUnbind) X(cuStreamWriteValue32) \
    X(cuCtxFromGreenCtx) X(cuDevResourceGenerateDesc) X(cuDevSmResourceSplitByCount) X(cuDeviceGetDevResource) \
    X(cuGreenCtxCreate) X(cuGreenCtxDestroy) X(cuGreenCtxStreamCreate)

#define DEFINE(name) \
    static CUresult name(void) { \
        fprintf(stderr, "CUDA emulator: %s is not emulated\n", #name); \
        return CUDA_ERROR_NOT_SUPPORTED; \
    }
ABSENT(DEFINE)

#define ROW(name) {#name, name},
static const struct {
    const char *name;
    CUresult (*function)(void);
} FUNCTIONS[] = {ABSENT(ROW)};

void *absent_function(const char *name) {
    for (size_t i = 0; i < sizeof FUNCTIONS / sizeof *FUNCTIONS; i++)
        if (strcmp(FUNCTIONS[i].name, name) == 0) return (void *)FUNCTIONS[i].function;
    return NULL;
}
