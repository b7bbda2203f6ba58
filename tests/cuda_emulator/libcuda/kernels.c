/* Kernels: they are loaded and launched as on a GPU, and run late, like all that is queued. Machine code is not executed:
   what is known by its name, the casts of runai_model_streamer.kernels, is done here, by arithmetic (NaNs aside, whose
   bits are the kernel's own business). A kernel of any other name cannot be launched. */
#define _GNU_SOURCE
#include <elf.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control.h"
#include "emulator.h"

/* How numba passes an array of one dimension: seven parameters, of 8 bytes each. */
enum { NUMBA_COUNT = 2, NUMBA_ITEM_SIZE = 3, NUMBA_DATA = 4, NUMBA_ARRAY = 7 };
enum { LONGEST_NAME = 256 };

struct format {
    const char *name;
    int exponent_bits, mantissa_bits;
    bool has_infinities;
};

struct kernel {
    struct cast cast;
    struct kernel *next;
};

struct library {
    char *image;
    size_t size;
    struct kernel *kernels;
};

static const struct format FORMATS[] = {{"F8_E4M3", 4, 3, false}, {"BF16", 8, 7, true}, {"F16", 5, 10, true}, {"F32", 8, 23, true}};
enum { FORMAT_COUNT = sizeof FORMATS / sizeof *FORMATS };

static long libraries;

long libraries_live(void) { return libraries; }

static size_t width(const struct format *format) {
    return (size_t)(1 + format->exponent_bits + format->mantissa_bits) / 8;
}

static double widen(uint32_t bits, const struct format *format) {
    int top = (1 << format->exponent_bits) - 1, bias = top / 2;
    int exponent = (int)(bits >> format->mantissa_bits) & top;
    uint32_t mantissa = bits & ((1u << format->mantissa_bits) - 1);
    double value;
    if (!format->has_infinities && exponent == top && mantissa == (1u << format->mantissa_bits) - 1) return NAN;
    if (format->has_infinities && exponent == top) value = mantissa ? NAN : INFINITY;
    else if (exponent == 0) value = ldexp(mantissa, 1 - bias - format->mantissa_bits);
    else value = ldexp(mantissa | 1u << format->mantissa_bits, exponent - bias - format->mantissa_bits);
    return bits >> (format->exponent_bits + format->mantissa_bits) & 1 ? -value : value;
}

/* To the nearest, of two equally near the even one; what is beyond the largest is infinity. */
static uint32_t narrow(double value, const struct format *format) {
    int top = (1 << format->exponent_bits) - 1, bias = top / 2, exponent;
    uint32_t sign = (uint32_t)(signbit(value) != 0) << (format->exponent_bits + format->mantissa_bits);
    uint32_t infinity = (uint32_t)top << format->mantissa_bits;
    if (isnan(value)) return sign | infinity | 1u << (format->mantissa_bits - 1);
    if (isinf(value)) return sign | infinity;
    if (value == 0) return sign;
    frexp(value, &exponent);
    int unit = (exponent - 1 < 1 - bias ? 1 - bias : exponent - 1) - format->mantissa_bits;
    double mantissa = rint(ldexp(fabs(value), -unit));
    /* Of a normal number it holds the leading one, which adds one to the exponent; so does a mantissa that rounds up. */
    double made = mantissa + ldexp(unit + format->mantissa_bits - (1 - bias), format->mantissa_bits);
    return sign | (made >= infinity ? infinity : (uint32_t)made);
}

void execute_cast(struct cast cast, struct range from, struct range to) {
    size_t step = width(cast.from), wide = width(cast.to);
    for (size_t i = 0; i < to.size / wide; i++) {
        uint32_t bits = 0;
        memcpy(&bits, (const char *)from.start + i * step, step);
        bits = narrow(widen(bits, cast.from), cast.to);
        memcpy((char *)to.start + i * wide, &bits, wide);
    }
}

static const struct format *find_format(const char *name) {
    for (int i = 0; i < FORMAT_COUNT; i++)
        if (strcmp(FORMATS[i].name, name) == 0) return &FORMATS[i];
    return NULL;
}

/* The formats in a kernel's name, wherever in it "cast_BF16_F16_" stands: numba puts its own before and behind. */
static struct cast find_cast(const char *name) {
    for (int from = 0; from < FORMAT_COUNT; from++)
        for (int to = 0; to < FORMAT_COUNT; to++) {
            char wanted[LONGEST_NAME];
            snprintf(wanted, sizeof wanted, "cast_%s_%s_", FORMATS[from].name, FORMATS[to].name);
            if (strstr(name, wanted)) return (struct cast){&FORMATS[from], &FORMATS[to]};
        }
    return (struct cast){NULL, NULL};
}

/* The kernel reads the bytes of one array and writes those of another: both have to be on the device. */
static CUresult enqueue_cast(CUstream handle, struct cast cast, struct range from, struct range to) {
    struct stream *stream;
    CUresult result = find_stream(handle, &stream);
    if (result != CUDA_SUCCESS) return result;
    size_t wide = width(cast.to);
    if (to.start % wide || to.size % wide || from.size != to.size / wide * width(cast.from)) {
        report(MISUSE_OUT_OF_BOUNDS, "a cast of %zu bytes at %#lx into %zu bytes at %#lx", from.size,
               (unsigned long)from.start, to.size, (unsigned long)to.start);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (!is_on_device(from) || !is_on_device(to)) return CUDA_ERROR_INVALID_VALUE;
    enqueue(stream, (struct operation){.kind = OPERATION_CAST, .reads = from, .writes = to, .cast = cast});
    return CUDA_SUCCESS;
}

CUresult emulator_launch_cast(const char *from, const char *to, uint64_t source, uint64_t target, size_t count,
                              CUstream stream) {
    RETURN_IF_REFUSED(begin_call("cuLaunchKernelEx", NEEDS_CONTEXT));
    struct cast cast = {find_format(from), find_format(to)};
    if (!cast.from || !cast.to) return end_call(CUDA_ERROR_NOT_FOUND);
    return end_call(enqueue_cast(stream, cast, (struct range){source, count * width(cast.from)},
                                 (struct range){target, count * width(cast.to)}));
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUkernel kernel, void **parameters, void **extra) {
    (void)extra;
    BEGIN_CALL(NEEDS_CONTEXT);
    struct range arrays[2];
    for (int i = 0; i < 2; i++) {
        uint64_t **values = (uint64_t **)parameters + i * NUMBA_ARRAY;
        arrays[i] = (struct range){*values[NUMBA_DATA], *values[NUMBA_COUNT] * *values[NUMBA_ITEM_SIZE]};
    }
    return end_call(enqueue_cast(config->stream, kernel->cast, arrays[0], arrays[1]));
}

/* A cubin is an ELF file, at whose end its section headers are. */
CUresult cuLibraryLoadData(CUlibrary *library, const void *image, void *options, void **values, unsigned count,
                           void *library_options, void **library_values, unsigned library_count) {
    (void)options, (void)values, (void)count, (void)library_options, (void)library_values, (void)library_count;
    BEGIN_CALL(NEEDS_INIT);
    const Elf64_Ehdr *header = image;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return end_call(CUDA_ERROR_INVALID_VALUE);
    struct library *made = calloc(1, sizeof *made);
    if (!made) abort();
    made->size = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
    made->image = malloc(made->size);
    if (!made->image) abort();
    memcpy(made->image, image, made->size);
    libraries++;
    *library = made;
    return end_call(CUDA_SUCCESS);
}

CUresult cuLibraryUnload(CUlibrary library) {
    BEGIN_RELEASE();
    while (library->kernels) {
        struct kernel *kernel = library->kernels;
        library->kernels = kernel->next;
        free(kernel);
    }
    free(library->image);
    free(library);
    libraries--;
    return end_call(CUDA_SUCCESS);
}

CUresult cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name) {
    BEGIN_CALL(NEEDS_INIT);
    *kernel = NULL;
    if (!memmem(library->image, library->size, name, strlen(name) + 1)) return end_call(CUDA_ERROR_NOT_FOUND);
    struct cast cast = find_cast(name);
    if (!cast.from) return end_call(CUDA_ERROR_NOT_SUPPORTED);
    struct kernel *made = malloc(sizeof *made);
    if (!made) abort();
    *made = (struct kernel){cast, library->kernels};
    library->kernels = made;
    *kernel = made;
    return end_call(CUDA_SUCCESS);
}

/* Of registers, shared memory and the like nothing is known, and nothing is needed. */
CUresult cuKernelGetAttribute(int *value, int attribute, CUkernel kernel, CUdevice device) {
    (void)attribute, (void)kernel, (void)device;
    BEGIN_CALL(NEEDS_INIT);
    *value = 0;
    return end_call(CUDA_SUCCESS);
}
