/* A libcurl whose store answers at once, to find what a range of an object costs our own code.
 *
 * It has the functions that io/http/curl/ declares, and takes the place of libcurl.so.4 by LD_LIBRARY_PATH. A range
 * within the first bytes of the object comes from the file NULLSTORE_HEAD; of any other no byte is written, and the body's
 * stream only moves on. NULLSTORE_SIZE is the object's size. For figures only: the bytes are garbage.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { WRITEDATA = 10001, RANGE = 10007, HEADERDATA = 10029, ACTIVESOCKET = 0x500000 + 44 };

struct list { char *text; struct list *next; };
struct handle { FILE *body, *head; char range[64]; int used; };
struct version { int age; const char *version; unsigned number; const char *host; int features; const char *tls; };

static char *first;
static long first_size;
static long long size;
static int kept = -1; /* A socket, as that of each connection. */

int curl_global_init(long flags) {
    (void)flags;
    const char *path = getenv("NULLSTORE_HEAD"), *bytes = getenv("NULLSTORE_SIZE");
    FILE *file = path ? fopen(path, "rb") : NULL;
    if (!file || !bytes) return 2;
    size = atoll(bytes);
    kept = socket(AF_UNIX, SOCK_STREAM, 0);
    fseek(file, 0, SEEK_END);
    first_size = ftell(file);
    rewind(file);
    first = malloc(first_size);
    size_t got = first ? fread(first, 1, first_size, file) : 0;
    fclose(file);
    return got == (size_t)first_size ? 0 : 2;
}

const struct version *curl_version_info(int age) {
    (void)age;
    static const struct version about = {0, "null", 0, "null", 1 << 2, "null/0"};
    return &about;
}

struct handle *curl_easy_init(void) { return calloc(1, sizeof(struct handle)); }
void curl_easy_cleanup(struct handle *handle) { free(handle); }
const char *curl_easy_strerror(int code) { return code ? "failed" : "no error"; }

void *curl_share_init(void) { return &size; }
int curl_share_setopt(void *share, int option, void *value) { return (void)share, (void)option, (void)value, 0; }
int curl_share_cleanup(void *share) { return (void)share, 0; }

int curl_easy_setopt(struct handle *handle, int option, void *value) {
    if (option == WRITEDATA) handle->body = value;
    if (option == HEADERDATA) handle->head = value;
    if (option == RANGE) snprintf(handle->range, sizeof handle->range, "%s", (char *)value);
    return 0;
}

int curl_easy_getinfo(struct handle *handle, int what, void *value) {
    if (what == ACTIVESOCKET && handle->used) return *(int *)value = kept, 0;
    return 48; /* Nothing is known. */
}

struct list *curl_slist_append(struct list *list, const char *text) {
    struct list *made = malloc(sizeof *made), *last = list;
    *made = (struct list){strdup(text), NULL};
    if (!list) return made;
    while (last->next) last = last->next;
    last->next = made;
    return list;
}

void curl_slist_free_all(struct list *list) {
    while (list) {
        struct list *next = list->next;
        free(list->text);
        free(list);
        list = next;
    }
}

int curl_easy_perform(struct handle *handle) {
    long long start = -1, last = -1;
    handle->used = 1;
    if (sscanf(handle->range, "%lld-%lld", &start, &last) != 2) return 1;
    if (last >= size) last = size - 1;
    fprintf(handle->head,
            "HTTP/1.1 206 Partial Content\r\nDate: Tue, 01 Dec 2026 00:00:00 GMT\r\nETag: \"0123456789abcdef0123456789abcdef\"\r\n"
            "Last-Modified: Tue, 01 Dec 2026 00:00:00 GMT\r\nAccept-Ranges: bytes\r\nx-amz-request-id: 0123456789ABCDEF\r\n"
            "x-amz-id-2: 0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz=\r\nServer: AmazonS3\r\n"
            "x-amz-server-side-encryption: AES256\r\nContent-Type: binary/octet-stream\r\n"
            "Content-Range: bytes %lld-%lld/%lld\r\nContent-Length: %lld\r\n\r\n",
            start, last, size, last - start + 1);
    if (last < first_size) return fwrite(first + start, 1, last - start + 1, handle->body) == (size_t)(last - start + 1) ? 0 : 23;
    return fseek(handle->body, last - start + 1, SEEK_SET) ? 23 : 0;
}
