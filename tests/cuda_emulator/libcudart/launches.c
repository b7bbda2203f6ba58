/* Kernels as torch's libraries register them when they are loaded, tens of thousands, and launch them later. */
#include <pthread.h>
#include <stdlib.h>

#include "runtime.h"

/* cudaFuncAttributes of CUDA 13. */
struct function_attributes {
    size_t shared_bytes, constant_bytes, local_bytes;
    int threads_per_block, registers, ptx_version, binary_version;
    int rest[25];
};
_Static_assert(sizeof(struct function_attributes) == 144, "cudaFuncAttributes");

/* cudaLaunchConfig_t */
struct launch_config {
    dim3 grid, block;
    size_t shared_bytes;
    CUstream stream;
    void *attributes;
    unsigned attribute_count;
};

/* A table by the address of the function on the host that stands for a kernel. Its entries stay where they are. */
struct registered {
    const void *function;
    const char *name;
};

static struct registered **table;
static size_t room, used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread struct launch_config pushed;

static size_t slot_of(const void *function) {
    size_t slot = ((uintptr_t)function >> 4) * 0x9e3779b97f4a7c15u % room;
    while (table[slot] && table[slot]->function != function) slot = (slot + 1) % room;
    return slot;
}

static void grow(void) {
    struct registered **before = table;
    size_t size = room;
    room = size ? size * 2 : 1 << 16;
    table = calloc(room, sizeof *table);
    if (!table) abort();
    for (size_t i = 0; i < size; i++)
        if (before[i]) table[slot_of(before[i]->function)] = before[i];
    free(before);
}

static void add(const void *function, const char *name) {
    if ((used + 1) * 2 > room) grow();
    size_t slot = slot_of(function);
    if (!table[slot]) {
        table[slot] = malloc(sizeof **table);
        if (!table[slot]) abort();
        used++;
    }
    *table[slot] = (struct registered){function, name};
}

static const struct registered *find(const void *function) {
    pthread_mutex_lock(&lock);
    const struct registered *found = room ? table[slot_of(function)] : NULL;
    pthread_mutex_unlock(&lock);
    return found;
}

EXPORT void **__cudaRegisterFatBinary(void *image) {
    static void *handle;
    (void)image;
    return &handle;
}

EXPORT void __cudaRegisterFatBinaryEnd(void **handle) { (void)handle; }

EXPORT void __cudaUnregisterFatBinary(void **handle) { (void)handle; }

EXPORT char __cudaInitModule(void **handle) {
    (void)handle;
    return 1;
}

EXPORT void __cudaRegisterFunction(void **handle, const char *function, char *on_device, const char *name, int threads,
                                   void *thread, void *block, void *block_size, void *grid_size, int *warp) {
    (void)handle, (void)on_device, (void)threads, (void)thread, (void)block;
    (void)block_size, (void)grid_size, (void)warp;
    pthread_mutex_lock(&lock);
    add(function, name);
    pthread_mutex_unlock(&lock);
}

EXPORT void __cudaRegisterVar(void **handle, char *variable, char *on_device, const char *name, int is_external,
                              size_t size, int is_constant, int is_global) {
    (void)handle, (void)variable, (void)on_device, (void)name, (void)is_external, (void)size, (void)is_constant;
    (void)is_global;
}

EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, CUstream stream) {
    pushed = (struct launch_config){.grid = grid, .block = block, .shared_bytes = shared_bytes, .stream = stream};
    return CUDA_SUCCESS;
}

EXPORT cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared_bytes, CUstream *stream) {
    *grid = pushed.grid;
    *block = pushed.block;
    *shared_bytes = pushed.shared_bytes;
    *stream = pushed.stream;
    return CUDA_SUCCESS;
}

static cudaError_t launch(const struct registered *kernel, void **parameters, CUstream stream) {
    if (!kernel) return tell(ERROR_INVALID_DEVICE_FUNCTION);
    IN_CONTEXT(run_kernel(kernel->name, parameters, stream));
}

EXPORT cudaError_t __cudaGetKernel(const struct registered **kernel, const void *function) {
    *kernel = find(function);
    return tell(*kernel ? CUDA_SUCCESS : ERROR_INVALID_DEVICE_FUNCTION);
}

EXPORT cudaError_t __cudaLaunchKernel(const struct registered *kernel, dim3 grid, dim3 block, void **parameters,
                                      size_t shared_bytes, CUstream stream) {
    (void)grid, (void)block, (void)shared_bytes;
    return launch(kernel, parameters, stream);
}

EXPORT cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **parameters,
                                    size_t shared_bytes, CUstream stream) {
    (void)grid, (void)block, (void)shared_bytes;
    return launch(find(function), parameters, stream);
}

EXPORT cudaError_t cudaLaunchKernelExC(const struct launch_config *config, const void *function, void **parameters) {
    return launch(find(function), parameters, config->stream);
}

EXPORT cudaError_t cudaFuncGetAttributes(struct function_attributes *attributes, const void *function) {
    (void)function;
    *attributes = (struct function_attributes){.threads_per_block = 1024, .registers = 32, .ptx_version = 90,
                                               .binary_version = 90};
    return CUDA_SUCCESS;
}

EXPORT cudaError_t cudaFuncSetAttribute(const void *function, int attribute, int value) {
    (void)function, (void)attribute, (void)value;
    return CUDA_SUCCESS;
}

EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int size,
                                                                          size_t shared_bytes, unsigned flags) {
    (void)function, (void)size, (void)shared_bytes, (void)flags;
    *blocks = 2;
    return CUDA_SUCCESS;
}

EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int size,
                                                                 size_t shared_bytes) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, size, shared_bytes, 0);
}
