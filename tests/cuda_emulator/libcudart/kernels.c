/* The kernels that run in stream order, and late, as copies do: torch's fills and its `_sleep`, known by their mangled
   names. No other kernel runs: for those, torch_operators.py has the CPU do what the operator does. */
#include <stdlib.h>
#include <string.h>

#include "../libcuda/control.h"
#include "runtime.h"

enum { WIDEST = 16 };

struct fill {
    char *target;
    size_t count, width;
    char value[WIDEST];
};

static void fill(void *argument) {
    const struct fill *fill = argument;
    size_t size = fill->count * fill->width;
    if (!size) return;
    memcpy(fill->target, fill->value, fill->width);
    for (size_t done = fill->width; done < size; done *= 2)
        memcpy(fill->target + done, fill->target, done < size - done ? done : size - done);
}

/* Bytes of the type that a mangled name goes on with; 0: none that is known. */
static size_t width_of(const char *type) {
    static const struct {
        const char *mangled;
        size_t width;
    } TYPES[] = {
        {"b", 1}, {"c", 1}, {"a", 1}, {"h", 1}, {"s", 2}, {"t", 2}, {"i", 4}, {"j", 4}, {"f", 4},
        {"l", 8}, {"m", 8}, {"x", 8}, {"y", 8}, {"d", 8}, {"N3c104Half", 2}, {"N3c108BFloat16", 2},
        {"N3c1011Float8_e5m2", 1}, {"N3c1013Float8_e4m3fn", 1}, {"N3c1015Float8_e5m2fnuz", 1},
        {"N3c1015Float8_e4m3fnuz", 1}, {"N3c107complexIfE", 8}, {"N3c107complexIdE", 16},
    };
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (strncmp(type, TYPES[i].mangled, strlen(TYPES[i].mangled)) == 0) return TYPES[i].width;
    return 0;
}

/* at::native::vectorized_elementwise_kernel<N, FillFunctor<T>, std::array<char *, 1>>(int count, functor, pointers), or
   unrolled_elementwise_kernel, with more parameters behind. */
static const char *filled_type(const char *name) {
    static const char FUNCTOR[] = "FillFunctorI";
    const char *functor = strstr(name, FUNCTOR);
    return functor && strstr(name, "d_elementwise_kernel") ? functor + strlen(FUNCTOR) : NULL;
}

cudaError_t run_kernel(const char *name, void **parameters, CUstream stream) {
    if (strstr(name, "spin_kernel")) return emulator_launch(NULL, NULL, 0, 0, 0, stream);
    const char *type = filled_type(name);
    size_t width = type ? width_of(type) : 0;
    if (!width) return not_emulated("kernel", name);
    struct fill *made = malloc(sizeof *made);
    if (!made) abort();
    *made = (struct fill){.target = *(char **)parameters[2], .count = (size_t)*(int *)parameters[0], .width = width};
    memcpy(made->value, parameters[1], width);
    return emulator_launch(fill, made, sizeof *made, (uintptr_t)made->target, made->count * width, stream);
}
