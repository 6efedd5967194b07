/* A stand-in for the CUDA driver, libcuda.so.1, so that what the library asks of the driver can be tested without a
 * device. Memory of its devices is memory of the host, streams do all at once, and a launch calls back to the test.
 * Every call that matters is noted: stand_in_log() gives the notes and forgets them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES 2
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, NOT_READY = 600 };
typedef void (*launch_callback)(const char *name, unsigned blocks, unsigned threads, void **parameters);

static char noted[1 << 20];
static size_t length;
static size_t memory_left = (size_t)1 << 40;
static int version = 13000, capability = 90, device_count = DEVICES, events_pending;
static launch_callback callback;
static uintptr_t stack[64] = {0};
static int depth;
static char names[1024][512];
static int known;

#define NOTE(...) \
    (length += (size_t)snprintf(noted + length, length < sizeof noted ? sizeof noted - length : 0, __VA_ARGS__))
#define NEEDS_CONTEXT \
    if (!stack[depth]) return INVALID_CONTEXT

const char *stand_in_log(void) {
    static char copy[sizeof noted];
    memcpy(copy, noted, sizeof noted);
    length = 0;
    noted[0] = 0;
    return copy;
}
void stand_in_set_memory(size_t nbytes) { memory_left = nbytes; }
void stand_in_set_version(int v) { version = v; }
void stand_in_set_devices(int n) { device_count = n; }
void stand_in_set_pending(int pending) { events_pending = pending; }
void stand_in_set_callback(launch_callback c) { callback = c; }

/* How cuda-bindings finds all other functions: by their names without the number of their version. */
int cuGetProcAddress_v2(const char *name, void **found, int wanted, uint64_t flags, int *status) {
    char newer[128];
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    (void)wanted, (void)flags;
    snprintf(newer, sizeof newer, "%s_v2", name);
    *found = dlsym(self, name);
    if (!*found) *found = dlsym(self, newer);
    if (status) *status = *found ? 0 : 1;
    return SUCCESS;
}

int cuInit(unsigned flags) { return (int)(flags * 0); }
int cuDriverGetVersion(int *v) { return *v = version, SUCCESS; }
int cuDeviceGetCount(int *n) { return *n = device_count, SUCCESS; }
int cuDeviceGet(int *device, int ordinal) {
    return *device = ordinal, ordinal < device_count ? SUCCESS : INVALID_VALUE;
}
int cuDeviceGetName(char *name, int n, int device) { return snprintf(name, (size_t)n, "stand-in %d", device), SUCCESS; }
int cuDeviceGetUuid(char *uuid, int device) { return memset(uuid, device, 16), SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 1024;
    return (int)(device * 0);
}
int cuDevicePrimaryCtxRetain(uintptr_t *context, int device) { return *context = 0x1000u + (unsigned)device, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) { return (int)(device * 0); }
int cuCtxGetCurrent(uintptr_t *context) { return *context = stack[depth], SUCCESS; }
int cuCtxSetCurrent(uintptr_t context) {
    if (depth == 0 && context) depth = 1;
    return stack[depth] = context, SUCCESS;
}
int cuCtxPushCurrent_v2(uintptr_t context) { return stack[++depth] = context, SUCCESS; }
int cuCtxPopCurrent_v2(uintptr_t *context) {
    if (depth == 0) return INVALID_CONTEXT;
    return *context = stack[depth--], SUCCESS;
}
int cuCtxGetDevice(int *device) {
    NEEDS_CONTEXT;
    return *device = (int)(stack[depth] - 0x1000u), SUCCESS;
}
int cuCtxSynchronize(void) { return NOTE("synchronize\n"), SUCCESS; }

int cuMemGetInfo_v2(size_t *available, size_t *total) { return *available = memory_left, *total = (size_t)1 << 40, SUCCESS; }
int cuMemAlloc_v2(uintptr_t *place, size_t nbytes) {
    NEEDS_CONTEXT;
    if (nbytes > memory_left) return OUT_OF_MEMORY;
    *place = (uintptr_t)aligned_alloc(256, (nbytes + 255) / 256 * 256);
    NOTE("alloc %zu on %d\n", nbytes, (int)(stack[depth] - 0x1000u));
    return SUCCESS;
}
int cuPointerGetAttribute(void *value, int attribute, uintptr_t place) {
    if (attribute == 2) *(unsigned *)value = place % 2 ? 1 : 2; /* odd addresses stand for memory of the host */
    if (attribute == 9) *(int *)value = 0;
    return SUCCESS;
}
int cuMemFree_v2(uintptr_t place) { return free((void *)place), SUCCESS; }
int cuMemHostAlloc(void **place, size_t nbytes, unsigned flags) {
    NEEDS_CONTEXT;
    return *place = malloc(nbytes + flags * 0), *place ? SUCCESS : OUT_OF_MEMORY;
}
int cuMemFreeHost(void *place) { return free(place), SUCCESS; }
int cuMemcpyAsync(uintptr_t to, uintptr_t from, size_t nbytes, uintptr_t stream) {
    NEEDS_CONTEXT;
    NOTE("copy %zu in %zu\n", nbytes, (size_t)stream);
    return memcpy((void *)to, (void *)from, nbytes), SUCCESS;
}
int cuMemcpyHtoD_v2(uintptr_t to, const void *from, size_t nbytes) { return memcpy((void *)to, from, nbytes), SUCCESS; }
int cuMemcpyDtoH_v2(void *to, uintptr_t from, size_t nbytes) { return memcpy(to, (void *)from, nbytes), SUCCESS; }
int cuMemcpyDtoD_v2(uintptr_t to, uintptr_t from, size_t n) { return memcpy((void *)to, (void *)from, n), SUCCESS; }
int cuMemsetD8_v2(uintptr_t place, unsigned char value, size_t n) { return memset((void *)place, value, n), SUCCESS; }
int cuMemsetD8Async(uintptr_t place, unsigned char value, size_t n, uintptr_t stream) {
    NEEDS_CONTEXT;
    return memset((void *)place, value, n), (int)(stream * 0);
}
int cuStreamSynchronize(uintptr_t stream) { return NOTE("finish %zu\n", (size_t)stream), SUCCESS; }

int cuEventCreate(uintptr_t *event, unsigned flags) {
    static uintptr_t next = 0x100;
    NEEDS_CONTEXT;
    return *event = next++, (int)(flags * 0);
}
int cuEventDestroy_v2(uintptr_t event) { return (int)(event * 0); }
int cuEventRecord(uintptr_t event, uintptr_t stream) {
    return NOTE("record %zx in %zu\n", (size_t)event, (size_t)stream), SUCCESS;
}
int cuEventQuery(uintptr_t event) { return events_pending ? NOT_READY : (int)(event * 0); }
int cuEventSynchronize(uintptr_t event) { return NOTE("wait %zx\n", (size_t)event), SUCCESS; }
int cuStreamWaitEvent(uintptr_t stream, uintptr_t event, unsigned flags) {
    return NOTE("stall %zu for %zx\n", (size_t)stream, (size_t)event), (int)(flags * 0);
}

int cuLibraryLoadData(uintptr_t *library, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f) {
    (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;
    return *library = (uintptr_t)code, SUCCESS;
}
int cuLibraryUnload(uintptr_t library) { return (int)(library * 0); }
int cuLibraryGetKernel(uintptr_t *kernel, uintptr_t library, const char *name) {
    (void)library;
    snprintf(names[known], sizeof names[0], "%s", name);
    return *kernel = (uintptr_t)names[known++], SUCCESS;
}
int cuKernelGetFunction(uintptr_t *function, uintptr_t kernel) {
    NEEDS_CONTEXT;
    return *function = kernel, SUCCESS;
}
int cuLaunchKernel(
    uintptr_t function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz, unsigned shared,
    uintptr_t stream, void **parameters, void **extra
) {
    NEEDS_CONTEXT;
    if (y != 1 || z != 1 || ty != 1 || tz != 1 || shared || extra) return INVALID_VALUE;
    NOTE("launch %u in %zu on %d\n", x, (size_t)stream, (int)(stack[depth] - 0x1000u));
    if (callback) callback((const char *)function, x, threads, parameters);
    return SUCCESS;
}
