/* What the emulator's own files share. Everything here is called with the one lock held, unless it says otherwise. */
#ifndef EMULATOR_H
#define EMULATOR_H

#include <pthread.h>
#include <stdbool.h>

#include "driver.h"

/* Bytes that show in a test when memory is read before it is written, or after it is freed. */
enum { POISON_DEVICE_NEW = 0xA5, POISON_DEVICE_FREED = 0xDF, POISON_PINNED_NEW = 0x5A, POISON_PINNED_FREED = 0xF5 };

enum mode { MODE_LAZY, MODE_EAGER, MODE_RANDOM };

enum misuse_kind {
    MISUSE_RACE,            /* two operations on the same bytes, one of them a write, that nothing puts in order */
    MISUSE_SOURCE_CHANGED,  /* a pinned source was written by the CPU between the call and the copy */
    MISUSE_HOST_ACCESS,     /* the CPU touched bytes (it told us) that a pending operation uses */
    MISUSE_FREED_IN_USE,    /* memory freed or unregistered while an operation on it was pending */
    MISUSE_USE_AFTER_FREE,  /* an operation on memory that was freed */
    MISUSE_UNMAPPED,        /* a registered source that the process unmapped before the copy */
    MISUSE_OUT_OF_BOUNDS,   /* a range that leaves its allocation, or device memory nobody allocated */
    MISUSE_INVALID_FREE,    /* a double free, or a pointer that is none of ours */
    MISUSE_STALE_HANDLE,    /* a stream or an event that was destroyed */
    MISUSE_CALL_IN_CALLBACK,/* a CUDA call from a host function, which CUDA forbids */
    MISUSE_KINDS
};

struct range {
    uintptr_t start;
    size_t size;
};

/* Memory that CUDA knows: device, pinned, or the caller's own, registered. */
enum memory_kind { MEMORY_DEVICE, MEMORY_PINNED, MEMORY_REGISTERED, MEMORY_KINDS };

enum { MOST_DEVICES = 8 };

struct allocation {
    struct range range;
    enum memory_kind kind;
    int device;                /* where it is, or, of host memory, whose context was current when it was made */
    struct pool *pool;         /* where it came from, if from a pool */
    struct physical *mapped;   /* of virtual memory: what is mapped there; its bytes are not the allocation's to free */
    uint64_t id;
    bool free_is_pending;      /* cuMemFreeAsync was called, and its stream has not got there */
    bool freed;                /* in quarantine: its bytes are poison, its address is not given out again */
    struct allocation *next;
};

enum operation_kind { OPERATION_COPY, OPERATION_FILL, OPERATION_RECORD, OPERATION_WAIT, OPERATION_HOST_CALL,
                      OPERATION_ALLOCATE, OPERATION_FREE, OPERATION_CAST, OPERATION_KERNEL };

/* Of numbers, from one format into another. */
struct cast {
    const struct format *from, *to;
};

/* One entry of a stream's queue. `sequence` is its place among all operations ever enqueued, on every stream. */
struct operation {
    enum operation_kind kind;
    uint64_t sequence;
    const char *call;
    struct range reads, writes;
    unsigned char *staged;          /* our own copy of a pageable source */
    bool source_is_watched;
    uint64_t source_checksum;
    uint32_t pattern;
    size_t pattern_size;
    struct stream *awaited;         /* a wait: for this stream to get past `awaited_sequence` */
    uint64_t awaited_sequence;
    struct event *event;
    CUhostFn function;
    CUstreamCallback callback;
    void *argument;
    struct allocation *allocation;
    struct cast cast;
    void (*kernel)(void *argument); /* done in a kernel's place; `argument` is its own, and freed behind it */
    size_t argument_size;
    struct operation *next;
};

struct stream {
    uint32_t magic;
    int device;
    uint64_t id;
    unsigned flags;
    int priority;
    bool destroyed;
    bool in_host_call;              /* its first operation runs without the lock: others wait for it */
    unsigned polls;                 /* queries in a row that were told NOT_READY */
    uint64_t ordered_before;        /* scratch of order.c */
    struct capture *capture;        /* that it takes part in */
    uint64_t captured, joined;      /* the index there of its latest operation, and up to which others waited for it */
    struct operation *first, *last;
    struct stream *next;
};

struct event {
    uint32_t magic;
    int device;
    unsigned flags;
    bool destroyed;
    unsigned polls;
    struct stream *stream;          /* of the latest record; NULL: never recorded */
    struct capture *capture;        /* in which the latest record was */
    uint64_t captured;              /* its index there */
    uint64_t sequence;              /* of the latest record: its generation */
    uint64_t ran_sequence;          /* of the latest record that ran */
    double ran_at_ms;
};

/* state.c: the lock, calls, injected failures, misuse */
enum needs { NEEDS_NOTHING, NEEDS_INIT, NEEDS_CONTEXT };
extern pthread_mutex_t emulator_lock;
extern pthread_cond_t host_call_ended;
extern enum mode mode;
extern unsigned patience;
extern bool misuse_is_ignored[MISUSE_KINDS];

/* Every exported call stands between begin and end. `begin_call` takes the lock, or returns the code to fail with and
   does not. A call that releases does so even if it is to fail, as CUDA does: its code tells of earlier errors. */
CUresult begin_call(const char *function, enum needs needs);
CUresult begin_release(const char *function);
CUresult end_call(CUresult result);
#define RETURN_IF_REFUSED(begun) \
    do { \
        CUresult refused = (begun); \
        if (refused != CUDA_SUCCESS) return refused; \
    } while (0)
#define BEGIN_CALL(needs) RETURN_IF_REFUSED(begin_call(__func__, needs))
#define BEGIN_RELEASE() RETURN_IF_REFUSED(begin_release(__func__))

const char *current_call(void);     /* the public name of the call that this thread is in */
void set_in_host_call(bool inside); /* this thread */
void report(enum misuse_kind kind, const char *format, ...) __attribute__((format(printf, 2, 3)));
CUresult sticky_error(void);
void lose_device(CUresult code);
bool operation_fails(const char *call, CUresult *code);
uint64_t next_random(void);
double now_ms(void);

/* context.c */
struct context { long retained; unsigned flags; };
extern struct context contexts[MOST_DEVICES];   /* the primary ones, by device */
int device_count(void);
bool is_device(CUdevice device);
int current_device(void);           /* of this thread; -1: no context */
bool is_initialised(void);
int driver_version(void);
CUresult check_context(void);       /* of this thread */
long contexts_retained(void);

/* queue.c: what is enqueued, and when it runs */
extern struct stream legacy_streams[MOST_DEVICES];
bool is_legacy(const struct stream *stream);
extern struct stream *all_streams;
struct stream *add_stream(unsigned flags, int priority);
void forget_drained_stream(struct stream *stream);
struct stream *per_thread_stream(void);
CUresult find_stream(CUstream handle, struct stream **stream);
bool is_blocking(const struct stream *stream);
uint64_t enqueue(struct stream *stream, struct operation operation);
void run_until(struct stream *stream, uint64_t sequence);
void synchronize(struct stream *stream, uint64_t sequence);
bool is_synchronized(const struct stream *stream);
void run_all(void);
void run_some(void);
bool is_done(const struct stream *stream, uint64_t sequence);
uint64_t latest_sequence(void);
long operations_pending(void);

/* capture.c. Those that refuse return a code other than 0, and break the capture. */
CUresult refuse_in_capture(const char *call);               /* in this thread */
CUresult refuse_to_wait(const struct stream *stream);
CUresult refuse_legacy(int device);
CUresult refuse_captured(const struct event *event);
void capture_operation(struct stream *stream, const struct operation *operation);
void capture_record(struct event *event, struct stream *stream);
CUresult capture_wait(struct stream *stream, const struct event *event);

/* execute.c */
void execute(struct stream *stream, struct operation *operation);
uint64_t checksum(const void *bytes, size_t size);

/* order.c: who must come before whom */
void report_races(struct stream *stream, const struct operation *operation);
const struct operation *pending_use(struct range range, bool writes_only);
bool overlap(struct range a, struct range b);

/* allocations.c: what CUDA knows of memory */
extern size_t device_capacity;              /* of each device */
extern size_t device_used[MOST_DEVICES];
bool has_room(int device, size_t size);
extern bool pinning_waits;                  /* memory.c */
struct usage { long count; size_t bytes, peak_bytes; };
extern struct usage usage[MEMORY_KINDS];
struct allocation *find_allocation(uintptr_t address);
struct allocation *find_freed(uintptr_t address);
bool is_alive(struct range range, enum memory_kind kind);
CUresult allocate(enum memory_kind kind, size_t size, struct pool *pool, struct allocation **made);
struct allocation *add_allocation(enum memory_kind kind, void *start, size_t size, struct pool *pool);
void release(struct allocation *allocation);
void poison(struct range range, int byte);
void empty_quarantine(void);
void reset_peaks(void);

/* pools.c, streams.c, events.c */
int pool_device(const struct pool *pool);   /* -1: the host's */
long pools_live(void);
long streams_live(void);
long events_live(void);

/* kernels.c */
void execute_cast(struct cast cast, struct range from, struct range to);

/* copies.c: whether all of it is memory of the device's; reports it if not */
bool is_on_device(struct range range);

/* copies.c and fills.c: whole calls, without the lock */
enum sides { SIDES_ANY, SIDES_TO_DEVICE, SIDES_FROM_DEVICE, SIDES_ON_DEVICE };
CUresult copy_call(const char *function, enum sides sides, CUdeviceptr target, CUdeviceptr source, size_t size,
                   CUstream stream, bool waits);
CUresult fill_call(const char *function, CUdeviceptr target, uint32_t value, size_t value_size, size_t count,
                   CUstream stream);

/* per_thread.c, absent.c: NULL where there is none */
void *per_thread_variant(const char *name);
void *absent_function(const char *name);

#endif
