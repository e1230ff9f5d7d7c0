// The layer that knows the ABI's rules, around the CPU backend's table, called as the core never should.
#include <unify/backend.h>

#include <atomic>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "core/layers/layer.h"
#include "opened.h"

namespace unify {
namespace {

// As text has it: "dst 0x7f00+64".
std::string range(const char* name, unify_address address, size_t bytes) {
  char text[80];
  std::snprintf(text, sizeof text, "%s 0x%llx+%zu", name, static_cast<unsigned long long>(address), bytes);
  return text;
}

// What the CPU backend has not, done by nobody.
void add_missing(unify_backend& table) {
  table.copy_rows = [](unify_stream, const unify_copy_rows_args*) { return UNIFY_OK; };
  table.capture_begin = [](unify_stream) { return UNIFY_OK; };
  table.capture_end = [](unify_stream, unify_graph* out) {
    static std::atomic<uintptr_t> next{1};
    *out = reinterpret_cast<unify_graph>(16 * next++);
    return UNIFY_OK;
  };
  table.graph_launch = [](unify_graph, unify_stream) { return UNIFY_OK; };
  table.graph_destroy = [](unify_graph) { return UNIFY_OK; };
  table.capture_update = [](unify_stream, unify_graph, unify_graph* out) {
    *out = nullptr;
    return UNIFY_OK;
  };
  table.capture_keep = [](unify_stream, unify_host_function, void*) { return UNIFY_OK; };
  table.module_load = [](unify_device, const unify_module_args*, unify_module* out) {
    *out = reinterpret_cast<unify_module>(0x100);
    return UNIFY_OK;
  };
  table.module_unload = [](unify_module) { return UNIFY_OK; };
  table.function_get = [](unify_module, unify_function_args*, unify_function* out) {
    *out = reinterpret_cast<unify_function>(0x200);
    return UNIFY_OK;
  };
  table.launch = [](unify_stream, unify_function, const unify_launch_args*) { return UNIFY_OK; };
  table.virtual_reserve = [](unify_device, size_t, unify_address* out) { return *out = 0x10000, UNIFY_OK; };
  table.virtual_commit = [](unify_device, unify_address, size_t) { return UNIFY_OK; };
  table.virtual_decommit = table.virtual_release = table.virtual_commit;
  table.peer_access = [](unify_device, unify_device, uint32_t, uint32_t*) { return UNIFY_OK; };
  table.ipc_export = [](unify_device, unify_ipc_args*) { return UNIFY_OK; };
  table.ipc_import = [](unify_device, unify_ipc_args* args) { return args->address = 0x9000, UNIFY_OK; };
  table.ipc_close = [](unify_device, const unify_ipc_args*) { return UNIFY_OK; };
  // As a chip that takes blocks of several axes.
  static unify_status (*const plain)(unify_device, unify_device_info*) = table.device_info;
  table.device_info = [](unify_device device, unify_device_info* out) {
    const unify_status status = plain(device, out);
    out->max_threads = 1024;
    out->virtual_granularity = 4096;
    return status;
  };
}

template <typename Arguments>
Arguments sized() {
  Arguments args{};
  args.struct_size = sizeof args;
  return args;
}

}  // namespace

void test_validation_names_what_breaks_a_rule() {
  const Opened cpu({add_validation});
  const unify_backend& table = cpu.table;
  const unify_stream stream = cpu.stream();
  const unify_event event = cpu.event();
  const unify_address memory = cpu.memory(1024);
  CHECK(cpu.fill(stream, memory, 1024) == UNIFY_OK);
  CHECK(cpu.is_refused(cpu.fill(stream, memory + 1000, 25), {"fill: dst", "+25", "beyond", "+1024"}));
  CHECK(cpu.is_refused(cpu.fill(stream, memory, 4, 3), {"fill", "3 bytes"}));
  CHECK(cpu.is_refused(cpu.fill(stream, memory + 1, 4, 4), {"aligned to 4"}));
  CHECK(cpu.copy(stream, memory, memory + 512, 512) == UNIFY_OK);
  CHECK(cpu.is_refused(cpu.copy(stream, memory, memory + 511, 512), {"copy", "overlaps"}));
  CHECK(cpu.is_refused(cpu.copy(stream, memory, memory, 0), {"0 bytes"}));

  const Opened other({add_validation});  // another table: its handles are none of the first one's
  CHECK(cpu.is_refused(table.event_record(event, other.stream()), {"event_record", "no stream"}));
  const unify_event foreign = other.event();
  CHECK(cpu.is_refused(table.stream_wait_event(stream, foreign), {"stream_wait_event", "no event"}));

  // Held back by a host call, so that the fill is under way when its memory goes.
  struct Gate {
    std::atomic<bool> is_open{false};
  } gate;
  const auto hold = [](void* user) {
    while (!static_cast<Gate*>(user)->is_open) std::this_thread::yield();
  };
  CHECK(table.host_call(stream, hold, &gate) == UNIFY_OK);
  CHECK(cpu.fill(stream, memory, 8) == UNIFY_OK);
  CHECK(table.event_record(event, stream) == UNIFY_OK);
  CHECK(cpu.is_refused(table.memory_free(cpu.device, UNIFY_MEMORY_DEVICE, memory), {"memory_free", "still used"}));
  gate.is_open = true;
  CHECK(table.event_synchronize(event) == UNIFY_OK);
  CHECK(cpu.is_refused(table.memory_free(cpu.device, UNIFY_MEMORY_PINNED, memory), {"another kind"}));
  CHECK(table.memory_free(cpu.device, UNIFY_MEMORY_DEVICE, memory) == UNIFY_OK);
  CHECK(cpu.is_refused(table.memory_free(cpu.device, UNIFY_MEMORY_DEVICE, memory), {"not any more"}));

  unify_launch_args launch{};
  launch.struct_size = sizeof launch;
  CHECK(cpu.is_refused(table.launch(stream, nullptr, &launch), {"launch", "no function"}));
  CHECK(table.stream_synchronize(stream) == UNIFY_OK);
  CHECK(table.event_destroy(event) == UNIFY_OK);
  CHECK(cpu.is_refused(table.event_destroy(event), {"event_destroy", "no event", "event_destroy took it"}));
  CHECK(cpu.is_refused(table.event_query(event), {"event_query"}));
  CHECK(table.stream_destroy(stream) == UNIFY_OK);
  CHECK(cpu.is_refused(cpu.fill(stream, memory, 1), {"fill", "no stream"}));
}

void test_a_launch_of_the_wrong_shape_is_refused() {
  const Opened cpu({add_missing, add_validation});
  const unify_stream stream = cpu.stream();
  auto image = sized<unify_module_args>();
  image.image = "image";
  image.bytes = 5;
  unify_module module = nullptr;
  CHECK(cpu.table.module_load(cpu.device, &image, &module) == UNIFY_OK);
  auto named = sized<unify_function_args>();
  unify_function function = nullptr;
  CHECK(cpu.refusal(cpu.table.function_get(module, &named, &function)) == "function_get: name is null");
  named.name = "kernel";
  CHECK(cpu.table.function_get(module, &named, &function) == UNIFY_OK);
  const auto launch = [&](const std::function<void(unify_launch_args&)>& change) {
    auto args = sized<unify_launch_args>();
    args.grid[0] = args.grid[1] = args.grid[2] = 4;
    args.threads = 8;
    change(args);
    return cpu.refusal(cpu.table.launch(stream, function, &args));
  };
  const auto set = [](uint32_t(&sizes)[3], uint32_t x, uint32_t y, uint32_t z) {
    sizes[0] = x, sizes[1] = y, sizes[2] = z;
  };
  CHECK(launch([](auto&) {}).empty());
  CHECK(launch([&](auto& args) { set(args.block, 2, 2, 2), set(args.cluster, 2, 1, 4); }).empty());
  CHECK(launch([&](auto& args) { set(args.block, 4, 2, 2); }) == "launch: block 4×2×2 for 8 threads");
  CHECK(launch([&](auto& args) { set(args.block, 8, 1, 0); }) == "launch: block 8×1×0 for 8 threads");
  CHECK(launch([&](auto& args) { set(args.cluster, 3, 1, 1); }) == "launch: cluster 3×1×1 does not divide grid 4×4×4");
  CHECK(launch([&](auto& args) { set(args.cluster, 2, 0, 1); }) == "launch: cluster 2×0×1 does not divide grid 4×4×4");
  CHECK(launch([](auto& args) { args.flags = 6; }) == "launch: flags 6; known are the bits of 3");
  CHECK(launch([](auto& args) { args.threads = 2000; }) == "launch: 2000 threads, possible are 1 to 1024");
  CHECK(launch([](auto& args) { args.args_bytes = 8; }) == "launch: arguments are null");
  // An older caller's struct ends before them.
  CHECK(launch([](auto& args) { args.struct_size = offsetof(unify_launch_args, block), args.flags = 64; }).empty());
  CHECK(launch([](auto& args) { args.struct_size = 16; }) ==
        "launch: its arguments have 16 bytes, version 1.0 has " + std::to_string(offsetof(unify_launch_args, block)));
  CHECK(cpu.refusal(cpu.table.launch(stream, function, nullptr)) == "launch: its arguments are null");

  CHECK(cpu.table.module_unload(module) == UNIFY_OK);
  CHECK(launch([](auto&) {}) == "launch: no function 0x200 of this backend lives: module_unload took it");

  const auto make_old = [](unify_backend& table) { table.abi_minor = 0; };
  const Opened old({add_missing, make_old, add_validation});
  CHECK(old.table.module_load(old.device, &image, &module) == UNIFY_OK);
  CHECK(old.table.function_get(module, &named, &function) == UNIFY_OK);
  auto args = sized<unify_launch_args>();
  args.grid[0] = args.grid[1] = args.grid[2] = args.threads = 1;
  args.flags = UNIFY_LAUNCH_COOPERATIVE;
  CHECK(old.refusal(old.table.launch(old.stream(), function, &args)) ==
        "launch: a block, a cluster or flags for a backend of version 1.0, which has none");
}

void test_rows_stay_inside_their_memory_and_apart() {
  const Opened cpu({add_missing, add_validation});
  const unify_stream stream = cpu.stream();
  const unify_address memory = cpu.memory(1024);
  const auto copy = [&](unify_address dst, unify_address src, size_t bytes, size_t rows, size_t dst_pitch,
                        size_t src_pitch) {
    auto args = sized<unify_copy_rows_args>();
    args.dst = dst, args.src = src, args.dst_device = args.src_device = cpu.device;
    args.bytes = bytes, args.rows = rows, args.dst_pitch = dst_pitch, args.src_pitch = src_pitch;
    return cpu.refusal(cpu.table.copy_rows(stream, &args));
  };
  CHECK(copy(memory, memory + 512, 64, 8, 64, 64).empty());
  CHECK(copy(memory, memory + 64, 64, 8, 128, 128).empty());  // between each other
  CHECK(copy(memory, memory + 512, 0, 8, 64, 64) == "copy_rows: 8 rows of 0 bytes");
  CHECK(copy(memory, memory + 512, 64, 0, 64, 64) == "copy_rows: 0 rows of 64 bytes");
  CHECK(copy(memory, memory + 512, 64, 8, 63, 64) == "copy_rows: dst_pitch is 63, less than a row's 64 bytes");
  CHECK(copy(memory, memory + 512, 64, 8, 64, 32) == "copy_rows: src_pitch is 32, less than a row's 64 bytes");
  CHECK(copy(memory + 512, memory, 64, 8, 65, 64) ==
        range("copy_rows: dst", memory + 512, 519) + " goes beyond its " + range("allocation", memory, 1024));
  CHECK(copy(memory, memory + 576, 64, 8, 64, 64) ==
        range("copy_rows: src", memory + 576, 512) + " goes beyond its " + range("allocation", memory, 1024));
  CHECK(copy(memory, memory + 32, 64, 4, 128, 128) ==
        "copy_rows: rows of " + range("dst", memory, 448) + " overlap rows of " + range("src", memory + 32, 448));
  CHECK(copy(memory, memory + 512, 64, 2, SIZE_MAX, 64) == "copy_rows: 2 rows reach beyond every address");
}

void test_a_graph_is_changed_by_a_living_one_of_its_device() {
  const Opened cpu({add_missing, add_validation});
  const unify_backend& table = cpu.table;
  const unify_stream stream = cpu.stream();
  const auto record = [&] {
    unify_graph graph = nullptr;
    CHECK(table.capture_begin(stream) == UNIFY_OK);
    CHECK(cpu.refusal(table.capture_begin(stream)) == "capture_begin: the stream records a graph already");
    CHECK(cpu.refusal(table.stream_destroy(stream)) == "stream_destroy: the stream records a graph");
    CHECK(cpu.refusal(table.stream_query(stream)) == "stream_query: the stream records a graph");
    CHECK(table.capture_end(stream, &graph) == UNIFY_OK);
    return graph;
  };
  const unify_graph graph = record();
  const unify_graph source = record();
  CHECK(cpu.refusal(table.capture_end(stream, nullptr)) == "capture_end: out_graph is null");
  unify_graph none = nullptr;
  CHECK(cpu.refusal(table.capture_end(stream, &none)) == "capture_end: the stream records nothing");
  CHECK(cpu.refusal(table.capture_update(stream, graph, &none)) == "capture_update: the stream records nothing");
  CHECK(table.capture_begin(stream) == UNIFY_OK);
  CHECK(table.capture_update(stream, graph, &none) == UNIFY_OK && none == nullptr);
  CHECK(table.stream_query(stream) == UNIFY_OK);  // it records no more
  CHECK(table.graph_launch(graph, stream) == UNIFY_OK);
  CHECK(table.graph_destroy(source) == UNIFY_OK);
  CHECK(cpu.is_refused(table.capture_update(stream, source, &none),
                       {"capture_update: no graph", "graph_destroy took it"}));
  const auto release = [](void*) {};
  int user = 0;
  CHECK(table.capture_keep(stream, release, &user) == UNIFY_OK);
  CHECK(table.capture_keep(stream, nullptr, nullptr) == UNIFY_OK);
  CHECK(cpu.refusal(table.capture_keep(stream, release, nullptr)) ==
        "capture_keep: user is null: there is nothing to keep");
  CHECK(cpu.is_refused(table.capture_keep(nullptr, release, &user), {"capture_keep: no stream"}));
  unify_device_open_args again{sizeof again, nullptr, 0, "threads=1"};
  unify_device second = nullptr;
  CHECK(table.device_open(&again, &second) == UNIFY_OK);
  if (second != cpu.device) {
    unify_stream_args plain{sizeof plain, nullptr, 0, 0, nullptr};
    unify_stream other = nullptr;
    unify_graph foreign = nullptr;
    CHECK(table.stream_create(second, &plain, &other) == UNIFY_OK);
    CHECK(table.capture_begin(other) == UNIFY_OK && table.capture_end(other, &foreign) == UNIFY_OK);
    CHECK(table.capture_begin(stream) == UNIFY_OK);
    CHECK(cpu.refusal(table.capture_update(stream, foreign, &none)) ==
          "capture_update: graph and stream are of two devices");
    CHECK(cpu.refusal(table.graph_launch(foreign, stream)) == "graph_launch: graph and stream are of two devices");
  }

  // An event of a recording draws another stream in, and is good for nothing once that has ended.
  const unify_event event = cpu.event();
  const unify_stream branch = cpu.stream();
  unify_graph whole = nullptr;
  CHECK(table.capture_begin(stream) == UNIFY_OK && table.event_record(event, stream) == UNIFY_OK);
  CHECK(cpu.refusal(table.event_query(event)) == "event_query: the event is part of a graph and marks nothing outside");
  CHECK(table.stream_wait_event(branch, event) == UNIFY_OK);
  CHECK(cpu.refusal(table.stream_synchronize(branch)) == "stream_synchronize: the stream records a graph");
  CHECK(table.capture_end(stream, &whole) == UNIFY_OK);
  CHECK(table.stream_synchronize(branch) == UNIFY_OK);
  CHECK(cpu.refusal(table.stream_wait_event(branch, event)) ==
        "stream_wait_event: the event is part of a graph whose recording has ended");
}

void test_virtual_and_shared_memory_have_their_rules() {
  const Opened cpu({add_missing, add_validation});
  const unify_backend& table = cpu.table;
  unify_address address = 0;
  CHECK(cpu.refusal(table.virtual_reserve(cpu.device, 100, &address)) ==
        "virtual_reserve: range 0x0+100 is not in multiples of 4096");
  CHECK(table.virtual_reserve(cpu.device, 16384, &address) == UNIFY_OK);
  CHECK(cpu.refusal(table.virtual_commit(cpu.device, address, 32768)) ==
        "virtual_commit: range 0x10000+32768 is not reserved");
  CHECK(table.virtual_commit(cpu.device, address, 8192) == UNIFY_OK);
  CHECK(cpu.refusal(table.virtual_commit(cpu.device, address + 4096, 8192)) ==
        "virtual_commit: a part of range 0x11000+8192 is committed already");
  CHECK(cpu.refusal(cpu.fill(cpu.stream(), address + 8000, 200)) ==
        "fill: dst 0x11f40+200 goes beyond its allocation 0x10000+8192");
  CHECK(cpu.refusal(table.memory_free(cpu.device, UNIFY_MEMORY_DEVICE, address)) ==
        "memory_free: address 0x10000+8192 was allocated with another kind or device");
  CHECK(cpu.refusal(table.virtual_release(cpu.device, address, 16384)) ==
        "virtual_release: a part of range 0x10000+16384 is still committed");
  CHECK(cpu.refusal(table.virtual_decommit(cpu.device, address, 4096)) ==
        "virtual_decommit: range 0x10000+4096 was not committed by one call");
  CHECK(table.virtual_decommit(cpu.device, address, 8192) == UNIFY_OK);
  CHECK(cpu.refusal(table.virtual_release(cpu.device, address, 4096)) ==
        "virtual_release: range 0x10000+4096 was not reserved by one call");
  CHECK(table.virtual_release(cpu.device, address, 16384) == UNIFY_OK);

  auto shared = sized<unify_ipc_args>();
  shared.address = 0x5000;
  CHECK(cpu.refusal(table.ipc_export(cpu.device, &shared)) == "ipc_export: address 0x5000+0 is no allocation's first");
  CHECK(table.ipc_import(cpu.device, &shared) == UNIFY_OK);
  CHECK(table.ipc_close(cpu.device, &shared) == UNIFY_OK);
  CHECK(cpu.refusal(table.ipc_close(cpu.device, &shared)) == "ipc_close: what 0x9000+0 was not imported, or is closed");
  CHECK(cpu.refusal(table.peer_access(cpu.device, cpu.device, 0, nullptr)) == "peer_access: out_can is null");
}

void test_ranges_may_go_over_several_commits() {
  const Opened cpu({add_validation});
  const unify_backend& table = cpu.table;
  unify_device_info info{};
  info.struct_size = sizeof info;
  CHECK(table.device_info(cpu.device, &info) == UNIFY_OK);
  const size_t granule = info.virtual_granularity;
  unify_address address = 0;
  CHECK(table.virtual_reserve(cpu.device, 4 * granule, &address) == UNIFY_OK);
  for (const size_t part : {0, 1, 3}) {
    CHECK(table.virtual_commit(cpu.device, address + part * granule, granule) == UNIFY_OK);
  }
  const unify_stream stream = cpu.stream();
  CHECK(cpu.fill(stream, address + 1, 2 * granule - 1) == UNIFY_OK);
  CHECK(cpu.is_refused(cpu.fill(stream, address + 1, 2 * granule), {"fill: dst", "goes beyond its allocation"}));
  CHECK(cpu.is_refused(cpu.fill(stream, address + 2 * granule - 1, 2 * granule), {"goes beyond its allocation"}));
  CHECK(table.stream_synchronize(stream) == UNIFY_OK);
  for (const size_t part : {0, 1, 3}) {
    CHECK(table.virtual_decommit(cpu.device, address + part * granule, granule) == UNIFY_OK);
  }
  CHECK(table.virtual_release(cpu.device, address, 4 * granule) == UNIFY_OK);
}

void test_nothing_is_written_through_a_null_pointer() {
  const Opened cpu({add_missing, add_validation});
  const unify_backend& table = cpu.table;
  const unify_stream stream = cpu.stream();
  const auto device_args = sized<unify_device_open_args>();
  const auto allocate = sized<unify_allocate_args>();
  auto event_args = sized<unify_event_args>();
  auto stream_args = sized<unify_stream_args>();
  unify_address address = 0;
  unify_event event = nullptr;
  uint64_t bytes = 0;
  auto kind = allocate;
  kind.bytes = 1;
  kind.kind = static_cast<unify_memory_kind>(3);
#define REFUSED(call, text) CHECK(cpu.refusal(call) == (text))
  REFUSED(table.device_count(nullptr), "device_count: out_count is null");
  REFUSED(table.device_open(nullptr, nullptr), "device_open: its arguments are null");
  REFUSED(table.device_open(&device_args, nullptr), "device_open: out_device is null");
  REFUSED(table.device_info(cpu.device, nullptr), "device_info: its arguments are null");
  REFUSED(table.device_status(cpu.device, nullptr), "device_status: out_state is null");
  REFUSED(table.device_set_option(cpu.device, nullptr, "1"), "device_set_option: key is null");
  REFUSED(table.device_set_option(cpu.device, "threads", nullptr), "device_set_option: value is null");
  REFUSED(table.memory_allocate(cpu.device, &allocate, nullptr), "memory_allocate: out_address is null");
  REFUSED(table.memory_allocate(cpu.device, &allocate, &address), "memory_allocate: 0 bytes");
  REFUSED(table.memory_allocate(cpu.device, &kind, &address), "memory_allocate: no kind 3; known are 0 to 2");
  REFUSED(table.memory_info(cpu.device, nullptr, &bytes), "memory_info: out_free_bytes is null");
  REFUSED(table.memory_info(cpu.device, &bytes, nullptr), "memory_info: out_total_bytes is null");
  REFUSED(table.copy(stream, nullptr), "copy: its arguments are null");
  REFUSED(table.copy_rows(stream, nullptr), "copy_rows: its arguments are null");
  REFUSED(table.fill(stream, nullptr), "fill: its arguments are null");
  REFUSED(table.host_call(stream, nullptr, nullptr), "host_call: no function");
  REFUSED(table.stream_create(cpu.device, &stream_args, nullptr), "stream_create: out_stream is null");
  REFUSED(table.event_create(cpu.device, nullptr, &event), "event_create: its arguments are null");
  REFUSED(table.event_create(cpu.device, &event_args, nullptr), "event_create: out_event is null");
  event_args.flags = 9;
  REFUSED(table.event_create(cpu.device, &event_args, &event), "event_create: flags 9; known are the bits of 3");
  REFUSED(table.event_elapsed(cpu.event(), cpu.event(), nullptr), "event_elapsed: out_nanoseconds is null");
  int64_t nanoseconds = 0;
  REFUSED(table.event_elapsed(cpu.event(), cpu.event(), &nanoseconds),
          "event_elapsed: an event was made without UNIFY_EVENT_TIMING");
  REFUSED(table.module_load(cpu.device, nullptr, nullptr), "module_load: its arguments are null");
#undef REFUSED
}

void test_a_module_outlives_its_launches_and_a_device_all_it_made() {
  const Opened cpu({add_missing, add_validation});
  const unify_backend& table = cpu.table;
  const unify_stream stream = cpu.stream();
  auto image = sized<unify_module_args>();
  image.image = "image";
  image.bytes = 5;
  auto named = sized<unify_function_args>();
  named.name = "kernel";
  unify_module module = nullptr;
  unify_function function = nullptr;
  CHECK(table.module_load(cpu.device, &image, &module) == UNIFY_OK);
  CHECK(table.function_get(module, &named, &function) == UNIFY_OK);
  std::atomic<bool> is_open{false};
  const auto hold = [](void* user) {
    while (!*static_cast<std::atomic<bool>*>(user)) std::this_thread::yield();
  };
  CHECK(table.host_call(stream, hold, &is_open) == UNIFY_OK);
  auto launch = sized<unify_launch_args>();
  launch.grid[0] = launch.grid[1] = launch.grid[2] = launch.threads = 1;
  CHECK(table.launch(stream, function, &launch) == UNIFY_OK);
  CHECK(cpu.refusal(table.module_unload(module)) ==
        "module_unload: a function of it is still running: nobody waited for its launch");
  is_open = true;
  CHECK(table.stream_synchronize(stream) == UNIFY_OK);
  {
    const Losing losing;
    (void)cpu.memory(100);
    (void)cpu.event();
  }
  CHECK(table.stream_destroy(stream) == UNIFY_OK);  // the CPU backend waits for it
  CHECK(said_by([&] { table.device_close(cpu.device); }) ==
        "unify validate: cpu: device_close: not destroyed before: 1 event, 1 module, 1 allocation (100 "
        "bytes)\n");
  CHECK(has(said_by([&] { table.device_close(cpu.device); }), "device_close took it"));
}

}  // namespace unify
