/* A whole backend in plain C: two pretend devices whose memory the host must not touch. It shows how little a
   backend needs, and lets the tests drive the core through a second backend, a broken one and an outdated one.

   Work runs inside the call that enqueues it, so a stream is always idle. Device addresses are host addresses
   with their top bit changed: whoever dereferences one on the host faults at once.

   It records graphs by itself and is as strict about it as CUDA: while a stream records, it can be neither asked nor
   waited for, nor can an event that is part of the recording; it may wait for such events only; and streams that were
   drawn in by an event must be waited for by the first one before the end.

   set_option("fail", "copy") makes the next call of that verb fail as a kernel fault would, "fail"="lost" loses
   the device, "memory"="N" limits its memory. TOY_PLAIN leaves out what a backend may: graphs, times of events and ways
   between devices. Further TOY_* macros make the variants that must be refused. */
#define _POSIX_C_SOURCE 200809L

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unify/backend.h>

#ifndef TOY_NAME
#define TOY_NAME "toy"
#endif

#ifndef TOY_DLPACK
#define TOY_DLPACK 12 /* kDLExtDev */
#endif

enum { DEVICES = 2, ALIGNMENT = 256, DLPACK_TYPE = TOY_DLPACK };
#define MAYBE_UNUSED __attribute__((unused))
static const uint64_t TAG = UINT64_C(1) << 63;
static const uint64_t DEFAULT_MEMORY = UINT64_C(256) << 20;

struct unify_device_s {
  uint32_t index;
  atomic_uint_least64_t limit;
  atomic_uint_least64_t used;
  _Atomic(unify_device_state) state;
  char fail[32]; /* the verb that fails next */
};
struct unify_stream_s {
  unify_device device;
  unify_graph recording; /* of which it is a part, or null */
  unify_stream next;     /* in the same recording */
  int is_open;           /* drawn in, and did something since it was last waited for */
};
typedef struct {
  enum { FILL, COPY, ROWS } kind;
  unify_copy_args copy;
  unify_copy_rows_args rows;
  unify_fill_args fill;
} Node;
struct unify_graph_s {
  unify_stream first; /* null once recorded */
  int is_broken;
  size_t count;
  Node nodes[256];
};
struct unify_event_s {
  unify_device device;
  unify_graph recording; /* that its last record is part of, or null */
  unify_stream stream;   /* of that record */
  uint32_t flags;
  int recorded;
  int64_t nanoseconds;
};
typedef struct {
  uint64_t bytes;
  char padding[ALIGNMENT - sizeof(uint64_t)];
} Header;

static _Thread_local unify_error failure = {.struct_size = sizeof(unify_error)};
static struct unify_device_s devices[DEVICES];

static unify_status fail(unify_status status, const char* message) {
  failure.status = status;
  failure.native_code = status == UNIFY_OK ? 0 : 7000 + (int)status;
  failure.native_name = "TOY_ERROR";
  failure.message = message;
  failure.advice = "This is a toy: try again.";
  failure.operation = 0;
  return status;
}

static unify_status verb(unify_device device, const char* name) {
  unify_device_state state = atomic_load(&device->state);
  if (state == UNIFY_DEVICE_GONE) return fail(UNIFY_DEVICE_LOST, "the toy is lost");
  if (state == UNIFY_DEVICE_FAULTED) return fail(UNIFY_KERNEL_FAULT, "the toy failed earlier");
  if (strcmp(device->fail, name) == 0) {
    device->fail[0] = 0;
    atomic_store(&device->state, UNIFY_DEVICE_FAULTED);
    return fail(UNIFY_KERNEL_FAULT, "the toy was told to fail");
  }
  return UNIFY_OK;
}

static unify_status device_count(uint32_t* out_count) {
  *out_count = DEVICES;
  return UNIFY_OK;
}

static unify_status device_open(const unify_device_open_args* args, unify_device* out_device) {
  if (args->index >= DEVICES) return fail(UNIFY_NOT_FOUND, "the toy has two devices, 0 and 1");
  if (args->options && *args->options) return fail(UNIFY_INVALID_ARGUMENT, "the toy knows no options");
  unify_device device = &devices[args->index];
  device->index = args->index;
  atomic_store(&device->limit, DEFAULT_MEMORY);
  *out_device = device;
  return UNIFY_OK;
}

static void device_close(unify_device device) { (void)device; }

/* What the caller has no room for, since it is older, is left out. */
static unify_status device_info(unify_device device, unify_device_info* out_info) {
  unify_device_info info = {.struct_size = out_info->struct_size, .extension = out_info->extension};
  snprintf(info.name, sizeof(info.name), "Toy %u (simulated)", device->index);
  snprintf(info.target, sizeof(info.target), "toy:1");
  snprintf(info.driver_version, sizeof(info.driver_version), "1.0");
  info.flags = UNIFY_DEVICE_SIMULATED;
  info.dlpack_type = DLPACK_TYPE;
  info.dlpack_id = (int32_t)device->index;
  info.memory_bytes = DEFAULT_MEMORY;
  info.cores = info.warp_size = info.max_threads = 1;
  info.max_grid[0] = info.max_grid[1] = info.max_grid[2] = 65535;
  info.alignment = ALIGNMENT;
  /* An older core's struct is shorter, a newer one's longer: what both know. */
  memcpy(out_info, &info, info.struct_size < sizeof(info) ? info.struct_size : sizeof(info));
  return UNIFY_OK;
}

static unify_status device_synchronize(unify_device device) { return verb(device, "synchronize"); }

static unify_status device_status(unify_device device, unify_device_state* out_state) {
  *out_state = atomic_load(&device->state);
  return UNIFY_OK;
}

static unify_status device_reset(unify_device device) {
  atomic_store(&device->state, UNIFY_DEVICE_HEALTHY);
  atomic_store(&device->used, 0);
  device->fail[0] = 0;
  return UNIFY_OK;
}

static unify_status device_set_option(unify_device device, const char* key, const char* value) {
  if (strcmp(key, "memory") == 0) {
    atomic_store(&device->limit, strtoull(value, NULL, 10));
  } else if (strcmp(key, "fail") == 0 && strcmp(value, "lost") == 0) {
    atomic_store(&device->state, UNIFY_DEVICE_GONE);
  } else if (strcmp(key, "fail") == 0) {
    snprintf(device->fail, sizeof(device->fail), "%s", value);
  } else {
    return fail(UNIFY_INVALID_ARGUMENT, "unknown option; the toy knows: memory, fail");
  }
  return UNIFY_OK;
}

static unify_status memory_allocate(unify_device device, const unify_allocate_args* args, unify_address* out_address) {
  unify_status status = verb(device, "allocate");
  if (status) return status;
  if (args->kind != UNIFY_MEMORY_DEVICE) return fail(UNIFY_UNSUPPORTED, "the toy has device memory only");
  if (atomic_load(&device->used) + args->bytes > atomic_load(&device->limit)) {
    return fail(UNIFY_OUT_OF_MEMORY, "the toy's memory is full");
  }
  size_t bytes = (args->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  Header* header = aligned_alloc(ALIGNMENT, sizeof(Header) + bytes);
  if (!header) return fail(UNIFY_OUT_OF_MEMORY, "the host's memory is full");
  header->bytes = args->bytes;
  atomic_fetch_add(&device->used, args->bytes);
  *out_address = (uint64_t)(uintptr_t)(header + 1) ^ TAG;
  return UNIFY_OK;
}

static unify_status memory_free(unify_device device, unify_memory_kind kind, unify_address address) {
  (void)kind;
  Header* header = (Header*)(uintptr_t)(address ^ TAG) - 1;
  atomic_fetch_sub(&device->used, header->bytes);
  free(header);
  return UNIFY_OK;
}

static unify_status memory_info(unify_device device, uint64_t* out_free_bytes, uint64_t* out_total_bytes) {
  *out_total_bytes = atomic_load(&device->limit);
  *out_free_bytes = *out_total_bytes - atomic_load(&device->used);
  return UNIFY_OK;
}

static void* place(unify_device device, unify_address address) {
  return (void*)(uintptr_t)(device ? address ^ TAG : address);
}

static unify_status begin(unify_stream stream, const char* name) {
  stream->is_open = stream->recording && stream != stream->recording->first;
  return verb(stream->device, name);
}

static unify_status wait_or_ask(unify_stream stream, const char* name) {
  if (!stream->recording) return begin(stream, name);
  stream->recording->is_broken = 1;
  return fail(UNIFY_INVALID_ARGUMENT, "the stream records a graph");
}

static unify_status record(unify_graph graph, Node node) {
  if (graph->count == sizeof(graph->nodes) / sizeof(graph->nodes[0])) graph->is_broken = 1;
  if (!graph->is_broken) graph->nodes[graph->count++] = node;
  return UNIFY_OK;
}

static void run(unify_device device, const Node* node) {
  const unify_copy_args* copy = &node->copy;
  const unify_fill_args* fill = &node->fill;
  const unify_copy_rows_args* rows = &node->rows;
  if (node->kind == COPY) {
    memcpy(place(copy->dst_device, copy->dst), place(copy->src_device, copy->src), copy->bytes);
  } else if (node->kind == ROWS) {
    for (size_t i = 0; i < rows->rows; ++i) {
      memcpy(place(rows->dst_device, rows->dst + i * rows->dst_pitch),
             place(rows->src_device, rows->src + i * rows->src_pitch), rows->bytes);
    }
  } else {
    memset(place(device, fill->dst), (int)(fill->value & 255u), fill->count);
  }
}

static unify_status run_or_record(unify_stream stream, const Node* node) {
  if (stream->recording) return record(stream->recording, *node);
  run(stream->device, node);
  return UNIFY_OK;
}

MAYBE_UNUSED static unify_status copy(unify_stream stream, const unify_copy_args* args) {
  unify_status status = begin(stream, "copy");
  if (status) {
    failure.operation = args->operation;
    return status;
  }
  const Node node = {.kind = COPY, .copy = *args};
  return run_or_record(stream, &node);
}

MAYBE_UNUSED static unify_status copy_rows(unify_stream stream, const unify_copy_rows_args* args) {
  unify_status status = begin(stream, "copy");
  if (status) {
    failure.operation = args->operation;
    return status;
  }
  const Node node = {.kind = ROWS, .rows = *args};
  return run_or_record(stream, &node);
}

static unify_status fill(unify_stream stream, const unify_fill_args* args) {
  unify_status status = begin(stream, "fill");
  if (status) {
    failure.operation = args->operation;
    return status;
  }
  if (args->value_bytes != 1) return fail(UNIFY_UNSUPPORTED, "the toy fills bytes only");
  const Node node = {.kind = FILL, .fill = *args};
  return run_or_record(stream, &node);
}

static unify_status stream_create(unify_device device, unify_stream_args* args, unify_stream* out_stream) {
  unify_status status = verb(device, "stream");
  if (status) return status;
  if (args->native) return fail(UNIFY_UNSUPPORTED, "the toy has no streams of others");
  if (args->priority != 0) return fail(UNIFY_INVALID_ARGUMENT, "the toy has no priorities; use 0");
  *out_stream = calloc(1, sizeof(**out_stream));
  if (!*out_stream) return fail(UNIFY_OUT_OF_MEMORY, "the host's memory is full");
  (*out_stream)->device = device;
  return UNIFY_OK;
}

static unify_status stream_destroy(unify_stream stream) {
  free(stream);
  return UNIFY_OK;
}

static unify_status stream_synchronize(unify_stream stream) { return wait_or_ask(stream, "synchronize"); }
static unify_status stream_query(unify_stream stream) { return wait_or_ask(stream, "query"); }

static unify_status stream_wait_event(unify_stream stream, unify_event event) {
  unify_graph graph = event->recording;
  if (graph && graph->first && !stream->recording) { /* drawn in */
    stream->recording = graph;
    stream->next = graph->first->next;
    graph->first->next = stream;
  }
  if (graph != stream->recording) {
    if (stream->recording) stream->recording->is_broken = 1;
    return fail(UNIFY_INVALID_ARGUMENT, "a wait between a recording and what is not part of it");
  }
  if (graph) event->stream->is_open = 0;
  return begin(stream, "wait"); /* outside of a recording, what it marks has run already */
}

MAYBE_UNUSED static unify_status capture_begin(unify_stream stream) {
  if (stream->recording) return fail(UNIFY_INVALID_ARGUMENT, "the stream records already");
  stream->recording = calloc(1, sizeof(*stream->recording));
  if (!stream->recording) return fail(UNIFY_OUT_OF_MEMORY, "the host's memory is full");
  stream->recording->first = stream;
  stream->next = NULL;
  return UNIFY_OK;
}

MAYBE_UNUSED static unify_status capture_end(unify_stream stream, unify_graph* out_graph) {
  unify_graph graph = stream->recording;
  *out_graph = NULL;
  if (!graph || graph->first != stream) return fail(UNIFY_INVALID_ARGUMENT, "no recording began on the stream");
  for (unify_stream part = stream; part; part = part->next) {
    if (part->is_open) graph->is_broken = 1;
    part->recording = NULL;
    part->is_open = 0;
  }
  graph->first = NULL;
  if (graph->is_broken) {
    free(graph);
    return fail(UNIFY_INVALID_ARGUMENT, "the recording is broken, or a stream was drawn in and not waited for");
  }
  *out_graph = graph;
  return UNIFY_OK;
}

/* Graphs of as many operations differ in parameters only, to the toy. */
MAYBE_UNUSED static unify_status capture_update(unify_stream stream, unify_graph graph, unify_graph* out_graph) {
  unify_status status = capture_end(stream, out_graph);
  if (status || (*out_graph)->count != graph->count) return status;
  memcpy(graph->nodes, (*out_graph)->nodes, sizeof graph->nodes);
  free(*out_graph);
  *out_graph = NULL;
  return UNIFY_OK;
}

MAYBE_UNUSED static unify_status graph_launch(unify_graph graph, unify_stream stream) {
  unify_status status = begin(stream, "graph");
  for (size_t i = 0; !status && i < graph->count; ++i) run(stream->device, &graph->nodes[i]);
  return status;
}

MAYBE_UNUSED static unify_status graph_destroy(unify_graph graph) {
  free(graph);
  return UNIFY_OK;
}

static unify_status event_create(unify_device device, const unify_event_args* args, unify_event* out_event) {
  if (args->flags & UNIFY_EVENT_IPC) return fail(UNIFY_UNSUPPORTED, "the toy does not share events");
#ifdef TOY_PLAIN
  if (args->flags & UNIFY_EVENT_TIMING) return fail(UNIFY_UNSUPPORTED, "the plain toy's events tell no times");
#endif
  *out_event = calloc(1, sizeof(**out_event));
  if (!*out_event) return fail(UNIFY_OUT_OF_MEMORY, "the host's memory is full");
  (*out_event)->device = device;
  (*out_event)->flags = args->flags;
  return UNIFY_OK;
}

static unify_status event_destroy(unify_event event) {
  free(event);
  return UNIFY_OK;
}

static unify_status event_record(unify_event event, unify_stream stream) {
  if (event->device != stream->device) return fail(UNIFY_INVALID_ARGUMENT, "the event is another toy's");
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  event->nanoseconds = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
  event->recorded = 1;
  event->recording = stream->recording;
  event->stream = stream;
  return stream->recording ? UNIFY_OK : begin(stream, "record");
}

static unify_status event_synchronize(unify_event event) {
  if (event->recording) return fail(UNIFY_INVALID_ARGUMENT, "the event is part of a graph");
  return verb(event->device, "event");
}
static unify_status event_query(unify_event event) { return event_synchronize(event); }

MAYBE_UNUSED static unify_status event_elapsed(unify_event start, unify_event stop, int64_t* out_nanoseconds) {
  if (!(start->flags & stop->flags & UNIFY_EVENT_TIMING)) return fail(UNIFY_INVALID_ARGUMENT, "made without timing");
  if (!start->recorded || !stop->recorded) return fail(UNIFY_INVALID_ARGUMENT, "never recorded");
  *out_nanoseconds = stop->nanoseconds - start->nanoseconds;
  return UNIFY_OK;
}

static unify_status module_load(unify_device device, const unify_module_args* args, unify_module* out_module) {
  (void)device, (void)args;
  *out_module = NULL;
  return fail(UNIFY_UNSUPPORTED, "the toy runs no kernels");
}

static unify_status module_unload(unify_module module) {
  (void)module;
  return UNIFY_OK;
}

static unify_status function_get(unify_module module, unify_function_args* args, unify_function* out_function) {
  (void)module, (void)args;
  *out_function = NULL;
  return fail(UNIFY_NOT_FOUND, "the toy has no functions");
}

static unify_status launch(unify_stream stream, unify_function function, const unify_launch_args* args) {
  (void)stream, (void)function, (void)args;
  return fail(UNIFY_UNSUPPORTED, "the toy runs no kernels");
}

MAYBE_UNUSED static unify_status peer_access(unify_device device, unify_device peer, uint32_t enable,
                                             uint32_t* out_can) {
  (void)device, (void)peer, (void)enable;
  *out_can = 1;
  return UNIFY_OK;
}

static void last_error(unify_error* out_error) {
  size_t size = out_error->struct_size < sizeof(failure) ? out_error->struct_size : sizeof(failure);
  memcpy((char*)out_error + sizeof(size_t), (char*)&failure + sizeof(size_t), size - sizeof(size_t));
}

/* A newer host appends functions: an old core must not mind. */
typedef struct {
  unify_backend table;
  unify_status (*from_the_future)(unify_device device);
} NewerBackend;

static const NewerBackend backend = {
    .table =
        {
#ifdef TOY_TRUNCATED
            .struct_size = offsetof(unify_backend, copy),
#elif defined(TOY_NEWER_MINOR)
            .struct_size = sizeof(NewerBackend),
#else
            .struct_size = sizeof(unify_backend),
#endif
#ifdef TOY_OTHER_MAJOR
            .abi_major = UNIFY_ABI_MAJOR + 1,
#else
            .abi_major = UNIFY_ABI_MAJOR,
#endif
#ifdef TOY_NEWER_MINOR
            .abi_minor = UNIFY_ABI_MINOR + 1,
#else
            .abi_minor = UNIFY_ABI_MINOR,
#endif
            .name = TOY_NAME,
            .version = "toy 1.0",
            .device_count = device_count,
            .device_open = device_open,
            .device_close = device_close,
            .device_info = device_info,
            .device_synchronize = device_synchronize,
            .device_status = device_status,
            .device_reset = device_reset,
            .device_set_option = device_set_option,
            .memory_allocate = memory_allocate,
            .memory_free = memory_free,
            .memory_info = memory_info,
#ifndef TOY_WITHOUT_COPY
            .copy = copy,
#endif
            .fill = fill,
            .stream_create = stream_create,
            .stream_destroy = stream_destroy,
            .stream_synchronize = stream_synchronize,
            .stream_query = stream_query,
            .stream_wait_event = stream_wait_event,
            .event_create = event_create,
            .event_destroy = event_destroy,
            .event_record = event_record,
            .event_synchronize = event_synchronize,
            .event_query = event_query,
#ifndef TOY_PLAIN
            .event_elapsed = event_elapsed,
#endif
            .module_load = module_load,
            .module_unload = module_unload,
            .function_get = function_get,
            .launch = launch,
#ifndef TOY_PLAIN
            .capture_begin = capture_begin,
            .capture_end = capture_end,
            .graph_launch = graph_launch,
            .graph_destroy = graph_destroy,
            .peer_access = peer_access,
#endif
            .last_error = last_error,
#ifndef TOY_PLAIN
            .copy_rows = copy_rows,
            .capture_update = capture_update,
#endif
        },
};

#ifdef TOY_WITHOUT_SYMBOL
const void* toy_keep_the_compiler_quiet(void) { return &backend; }
#else
const unify_backend* unify_backend_get(unify_backend_get_args* args) {
#ifdef TOY_ABSENT
  args->why = "no toy is plugged in";
  (void)backend;
  return NULL;
#else
  (void)args;
  return &backend.table;
#endif
}
#endif
