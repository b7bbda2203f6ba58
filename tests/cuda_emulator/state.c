/* The lock, the log of calls, injected failures, misuse reports: what every call passes through. */
#define _GNU_SOURCE
#include "emulator.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control.h"

enum { LONGEST_NAME = 64, LONGEST_REPORT = 400, MOST_FAILURES = 64, MOST_NAMES = 256 };

struct failure {
    char call[LONGEST_NAME];
    long nth;                   /* counts down to the call that fails; 0: every one */
    CUresult code;
    bool when_run;              /* the operation fails as it runs, not the call */
    bool used;
};

struct misuse {
    enum misuse_kind kind;
    const char *text;
};

static const char *const MISUSE_NAMES[MISUSE_KINDS] = {
    "race", "source-changed", "host-access", "freed-in-use", "use-after-free", "unmapped", "out-of-bounds",
    "invalid-free", "stale-handle", "call-in-callback",
};

pthread_mutex_t emulator_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t host_call_ended = PTHREAD_COND_INITIALIZER;
enum mode mode = MODE_LAZY;
unsigned patience = 3;
bool misuse_is_ignored[MISUSE_KINDS];

static uint64_t random_state = 1;
static CUresult lost;           /* the sticky error: every later call returns it */
static struct failure failures[MOST_FAILURES];
static int failure_count;
static struct misuse *misuses;
static long misuse_count, misuse_room;
static const char *names[MOST_NAMES];   /* one text for each name, for good: the log and operations point to it */
static const char **calls;
static long call_count, call_room;

static __thread const char *call_name = "(no call)";
static __thread CUresult verdict;       /* of a releasing call: returned once its work is done */
static __thread bool in_host_call;

static void *grow(void *array, long count, long *room, size_t size) {
    if (count < *room) return array;
    *room = *room ? *room * 2 : 64;
    array = realloc(array, (size_t)*room * size);
    if (!array) abort();
    return array;
}

/* cuMemAlloc_v2 is cuMemAlloc to everyone but the linker. */
static const char *public_name(const char *function) {
    size_t length = strcspn(function, "_");
    for (int i = 0; i < MOST_NAMES; i++) {
        if (!names[i]) names[i] = strndup(function, length);
        if (!names[i]) abort();
        if (strncmp(names[i], function, length) == 0 && names[i][length] == '\0') return names[i];
    }
    abort();
}

static bool is_sticky(CUresult code) {
    return code == CUDA_ERROR_DEVICE_UNAVAILABLE || code == CUDA_ERROR_ECC_UNCORRECTABLE ||
           code == CUDA_ERROR_ILLEGAL_ADDRESS || code == CUDA_ERROR_LAUNCH_TIMEOUT || code == CUDA_ERROR_ASSERT ||
           (code >= CUDA_ERROR_HARDWARE_STACK_ERROR && code <= CUDA_ERROR_LAUNCH_FAILED);
}

static CUresult planned_failure(const char *call, bool when_run) {
    CUresult code = CUDA_SUCCESS;
    for (int i = 0; i < failure_count; i++) {
        struct failure *failure = &failures[i];
        bool meant = strcmp(failure->call, "*") == 0 || strcmp(failure->call, call) == 0;
        if (failure->used || failure->when_run != when_run || !meant) continue;
        if (failure->nth > 0) {
            if (--failure->nth > 0) continue;
            failure->used = true;
        }
        if (code == CUDA_SUCCESS) code = failure->code;
    }
    return code;
}

static CUresult refusal(enum needs needs) {
    if (in_host_call) {
        report(MISUSE_CALL_IN_CALLBACK, "%s was called from a host function", call_name);
        return CUDA_ERROR_NOT_PERMITTED;
    }
    if (needs != NEEDS_NOTHING && !is_initialised()) return CUDA_ERROR_NOT_INITIALIZED;
    CUresult code = planned_failure(call_name, false);
    if (is_sticky(code)) lost = code;
    if (code == CUDA_SUCCESS && needs == NEEDS_CONTEXT) code = check_context();
    if (code == CUDA_SUCCESS && needs != NEEDS_NOTHING) code = lost;
    return code;
}

static void log_call(const char *function) {
    call_name = public_name(function);
    calls = grow(calls, call_count, &call_room, sizeof *calls);
    calls[call_count++] = call_name;
}

CUresult begin_call(const char *function, enum needs needs) {
    pthread_mutex_lock(&emulator_lock);
    log_call(function);
    verdict = CUDA_SUCCESS;
    CUresult code = refusal(needs);
    if (code != CUDA_SUCCESS) pthread_mutex_unlock(&emulator_lock);
    return code;
}

void begin_release(const char *function) {
    pthread_mutex_lock(&emulator_lock);
    log_call(function);
    verdict = refusal(NEEDS_INIT);
}

CUresult end_call(CUresult result) {
    if (mode == MODE_RANDOM) run_some();
    if (result == CUDA_SUCCESS) result = verdict;
    pthread_mutex_unlock(&emulator_lock);
    return result;
}

const char *current_call(void) { return call_name; }

void set_in_host_call(bool inside) { in_host_call = inside; }

void report(enum misuse_kind kind, const char *format, ...) {
    if (misuse_is_ignored[kind]) return;
    char text[LONGEST_REPORT];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    misuses = grow(misuses, misuse_count, &misuse_room, sizeof *misuses);
    misuses[misuse_count++] = (struct misuse){kind, strdup(text)};
}

CUresult sticky_error(void) { return lost; }

void lose_device(CUresult code) { lost = code; }

bool operation_fails(const char *call, CUresult *code) {
    *code = planned_failure(call, true);
    return *code != CUDA_SUCCESS;
}

/* xorshift64: the same plan of a seeded run on every machine. */
uint64_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

double now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

/* The part of the control API that reads and writes what stands above. */

int emulator_set_mode(const char *name, uint64_t seed) {
    static const char *const NAMES[] = {"lazy", "eager", "random"};
    int found = -1;
    for (int i = 0; i < 3; i++)
        if (strcmp(name, NAMES[i]) == 0) found = i;
    if (found < 0) return -1;
    pthread_mutex_lock(&emulator_lock);
    mode = (enum mode)found;
    random_state = seed * 2654435761u + 1;
    if (mode == MODE_EAGER) run_all();
    pthread_mutex_unlock(&emulator_lock);
    return 0;
}

int emulator_fail(const char *call, long nth, CUresult code, int when_run) {
    pthread_mutex_lock(&emulator_lock);
    bool room = failure_count < MOST_FAILURES && nth >= 0 && strlen(call) < LONGEST_NAME;
    if (room) {
        struct failure *failure = &failures[failure_count++];
        *failure = (struct failure){.nth = nth, .code = code, .when_run = when_run != 0};
        snprintf(failure->call, sizeof failure->call, "%s", call);
    }
    pthread_mutex_unlock(&emulator_lock);
    return room ? 0 : -1;
}

static long read_count(const long *count) {
    pthread_mutex_lock(&emulator_lock);
    long value = *count;
    pthread_mutex_unlock(&emulator_lock);
    return value;
}

long emulator_misuse_count(void) { return read_count(&misuse_count); }

long emulator_call_count(void) { return read_count(&call_count); }

/* The texts stay where they are, whatever is reported or reset meanwhile. */
static struct misuse misuse_at(long index) {
    pthread_mutex_lock(&emulator_lock);
    struct misuse misuse = {MISUSE_KINDS, NULL};
    if (index >= 0 && index < misuse_count) misuse = misuses[index];
    pthread_mutex_unlock(&emulator_lock);
    return misuse;
}

const char *emulator_misuse_kind(long index) {
    struct misuse misuse = misuse_at(index);
    return misuse.text ? MISUSE_NAMES[misuse.kind] : NULL;
}

const char *emulator_misuse_text(long index) { return misuse_at(index).text; }

const char *emulator_call_name(long index) {
    pthread_mutex_lock(&emulator_lock);
    const char *name = index >= 0 && index < call_count ? calls[index] : NULL;
    pthread_mutex_unlock(&emulator_lock);
    return name;
}

int emulator_ignore(const char *kind, int ignored) {
    for (int i = 0; i < MISUSE_KINDS; i++)
        if (strcmp(kind, MISUSE_NAMES[i]) == 0) {
            pthread_mutex_lock(&emulator_lock);
            misuse_is_ignored[i] = ignored != 0;
            pthread_mutex_unlock(&emulator_lock);
            return 0;
        }
    return -1;
}

void emulator_reset(void) {
    pthread_mutex_lock(&emulator_lock);
    lost = CUDA_SUCCESS;
    failure_count = 0;
    misuse_count = 0;
    call_count = 0;
    memset(misuse_is_ignored, 0, sizeof misuse_is_ignored);
    empty_quarantine();
    reset_peaks();
    pthread_mutex_unlock(&emulator_lock);
}
