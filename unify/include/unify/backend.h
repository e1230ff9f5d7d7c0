/* The C ABI between unify's core and a backend: the verbs of one kind of device, on raw handles.

   A backend is a shared library that implements this header and exports one symbol, unify_backend_get. It
   keeps no pools, caches nothing, counts no references and composes no error texts: the core does, once, for
   all. The CPU backend that ships with unify uses this header and nothing else.

   Every function has four labels.
     Order    where the work stands among other work, and whether the call returns before it is done
     Memory   what must stay alive, who owns what, and for how long
     Threads  which calls may be made at the same time
     Errors   which statuses it returns, and when a failure surfaces
   A function marked `optional` may be null; the core then emulates it or says so in device.capabilities. All
   others are required.

   Versions. UNIFY_ABI_MAJOR is raised when something is removed, retyped, moved or given another meaning: a
   backend of another major is refused. UNIFY_ABI_MINOR is raised when a function is appended to unify_backend
   or a field to a struct: both older and newer backends load. Each struct starts with its size as its writer
   knew it; a reader treats what lies beyond as absent (zero). `extension` chains structs that only some
   backends know, in the manner of PJRT and Vulkan; unknown ones are ignored. Strings are UTF-8.

   Lifetimes. A handle is valid from the call that returned it to the call that destroys it. The core destroys
   streams, events, modules and graphs before it closes their device, and never destroys one while a call on
   it runs. Handles know their device: a backend that needs a current device or context (CUDA, ACL) enters it
   by itself, from whichever thread it is called. */
#ifndef UNIFY_BACKEND_H
#define UNIFY_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UNIFY_ABI_MAJOR 1
#define UNIFY_ABI_MINOR 2

/* [types.begin] */
typedef struct unify_device_s* unify_device;
typedef struct unify_stream_s* unify_stream;
typedef struct unify_event_s* unify_event;
typedef struct unify_module_s* unify_module;
typedef struct unify_function_s* unify_function;
typedef struct unify_graph_s* unify_graph;

/* An address in a device's memory. The host must not read it unless unify_device_info.host_visible says so. */
typedef uint64_t unify_address;

/* What every call answers. Ten are enough: whatever a vendor has beyond them stands in unify_error. */
typedef enum unify_status {
  UNIFY_OK = 0,
  UNIFY_INVALID_ARGUMENT = 1, /* the caller's mistake: nothing was done */
  UNIFY_OUT_OF_MEMORY = 2,    /* the device or the host has no more; freeing helps */
  UNIFY_NOT_READY = 3,        /* only from *_query: work is still under way */
  UNIFY_UNSUPPORTED = 4,      /* this device or driver cannot: nothing was done */
  UNIFY_NOT_FOUND = 5,        /* no such device, or no such function in a module */
  UNIFY_KERNEL_FAULT = 6,     /* a kernel failed; whether the device can still be used says device_status */
  UNIFY_DEVICE_LOST = 7,      /* the device does not answer: close it, or reset it */
  UNIFY_TIMEOUT = 8,          /* the vendor's own limit expired */
  UNIFY_INTERNAL = 9          /* anything else: see unify_error */
} unify_status;

typedef struct unify_extension {
  size_t struct_size;
  uint32_t type; /* unique number of the extension, given out in docs/abi-changelog.md */
  const struct unify_extension* next;
} unify_extension;

/* The last failure of the calling thread. Strings stay valid until the thread's next call into the backend. */
typedef struct unify_error {
  size_t struct_size;
  const unify_extension* extension;
  unify_status status;
  int64_t native_code;     /* the vendor's number, 0 if it has none */
  const char* native_name; /* e.g. "CUDA_ERROR_ILLEGAL_ADDRESS", or null */
  const char* message;     /* the vendor's text, or the backend's own; null if there is nothing to add */
  const char* advice;      /* what a user can do about it, or null */
  uint64_t operation;      /* which enqueued operation failed, see unify_launch_args.operation; 0 if unknown */
  /* Since 1.1. */
  uint64_t operation_last; /* not 0: it is one of operation … operation_last; the core knows which of them ended well */
} unify_error;

/* unify_device_info.flags */
enum {
  UNIFY_DEVICE_HOST_VISIBLE = 1u, /* the host may dereference device addresses */
  UNIFY_DEVICE_SIMULATED = 2u,    /* not a chip; the name says so too */
  UNIFY_DEVICE_INTEGRATED = 4u    /* shares its memory with the host */
};

typedef struct unify_device_info {
  size_t struct_size;
  const unify_extension* extension;
  char name[128];  /* as the vendor calls it */
  char target[64]; /* what kernels are compiled for: "cpu:znver5", "cuda:90", "ascend:910B3" */
  char driver_version[64];
  char bus_id[32];     /* PCI address, or empty */
  uint8_t uuid[16];    /* zeros if unknown */
  uint32_t flags;      /* UNIFY_DEVICE_* */
  int32_t dlpack_type; /* DLDeviceType: 1 CPU, 2 CUDA, 21 Ascend … */
  int32_t dlpack_id;
  uint64_t memory_bytes;
  uint64_t cache_bytes;       /* of the last level */
  uint64_t bandwidth_bytes_s; /* of the memory, as published; 0 if unknown */
  uint32_t cores;             /* SMs, AI cores, CPU cores: what runs programs side by side */
  uint32_t clock_khz;         /* 0 if unknown */
  uint32_t warp_size;         /* threads in lockstep; 1 where there is no such thing */
  uint32_t max_threads;       /* in a block; 1 where a program is one thread */
  uint32_t max_grid[3];
  uint64_t shared_bytes;        /* the most that one program can have, see unify_launch_args.shared_bytes */
  uint32_t alignment;           /* of what memory_allocate returns, in bytes, a power of two */
  uint32_t virtual_granularity; /* of virtual_commit, in bytes; 0 without virtual memory */
  int32_t priority_least;       /* the range of stream priorities; lower numbers run first, */
  int32_t priority_greatest;    /* as in CUDA and ACL. Both 0: no priorities. */
} unify_device_info;

typedef enum unify_device_state {
  UNIFY_DEVICE_HEALTHY = 0,
  UNIFY_DEVICE_FAULTED = 1, /* a fault left its memory or streams in doubt; device_reset brings it back */
  UNIFY_DEVICE_GONE = 2     /* lost for this process */
} unify_device_state;

typedef struct unify_device_open_args {
  size_t struct_size;
  const unify_extension* extension;
  uint32_t index;      /* 0 … device_count - 1 */
  const char* options; /* "key=value;key=value", or null. Unknown keys: INVALID_ARGUMENT, naming the known ones. */
} unify_device_open_args;

typedef enum unify_memory_kind {
  UNIFY_MEMORY_DEVICE = 0,
  UNIFY_MEMORY_PINNED = 1, /* host memory that copies to and from the device need not stage; optional */
  UNIFY_MEMORY_MANAGED = 2 /* one address for host and device; optional */
} unify_memory_kind;

typedef struct unify_allocate_args {
  size_t struct_size;
  const unify_extension* extension;
  unify_memory_kind kind;
  size_t bytes; /* > 0 */
} unify_allocate_args;

typedef struct unify_copy_args {
  size_t struct_size;
  const unify_extension* extension;
  unify_address dst;
  unify_address src;
  unify_device dst_device; /* null: host memory */
  unify_device src_device; /* null: host memory */
  size_t bytes;            /* > 0 */
  uint64_t operation;
} unify_copy_args;

/* A copy of `rows` rows of `bytes` bytes; a row begins `pitch` bytes after the one before. Since 1.1. */
typedef struct unify_copy_rows_args {
  size_t struct_size;
  const unify_extension* extension;
  unify_address dst;
  unify_address src;
  unify_device dst_device; /* null: host memory */
  unify_device src_device; /* null: host memory */
  size_t bytes;            /* of a row, > 0 */
  size_t rows;             /* > 0 */
  size_t dst_pitch;        /* >= bytes */
  size_t src_pitch;        /* >= bytes */
  uint64_t operation;
} unify_copy_rows_args;

typedef struct unify_fill_args {
  size_t struct_size;
  const unify_extension* extension;
  unify_address dst;
  uint32_t value;
  uint32_t value_bytes; /* 1, 2 or 4: how much of `value` is repeated */
  size_t count;         /* of values, > 0 */
  uint64_t operation;
} unify_fill_args;

typedef struct unify_stream_args {
  size_t struct_size;
  const unify_extension* extension;
  int32_t priority;
  uint32_t is_default; /* 1 for the stream that the core makes for each device when nobody names one */
  void* native;        /* in: null for a new stream, else a vendor's stream to wrap and not to own.
                          out: the vendor's stream, or null if there is no such thing */
} unify_stream_args;

/* unify_event_args.flags */
enum {
  UNIFY_EVENT_TIMING = 1u, /* event_elapsed is wanted; never set where there is none */
  UNIFY_EVENT_IPC = 2u     /* ipc_export is wanted */
};

typedef struct unify_event_args {
  size_t struct_size;
  const unify_extension* extension;
  uint32_t flags; /* UNIFY_EVENT_* */
} unify_event_args;

typedef struct unify_module_args {
  size_t struct_size;
  const unify_extension* extension;
  const void* image; /* what the target's compiler made: an ELF object, a cubin … */
  size_t bytes;      /* > 0 */
  const char* name;  /* for profilers and errors, or null */
} unify_module_args;

typedef struct unify_function_args {
  size_t struct_size;
  const unify_extension* extension;
  const char* name;
  uint64_t shared_bytes; /* per program, at most; some chips must be told before the launch */
  uint32_t max_threads;  /* out: the most threads a block may have; 0 unknown */
  uint32_t registers;    /* out: per thread; 0 unknown */
  uint64_t local_bytes;  /* out: spilled per thread; 0 unknown */
} unify_function_args;

/* unify_launch_args.flags */
enum {
  UNIFY_LAUNCH_COOPERATIVE = 1u, /* all programs run at the same time and may wait for each other */
  UNIFY_LAUNCH_OVERLAPPING = 2u  /* may begin while the launch before it ends; the kernel waits for it by itself
                                    (CUDA: programmatic stream serialization) */
};

typedef struct unify_launch_args {
  size_t struct_size;
  const unify_extension* extension;
  uint32_t grid[3];      /* programs; all > 0 */
  uint32_t threads;      /* per program: warps × warp size on a GPU; 1 where a program is one thread */
  uint64_t shared_bytes; /* scratch memory per program */
  const void* args;      /* the kernel's parameters as one C struct, naturally aligned, without padding at its end */
  size_t args_bytes;
  uint64_t operation; /* the core's number for this launch; unify_error.operation names it if it fails */
  /* Since 1.1. To an older backend the core passes none of these but as zeros. */
  uint32_t block[3];   /* how the threads of a program are counted: x·y·z = threads; zeros: threads × 1 × 1 */
  uint32_t cluster[3]; /* programs that run side by side and see each other's scratch memory; zeros: none */
  uint32_t flags;      /* UNIFY_LAUNCH_* */
} unify_launch_args;

typedef enum unify_ipc_kind { UNIFY_IPC_MEMORY = 0, UNIFY_IPC_EVENT = 1 } unify_ipc_kind;

typedef struct unify_ipc_args {
  size_t struct_size;
  const unify_extension* extension;
  unify_ipc_kind kind;
  unify_address address; /* MEMORY: of a whole allocation. In for export, out for import */
  unify_event event;     /* EVENT: in for export, out for import */
  uint8_t token[128];    /* what travels to the other process. Out for export, in for import */
} unify_ipc_args;

typedef void (*unify_host_function)(void* user);
/* [types.end] */

typedef struct unify_backend {
  size_t struct_size;
  const unify_extension* extension;
  uint32_t abi_major; /* UNIFY_ABI_MAJOR and _MINOR as the backend was compiled with */
  uint32_t abi_minor;
  const char* name;    /* what users write before the colon: "cpu", "cuda", "ascend" */
  const char* version; /* of the backend and the vendor library it found, for people */

  /* [devices.begin] */

  /* Counts the devices that this process may open. 0 is no error.
     Order:   at once.
     Memory:  nothing is allocated on a device; no device is initialised.
     Threads: any.
     Errors:  INTERNAL when the vendor's library fails. */
  unify_status (*device_count)(uint32_t* out_count);

  /* Opens a device: the first call that may initialise the chip.
     Order:   at once.
     Memory:  `args` is read during the call. The core closes what it opened, once.
     Threads: any; a second open of one index gives a second handle on the same device.
     Errors:  NOT_FOUND for an index; INVALID_ARGUMENT for an option; DEVICE_LOST; INTERNAL. */
  unify_status (*device_open)(const unify_device_open_args* args, unify_device* out_device);

  /* Closes a device. Everything made on it was destroyed before.
     Order:   after all of the device's work; blocks until then.
     Memory:  releases what the backend itself holds for the device.
     Threads: no other call on this device runs meanwhile.
     Errors:  none are reported; a lost device is closed like any other. */
  void (*device_close)(unify_device device);

  /* Describes a device. Does not change while it is open.
     Order:   at once.
     Memory:  `out_info` is the caller's, its struct_size set; the backend fills what fits.
     Threads: any.
     Errors:  DEVICE_LOST, INTERNAL. */
  unify_status (*device_info)(unify_device device, unify_device_info* out_info);

  /* Waits for all work of all streams of the device.
     Order:   after everything enqueued before the call.
     Memory:  host memory used by that work is free to be reused afterwards.
     Threads: any.
     Errors:  one that stream_synchronize of one of the streams would return; it ends there too. */
  unify_status (*device_synchronize)(unify_device device);

  /* optional. Says whether the device can still be used. Must answer on a faulted or lost device, in bounded time.
     Order:   at once; does not wait for work.
     Memory:  none.
     Threads: any.
     Errors:  INTERNAL when the vendor's library does not know. */
  unify_status (*device_status)(unify_device device, unify_device_state* out_state);

  /* optional. Brings a faulted device back. Its memory, streams, events, modules and graphs are gone afterwards;
     the core then forgets their handles without destroying them. Other devices are not disturbed.
     Order:   drops what is enqueued.
     Memory:  all device memory is freed; pinned host memory stays.
     Threads: no other call on this device runs meanwhile.
     Errors:  DEVICE_LOST when it does not come back. */
  unify_status (*device_reset)(unify_device device);

  /* optional. Sets something that this backend alone knows, e.g. "threads" = "4" on the CPU.
     Order:   for work enqueued afterwards.
     Memory:  both strings are read during the call.
     Threads: any.
     Errors:  INVALID_ARGUMENT naming the known keys, or the range. */
  unify_status (*device_set_option)(unify_device device, const char* key, const char* value);
  /* [devices.end] */

  /* [memory.begin] */

  /* Allocates. The core calls it for large segments only, and cuts them itself.
     Order:   at once; may block until the device is idle.
     Memory:  the caller frees with memory_free. Aligned to unify_device_info.alignment. Contents undefined.
     Threads: any.
     Errors:  OUT_OF_MEMORY; UNSUPPORTED for a kind. */
  unify_status (*memory_allocate)(unify_device device, const unify_allocate_args* args, unify_address* out_address);

  /* Frees what memory_allocate returned.
     Order:   at once; the core has waited for all work on it.
     Memory:  `kind` as it was allocated with.
     Threads: any.
     Errors:  INVALID_ARGUMENT for an address that was not allocated; DEVICE_LOST. */
  unify_status (*memory_free)(unify_device device, unify_memory_kind kind, unify_address address);

  /* How much device memory is free, for all processes.
     Order:   at once.
     Memory:  none.
     Threads: any.
     Errors:  DEVICE_LOST, INTERNAL. */
  unify_status (*memory_info)(unify_device device, uint64_t* out_free_bytes, uint64_t* out_total_bytes);

  /* optional, the four virtual_* together. Reserves addresses without memory behind them.
     Order:   at once.
     Memory:  the range is the caller's until virtual_release. `bytes` is a multiple of virtual_granularity.
     Threads: any.
     Errors:  OUT_OF_MEMORY, UNSUPPORTED. */
  unify_status (*virtual_reserve)(unify_device device, size_t bytes, unify_address* out_address);

  /* optional. Puts memory behind a part of a reserved range, readable and writable by the device.
     Order:   at once.
     Memory:  start and size are multiples of virtual_granularity; no part is committed yet.
     Threads: any, on disjoint parts.
     Errors:  OUT_OF_MEMORY, and nothing is committed then. */
  unify_status (*virtual_commit)(unify_device device, unify_address address, size_t bytes);

  /* optional. Takes the memory behind a part away; the addresses stay reserved.
     Order:   at once; the core has waited for all work on it.
     Memory:  exactly a range that was committed by one call.
     Threads: any, on disjoint parts.
     Errors:  INVALID_ARGUMENT, DEVICE_LOST. */
  unify_status (*virtual_decommit)(unify_device device, unify_address address, size_t bytes);

  /* optional. Gives a reserved range back; nothing of it is committed.
     Order:   at once.
     Memory:  exactly what virtual_reserve returned.
     Threads: any.
     Errors:  INVALID_ARGUMENT. */
  unify_status (*virtual_release)(unify_device device, unify_address address, size_t bytes);
  /* [memory.end] */

  /* [copies.begin] */

  /* Enqueues a copy between two places, each in host memory or on a device (the stream's, or a peer).
     Order:   after all work on `stream` so far. Returns before it is done, except that a copy from or to
              pageable host memory may return only once that memory is not needed any more.
     Memory:  both ranges stay alive until the stream has passed; the core sees to it. Overlap is undefined.
     Threads: one call on a stream at a time; the core serialises.
     Errors:  INVALID_ARGUMENT at once; UNSUPPORTED at once for two places of one device that it does not copy
              between (as they are aligned, say): the core then copies by a kernel, or through the host. A fault of
              the device from the stream's next synchronize or query. */
  unify_status (*copy)(unify_stream stream, const unify_copy_args* args);

  /* Enqueues the repetition of a value.
     Order:   after all work on `stream` so far. Returns before it is done.
     Memory:  the range stays alive until the stream has passed. `dst` is aligned to value_bytes.
     Threads: one call on a stream at a time.
     Errors:  UNSUPPORTED for a value_bytes other than 1 (the core then copies a filled host buffer);
              INVALID_ARGUMENT at once; later as copy. */
  unify_status (*fill)(unify_stream stream, const unify_fill_args* args);
  /* [copies.end] */

  /* [streams.begin] */

  /* Makes a stream, or wraps a vendor's (args->native): work on one stream runs in the order it was enqueued.
     Order:   at once.
     Memory:  a wrapped stream stays its owner's, and outlives the handle.
     Threads: any.
     Errors:  OUT_OF_MEMORY, INVALID_ARGUMENT for a priority outside the device's range, UNSUPPORTED for wrapping. */
  unify_status (*stream_create)(unify_device device, unify_stream_args* args, unify_stream* out_stream);

  /* Destroys a stream. What is enqueued still runs.
     Order:   returns without waiting for the work.
     Memory:  the handle is invalid at once.
     Threads: no other call on this stream runs meanwhile.
     Errors:  one that stream_synchronize would return, without waiting; the stream is destroyed all the same. */
  unify_status (*stream_destroy)(unify_stream stream);

  /* Waits for the work of a stream.
     Order:   after everything enqueued before the call, also where that failed.
     Memory:  what that work used may be freed or reused afterwards.
     Threads: any, also while another thread enqueues.
     Errors:  the first failure of that work that was not returned yet by stream_synchronize, device_synchronize or
              the call that enqueued it. Where device_status is still HEALTHY it ends with that, and the stream works
              on; elsewhere KERNEL_FAULT and DEVICE_LOST stay: each later call returns them. UNSUPPORTED, where the
              backend sees it, for a stream that another library records. */
  unify_status (*stream_synchronize)(unify_stream stream);

  /* Asks without waiting whether a stream has run dry.
     Order:   at once.
     Memory:  as stream_synchronize when it does not answer NOT_READY.
     Threads: any.
     Errors:  NOT_READY; UNSUPPORTED while another library records the stream (one that was wrapped, or waited for an
              event of such a one) or forbids to ask it by recording another stream; what stream_synchronize would
     return, which it does not end: asking loses no failure. */
  unify_status (*stream_query)(unify_stream stream);

  /* Makes later work of a stream wait for an event's last record, also of another device of this backend.
     Order:   for everything enqueued afterwards. An event that was never recorded does not hold.
     Memory:  the event may be recorded again or destroyed right after the call: what is waited for is fixed.
     Threads: one call on a stream at a time.
     Errors:  INVALID_ARGUMENT for an event of another backend; a failure of the waited-for work is not passed on. */
  unify_status (*stream_wait_event)(unify_stream stream, unify_event event);

  /* optional. Enqueues a call of a host function. It must not call the backend, and not block for long.
     Order:   after all work so far; later work of the stream waits for its return.
     Memory:  `user` is the caller's until the function has run. It runs exactly once, also after a failure and
              when the stream is destroyed meanwhile; recorded, at each launch of the graph.
     Threads: runs on a thread of the backend or in the caller; one call on a stream at a time.
     Errors:  OUT_OF_MEMORY; then the function does not run. */
  unify_status (*host_call)(unify_stream stream, unify_host_function function, void* user);
  /* [streams.end] */

  /* [events.begin] */

  /* Makes an event: a mark in a stream that can be waited for.
     Order:   at once. A new event counts as done.
     Memory:  the core keeps events in a pool and records them again and again.
     Threads: any.
     Errors:  OUT_OF_MEMORY; UNSUPPORTED for a flag. */
  unify_status (*event_create)(unify_device device, const unify_event_args* args, unify_event* out_event);

  /* Destroys an event.
     Order:   returns at once; streams that wait for it still do.
     Memory:  the handle is invalid at once.
     Threads: no other call on this event runs meanwhile.
     Errors:  none but DEVICE_LOST. */
  unify_status (*event_destroy)(unify_event event);

  /* Marks the work enqueued so far. A second record moves the mark.
     Order:   after all work on `stream` so far.
     Memory:  none.
     Threads: one call on a stream, and on an event, at a time.
     Errors:  INVALID_ARGUMENT for a stream of another device. */
  unify_status (*event_record)(unify_event event, unify_stream stream);

  /* Waits for the mark.
     Order:   after the work that the last record marked.
     Memory:  as stream_synchronize, for that work.
     Threads: any.
     Errors:  what stream_synchronize would have returned when the mark was passed. It ends nothing, and stays with
              the mark: each call returns it. */
  unify_status (*event_synchronize)(unify_event event);

  /* Asks without waiting whether the mark was passed.
     Order:   at once.
     Memory:  as event_synchronize when it does not answer NOT_READY.
     Threads: any.
     Errors:  NOT_READY; failures as event_synchronize. */
  unify_status (*event_query)(unify_event event);

  /* optional. The time between two marks as the device saw it. Negative when they were passed in the other order.
     Order:   both marks were passed.
     Memory:  none.
     Threads: any.
     Errors:  NOT_READY when one was not passed; INVALID_ARGUMENT when one was never recorded or made without
              UNIFY_EVENT_TIMING. */
  unify_status (*event_elapsed)(unify_event start, unify_event stop, int64_t* out_nanoseconds);
  /* [events.end] */

  /* [kernels.begin] */

  /* Loads a compiled image onto a device.
     Order:   at once; may wait for the device.
     Memory:  the image is read during the call. The caller unloads.
     Threads: any.
     Errors:  INVALID_ARGUMENT for an image that is damaged or made for another target, saying why; OUT_OF_MEMORY. */
  unify_status (*module_load)(unify_device device, const unify_module_args* args, unify_module* out_module);

  /* Unloads a module and all its functions.
     Order:   at once; the core has waited for all launches.
     Memory:  function handles are invalid at once.
     Threads: no other call on this module runs meanwhile.
     Errors:  DEVICE_LOST. */
  unify_status (*module_unload)(unify_module module);

  /* Finds an entry point by name, and says what it needs.
     Order:   at once.
     Memory:  the function lives as long as its module.
     Threads: any.
     Errors:  NOT_FOUND; INVALID_ARGUMENT when shared_bytes exceeds the device's. */
  unify_status (*function_get)(unify_module module, unify_function_args* args, unify_function* out_function);

  /* Enqueues a launch.
     Order:   after all work on `stream` so far. May run in the calling thread when the stream is idle, and
              otherwise returns before it is done.
     Memory:  `args` and what it points to on the host is read during the call. What the parameters point to
              stays alive until the stream has passed; the core sees to it.
     Threads: one call on a stream at a time.
     Errors:  INVALID_ARGUMENT at once for a grid, threads or shared_bytes beyond the device's; UNSUPPORTED for a
              cluster or a flag that the device does not have; a fault of the kernel from the stream's next
              synchronize or query, or from this call if it ran at once. */
  unify_status (*launch)(unify_stream stream, unify_function function, const unify_launch_args* args);
  /* [kernels.end] */

  /* [graphs.begin] */

  /* optional, the four graph functions together; without them the core records and replays by itself.
     Starts recording: until capture_end, what is enqueued on the stream, and on streams that wait for its
     events, is recorded and does not run.
     Order:   from the next call on.
     Memory:  what recorded work uses stays alive as long as the graph; the core sees to it.
     Threads: one call on a stream at a time.
     Errors:  INVALID_ARGUMENT when it is recording already. */
  unify_status (*capture_begin)(unify_stream stream);

  /* optional. Ends recording and makes the graph ready to launch.
     Order:   at once.
     Memory:  the caller destroys the graph.
     Threads: one call on a stream at a time.
     Errors:  INVALID_ARGUMENT when something was enqueued that cannot be recorded, or another stream was drawn
              in and not joined; out_graph is null then and the stream records no more. */
  unify_status (*capture_end)(unify_stream stream, unify_graph* out_graph);

  /* optional. Enqueues all of a graph's work.
     Order:   after all work on `stream` so far; within the graph as recorded. Returns before it is done.
     Memory:  parameters are those of the recording.
     Threads: one call on a stream, and on a graph, at a time.
     Errors:  as launch. */
  unify_status (*graph_launch)(unify_graph graph, unify_stream stream);

  /* optional. Destroys a graph.
     Order:   returns at once; launches under way finish.
     Memory:  the handle is invalid at once.
     Threads: no other call on this graph runs meanwhile.
     Errors:  none but DEVICE_LOST. */
  unify_status (*graph_destroy)(unify_graph graph);
  /* [graphs.end] */

  /* [sharing.begin] */

  /* optional. Says whether `device` can reach the memory of `peer` directly, and enables it if asked to.
     Order:   at once.
     Memory:  holds for all memory of `peer`, also what is allocated later, until either is closed.
     Threads: any.
     Errors:  INVALID_ARGUMENT for devices of two backends. No way between them is no error: *out_can is 0. */
  unify_status (*peer_access)(unify_device device, unify_device peer, uint32_t enable, uint32_t* out_can);

  /* optional, the three ipc_* together. Makes a token that another process can import.
     Order:   at once.
     Memory:  what is exported stays its owner's and must outlive every import.
     Threads: any.
     Errors:  UNSUPPORTED for a kind, or an event made without UNIFY_EVENT_IPC. */
  unify_status (*ipc_export)(unify_device device, unify_ipc_args* args);

  /* optional. Opens what another process exported.
     Order:   at once.
     Memory:  the caller closes it by ipc_close.
     Threads: any.
     Errors:  INVALID_ARGUMENT for a token that is malformed or of this same process; NOT_FOUND when its owner
              is gone. */
  unify_status (*ipc_import)(unify_device device, unify_ipc_args* args);

  /* optional. Closes what ipc_import opened.
     Order:   at once; the core has waited for all work on it.
     Memory:  the owner's memory or event is not touched.
     Threads: any.
     Errors:  INVALID_ARGUMENT for what was not imported. */
  unify_status (*ipc_close)(unify_device device, const unify_ipc_args* args);
  /* [sharing.end] */

  /* [errors.begin] */

  /* Describes the calling thread's last call that did not return OK.
     Order:   at once.
     Memory:  `out_error` is the caller's, its struct_size set. Strings live until the thread's next call.
     Threads: any; each thread has its own.
     Errors:  none; with no failure so far, status is OK. */
  void (*last_error)(unify_error* out_error);
  /* [errors.end] */

  /* What was appended in 1.1. */
  /* [appended.begin] */

  /* optional. Enqueues a copy of rows between two places; without it the core copies row by row.
     Order:   as copy.
     Memory:  as copy, for all rows and what lies between them.
     Threads: as copy.
     Errors:  as copy; UNSUPPORTED at once for rows too far apart: the core then copies them otherwise. */
  unify_status (*copy_rows)(unify_stream stream, const unify_copy_rows_args* args);

  /* optional. Ends recording as capture_end does, and makes a graph of before do what was recorded, in place, where the
     two differ in no more than parameters. Else *out_graph is a new graph, and `graph` is as it was.
     Order:   at once; launches of `graph` under way finish as they were recorded.
     Memory:  *out_graph is null when `graph` was changed. What its old work used is kept by the core until its launches
              are done.
     Threads: one call on a stream at a time; no other call on `graph` runs meanwhile.
     Errors:  as capture_end; `graph` is as it was then. */
  unify_status (*capture_update)(unify_stream stream, unify_graph graph, unify_graph* out_graph);

  /* What was appended in 1.2. */

  /* optional. Keeps `user` as long as the graph may run that a stream is being recorded into, whoever records it. With
     a null `release` it only asks whether there is one. Order:   at once. Memory:  `release(user)` is called once, when
     the graph, all that was made of it and their launches are over, or the recording has failed. Threads: any.
     `release` runs on any thread; it calls nothing of the backend, and does not block. Errors:  INVALID_ARGUMENT for a
     stream that is not being recorded; UNSUPPORTED for one that takes no work at all as long as another stream is
     recorded; OUT_OF_MEMORY. `release` is not called then. */
  unify_status (*capture_keep)(unify_stream stream, unify_host_function release, void* user);
  /* [appended.end] */
} unify_backend;

/* [entry.begin] */
typedef struct unify_backend_get_args {
  size_t struct_size;
  const unify_extension* extension;
  uint32_t abi_major; /* the core's */
  uint32_t abi_minor;
  const char* library; /* which vendor library to open in place of the usual one, or null */
  const char* why;     /* out: why there is no backend on this machine, when the result is null */
} unify_backend_get_args;

/* The one symbol of a backend.
   Order:   called once, before everything else; must not initialise a device.
   Memory:  the table, and `why`, live as long as the library, which is never unloaded.
   Threads: one.
   Errors:  null with `why` set when the vendor's library is absent or unusable: that is no failure of unify. */
#if defined(__GNUC__)
#define UNIFY_EXPORT __attribute__((visibility("default")))
#else
#define UNIFY_EXPORT
#endif
UNIFY_EXPORT const unify_backend* unify_backend_get(unify_backend_get_args* args);
typedef const unify_backend* (*unify_backend_get_function)(unify_backend_get_args* args);
/* [entry.end] */

#ifdef __cplusplus
}
#endif
#endif /* UNIFY_BACKEND_H */
