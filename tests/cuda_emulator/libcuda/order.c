/* Which pending operations come before a new one, and which of the others it races with.

   The order that CUDA guarantees is that of queue.c: streams, waits, the legacy default stream. What has run is past,
   for in lazy mode it ran because somebody waited for it. So only pending operations need a look, when an operation is
   enqueued: two that use the same bytes, one of them writing, must be in order. This finds a race whatever the host
   happens to wait for afterwards, and whether or not the bytes come out right. */
#include "emulator.h"

bool overlap(struct range a, struct range b) {
    return a.size && b.size && a.start < b.start + b.size && b.start < a.start + a.size;
}

static bool conflict(const struct operation *a, const struct operation *b) {
    return overlap(a->writes, b->writes) || overlap(a->writes, b->reads) || overlap(a->reads, b->writes);
}

static void add_predecessors(struct stream *stream, const struct operation *operation);

/* All of `stream` up to `sequence` comes before the new operation, and so does all that came before that. */
static void add_stream_until(struct stream *stream, uint64_t sequence) {
    uint64_t known = stream->ordered_before;
    if (known >= sequence) return;
    stream->ordered_before = sequence;
    for (const struct operation *operation = stream->first; operation; operation = operation->next)
        if (operation->sequence > known && operation->sequence <= sequence) add_predecessors(stream, operation);
}

static void add_predecessors(struct stream *stream, const struct operation *operation) {
    uint64_t before = operation->sequence - 1;
    if (operation->kind == OPERATION_WAIT) add_stream_until(operation->awaited, operation->awaited_sequence);
    if (is_blocking(stream)) add_stream_until(&legacy_streams[stream->device], before);
    if (is_legacy(stream))
        for (struct stream *other = all_streams; other; other = other->next)
            if (is_blocking(other) && other->device == stream->device) add_stream_until(other, before);
}

void report_races(struct stream *stream, const struct operation *operation) {
    if (operation->reads.size == 0 && operation->writes.size == 0) return;
    for (struct stream *other = all_streams; other; other = other->next) other->ordered_before = 0;
    add_stream_until(stream, operation->sequence - 1);
    add_predecessors(stream, operation);
    for (struct stream *other = all_streams; other; other = other->next)
        for (const struct operation *pending = other->first; pending; pending = pending->next)
            if (pending->sequence > other->ordered_before && conflict(pending, operation)) {
                report(MISUSE_RACE, "%s (operation %lu, stream %lu) and %s (operation %lu, stream %lu) use the same "
                       "bytes, and nothing puts them in order", pending->call, (unsigned long)pending->sequence,
                       (unsigned long)other->id, operation->call, (unsigned long)operation->sequence,
                       (unsigned long)stream->id);
                return;
            }
}

const struct operation *pending_use(struct range range, bool writes_only) {
    for (struct stream *stream = all_streams; stream; stream = stream->next)
        for (const struct operation *pending = stream->first; pending; pending = pending->next)
            if (overlap(pending->writes, range) || (!writes_only && overlap(pending->reads, range))) return pending;
    return NULL;
}
