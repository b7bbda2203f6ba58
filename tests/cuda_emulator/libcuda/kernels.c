/* Casts, which run late, like all that is queued. Machine code is not executed: they are done here, by arithmetic (NaNs
   aside, whose bits are the kernel's own business). */
#include <math.h>
#include <string.h>

#include "control.h"
#include "emulator.h"

struct format {
    const char *name;
    int exponent_bits, mantissa_bits;
    bool has_infinities;
};

static const struct format FORMATS[] = {{"F8_E4M3", 4, 3, false}, {"BF16", 8, 7, true}, {"F16", 5, 10, true}, {"F32", 8, 23, true}};
enum { FORMAT_COUNT = sizeof FORMATS / sizeof *FORMATS };

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
    RETURN_IF_REFUSED(begin_call("cuLaunchKernel", NEEDS_CONTEXT));
    struct cast cast = {find_format(from), find_format(to)};
    if (!cast.from || !cast.to) return end_call(CUDA_ERROR_NOT_FOUND);
    return end_call(enqueue_cast(stream, cast, (struct range){source, count * width(cast.from)},
                                 (struct range){target, count * width(cast.to)}));
}
