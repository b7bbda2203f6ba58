/* The emulator's own API: what tests ask of it and tell it. Python's side of it is __init__.py. */
#ifndef CONTROL_H
#define CONTROL_H

#include "driver.h"

/* "lazy", "eager" or "random"; -1: no such mode. */
EXPORT int emulator_set_mode(const char *name, uint64_t seed);
/* How often in a row a query answers NOT_READY before it makes progress. */
EXPORT void emulator_set_patience(unsigned polls);
/* Bytes of device memory; more is CUDA_ERROR_OUT_OF_MEMORY. */
EXPORT void emulator_set_device_memory(size_t bytes);
/* The nth coming call (1 is the next, 0 all of them) of this name ("*": any) returns `code`; or, if `when_run`, its
   operation fails when its stream gets there, and every later call returns `code`. -1: no room, or a negative nth. */
EXPORT int emulator_fail(const char *call, long nth, CUresult code, int when_run);

/* Each coming call of this name takes so much longer, in which others go on. -1: no room. */
EXPORT int emulator_delay(const char *call, unsigned microseconds);
/* Whether page-locking memory, and unlocking it, wait for all that is queued on every stream. */
EXPORT void emulator_set_pinning_waits(int waits);

EXPORT long emulator_misuse_count(void);
EXPORT const char *emulator_misuse_kind(long index);
EXPORT const char *emulator_misuse_text(long index);
/* Reports of one kind are made, or not. -1: no such kind. */
EXPORT int emulator_ignore(const char *kind, int ignored);

EXPORT long emulator_call_count(void);
EXPORT const char *emulator_call_name(long index);

/* device, device_bytes, device_bytes_peak (so for pinned and registered), streams, events, pools, contexts (retained),
   operations (pending); -1: no such thing. */
EXPORT long emulator_live(const char *what);

/* The CPU is about to read, or write, these bytes: reports pending operations that this would race with. */
EXPORT void emulator_host_access(uint64_t address, size_t size, int writes);

/* What the launch of a cast's kernel does. The formats by their names in safetensors. */
EXPORT CUresult emulator_launch_cast(const char *from, const char *to, uint64_t source, uint64_t target, size_t count,
                                     CUstream stream);

/* What the launch of a kernel does that `kernel` stands for, which writes these bytes of the device's (none: 0). `argument`
   is from malloc, and freed behind it. */
EXPORT CUresult emulator_launch(void (*kernel)(void *), void *argument, size_t argument_size, uint64_t writes,
                                size_t size, CUstream stream);

/* Forgets reports, calls, failures, delays, the lost device, ignored kinds and peaks, and gives back quarantined memory.
   What is alive stays alive, what is pending stays pending, and the mode stays. */
EXPORT void emulator_reset(void);

#endif
