// Kernels and graphs of the Ascend backend over the stub: see backend.cpp.
#include <elf.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "backend.h"

namespace {

struct ImageHeader {
  char magic[8] = {'U', 'N', 'I', 'F', 'Y', 'A', 'S', 'C'};
  uint32_t version = 1;
  uint32_t header_bytes = 64;
  uint32_t kind = 0;
  uint32_t mode = 2;
  uint64_t payload_bytes = 0;
  uint64_t lock_count = 0;
  int64_t lock_init = 0;
  uint32_t grid_offset = 32;
  uint32_t logical_grid_offset = 0;
  uint32_t blocks = 0;
  char chip[4] = {};
};
static_assert(sizeof(ImageHeader) == 64);

std::vector<char> elf() {
  std::vector<char> object(sizeof(Elf64_Ehdr) + sizeof(Elf64_Shdr));
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_shoff = sizeof header;
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = 1;
  std::memcpy(object.data(), &header, sizeof header);
  return object;
}

std::vector<char> image(ImageHeader header) {
  const std::vector<char> object = elf();
  header.payload_bytes = object.size();
  std::vector<char> whole(sizeof header);
  std::memcpy(whole.data(), &header, sizeof header);
  whole.insert(whole.end(), object.begin(), object.end());
  return whole;
}

unify_status load(unify_device device, const std::vector<char>& bytes, unify_module* out) {
  const unify_module_args args{sizeof args, nullptr, bytes.data(), bytes.size(), nullptr};
  return table->module_load(device, &args, out);
}

unify_function function_of(unify_device device, const std::vector<char>& bytes) {
  unify_module module = nullptr;
  CHECK(load(device, bytes, &module) == UNIFY_OK);
  unify_function_args args{};
  args.struct_size = sizeof args;
  args.name = "kernel";
  unify_function function = nullptr;
  CHECK(table->function_get(module, &args, &function) == UNIFY_OK && args.max_threads == 1);
  return function;
}

unify_status launch(unify_stream stream, unify_function function, std::vector<uint32_t> grid, const std::string& bytes,
                    uint64_t shared_bytes = 0) {
  unify_launch_args args{};
  args.struct_size = sizeof args;
  std::copy(grid.begin(), grid.end(), args.grid);
  args.threads = 1;
  args.shared_bytes = shared_bytes;
  args.args = bytes.data();
  args.args_bytes = bytes.size();
  args.operation = 1;
  return table->launch(stream, function, &args);
}

template <typename T>
T argument(size_t offset) {
  T value;
  std::memcpy(&value, symbol<const char*()>("stub_arguments")() + offset, sizeof value);
  return value;
}
bool grid_is(size_t offset, int32_t x, int32_t y, int32_t z) {
  return argument<int32_t>(offset) == x && argument<int32_t>(offset + 4) == y && argument<int32_t>(offset + 8) == z;
}

TEST(the_block_of_arguments_is_the_vendors) {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  const unify_function function = function_of(device, image({}));
  CHECK(get("magic") == 0x43554245);
  std::string arguments(44, '\0');
  std::memcpy(&arguments[16], "workspac", 8);  // by the core
  std::memcpy(&arguments[24], "user's 8", 8);
  CHECK(launch(stream, function, {4, 3, 2}, arguments, 4096) == UNIFY_OK);
  CHECK(get("blocks") == 24 && get("scratch") == 4096);
  CHECK(argument<uint64_t>(0) == 0xff7500 && argument<uint64_t>(8) == 0);
  CHECK(std::memcmp(symbol<const char*()>("stub_arguments")() + 16, "workspacuser's 8", 16) == 0);
  CHECK(grid_is(32, 4, 3, 2));
  CHECK(arguments.substr(32) == std::string(12, '\0'));  // the caller's are as they were
  CHECK(launch(stream, function, {65535, 1, 1}, arguments) == UNIFY_OK && get("blocks") == 65535);
  CHECK(launch(stream, function, {256, 256, 1}, arguments) == UNIFY_INVALID_ARGUMENT &&
        has(message(), "65536 programs") && has(message(), "loops over its grid"));
  CHECK(launch(stream, function, {1 << 20, 1 << 20, 4}, arguments) == UNIFY_INVALID_ARGUMENT &&
        has(message(), "1048576 x 1048576 x 4 is 4398046511104 programs"));
  CHECK(launch(stream, function, {0x7fffffff, 0x7fffffff, 0x7fffffff}, arguments) == UNIFY_INVALID_ARGUMENT);
  CHECK(launch(stream, function, {1, 1, 1}, arguments.substr(0, 40)) == UNIFY_INVALID_ARGUMENT);
  CHECK(launch(stream, function, {1, 1, 1}, arguments, 1 << 20) == UNIFY_INVALID_ARGUMENT);
  std::string large(4096, 'x');
  CHECK(launch(stream, function, {1, 1, 1}, large) == UNIFY_OK && grid_is(32, 1, 1, 1) && argument<char>(4000) == 'x');
}

TEST(a_kernel_that_loops_over_its_grid_starts_a_block_for_each_core) {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  ImageHeader header;
  header.mode = 0;
  header.logical_grid_offset = 32;
  header.grid_offset = 44;
  const unify_function vectors = function_of(device, image(header));
  CHECK(get("magic") == 0x41415246);
  const std::string arguments(56, '\0');
  CHECK(launch(stream, vectors, {100000, 7, 1}, arguments) == UNIFY_OK);
  CHECK(get("blocks") == 40 && grid_is(32, 100000, 7, 1) && grid_is(44, 40, 1, 1));
  CHECK(launch(stream, vectors, {5, 1, 2}, arguments) == UNIFY_OK && get("blocks") == 10 && grid_is(44, 10, 1, 1));
  CHECK(launch(stream, vectors, {1 << 16, 1 << 15, 1}, arguments) == UNIFY_INVALID_ARGUMENT);
  CHECK(has(message(), "2147483648 programs; this kernel loops over 2147418112 at most") &&
        !has(message(), "or a kernel that loops"));
  header.mode = 1;
  const unify_function cubes = function_of(device, image(header));
  CHECK(get("magic") == 0x43554245);
  CHECK(launch(stream, cubes, {1000, 1, 1}, arguments) == UNIFY_OK && get("blocks") == 20);
}

TEST(a_lock_is_set_anew_before_each_launch) {
  const unify_device device = open_device();
  ImageHeader header;
  header.lock_count = 3;
  header.lock_init = -5;
  unify_module module = nullptr;
  const std::vector<char> bytes = image(header);
  CHECK(load(device, bytes, &module) == UNIFY_OK);
  const unify_function function = function_of(device, bytes);
  const unify_stream one = make_stream(device);
  const std::string arguments(44, '\0');
  CHECK(launch(one, function, {2, 1, 1}, arguments) == UNIFY_OK);
  auto* lock = argument<int64_t*>(8);
  CHECK(lock[0] == -5 && lock[2] == -5);
  lock[1] = 12;
  CHECK(launch(one, function, {2, 1, 1}, arguments) == UNIFY_OK);
  CHECK(argument<int64_t*>(8) == lock && lock[1] == -5);
  CHECK(launch(make_stream(device), function, {2, 1, 1}, arguments) == UNIFY_OK && argument<int64_t*>(8) != lock);
  const long before = get("device_memory");
  unify_graph graph = nullptr;
  CHECK(table->capture_begin(one) == UNIFY_OK);
  CHECK(launch(one, function, {2, 1, 1}, arguments) == UNIFY_OK && argument<int64_t*>(8) != lock);
  auto* first = argument<int64_t*>(8);
  CHECK(launch(one, function, {2, 1, 1}, arguments) == UNIFY_OK && argument<int64_t*>(8) != first);
  CHECK(table->capture_end(one, &graph) == UNIFY_OK && get("device_memory") == before + 2);
  first[0] = 1;
  CHECK(table->graph_launch(graph, one) == UNIFY_OK && first[0] == -5);
  CHECK(table->graph_destroy(graph) == UNIFY_OK && get("device_memory") == before);
  CHECK(table->module_unload(module) == UNIFY_OK && get("device_memory") == before - 1);
}

TEST(locks_end_with_their_stream) {
  const unify_device device = open_device();
  ImageHeader header;
  header.lock_count = 3;
  const unify_function small = function_of(device, image(header));
  header.lock_count = 300;
  const unify_function large = function_of(device, image(header));
  const std::string arguments(44, '\0');
  const long before = get("device_memory");
  for (int i = 0; i < 3; ++i) {
    const unify_stream stream = make_stream(device);
    CHECK(launch(stream, small, {1, 1, 1}, arguments) == UNIFY_OK);
    CHECK(launch(stream, large, {1, 1, 1}, arguments) == UNIFY_OK && get("device_memory") == before + 2);
    CHECK(table->stream_destroy(stream) == UNIFY_OK && get("device_memory") == before);
  }
  // Another library's stream still runs when it is let go: nobody waits for it.
  void* native = nullptr;
  symbol<aclError(int32_t)>("aclrtSetDevice")(0);
  CHECK(symbol<aclError(void**, uint32_t, uint32_t)>("aclrtCreateStreamWithConfig")(&native, 0, 0) == ACL_SUCCESS);
  set("held", 1);
  const unify_stream wrapper = make_stream(device, 0, native);
  CHECK(launch(wrapper, small, {1, 1, 1}, arguments) == UNIFY_OK);
  CHECK(table->stream_destroy(wrapper) == UNIFY_OK && get("device_memory") == before + 1);
  set("held", 0);
  CHECK(symbol<aclError(void*)>("aclrtSynchronizeStream")(native) == ACL_SUCCESS);
  const unify_stream stream = make_stream(device);
  CHECK(launch(stream, small, {1, 1, 1}, arguments) == UNIFY_OK && get("device_memory") == before + 1);
  CHECK(table->stream_destroy(stream) == UNIFY_OK && get("device_memory") == before);
}

TEST(a_plain_object_gets_its_arguments_as_they_are) {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  const unify_function function = function_of(device, elf());
  CHECK(launch(stream, function, {2, 3, 1}, "12345678") == UNIFY_OK);
  CHECK(get("blocks") == 6 && get("scratch") == 0 &&
        std::string(symbol<const char*()>("stub_arguments")()) == "12345678");
  CHECK(launch(stream, function, {1, 1, 1}, "") == UNIFY_OK);
}

TEST(damaged_and_foreign_images_are_refused_with_the_reason) {
  const unify_device device = open_device();
  const auto why = [&](const std::vector<char>& bytes, unify_status status = UNIFY_INVALID_ARGUMENT) {
    unify_module module = nullptr;
    CHECK(load(device, bytes, &module) == status);
    return message();
  };
  ImageHeader header;
  header.kind = 1;
  CHECK(has(why(image(header), UNIFY_UNSUPPORTED), "hivmc"));
  header = {};
  header.version = 2;
  CHECK(has(why(image(header)), "version 2"));
  header = {};
  header.mode = 3;
  CHECK(has(why(image(header)), "unknown kind"));
  for (const uint32_t offset : {8u, 33u}) {
    header = {};
    header.grid_offset = offset;
    CHECK(has(why(image(header)), "laid out"));
  }
  for (const uint32_t offset : {32u, 0xFFFFFFF8u}) {
    header = {};
    header.logical_grid_offset = offset;
    CHECK(has(why(image(header)), "laid out"));
  }
  header = {};
  std::memcpy(header.chip, "950", 3);
  CHECK(has(why(image(header)), "for chips of the 950's kind, and this is Ascend910B3"));
  for (const char* chip : {"910B", "910C"}) {  // with the same cores
    header = {};
    std::memcpy(header.chip, chip, 4);
    unify_module module = nullptr;
    CHECK(load(device, image(header), &module) == UNIFY_OK && table->module_unload(module) == UNIFY_OK);
  }
  header = {};
  header.lock_count = ~uint64_t{0};
  CHECK(has(why(image(header)), "locks"));
  const std::vector<char> whole = image({});
  for (size_t size = 1; size < whole.size(); ++size) {
    const std::vector<char> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK(!why(cut).empty());
  }
  std::vector<char> object = elf();
  Elf64_Shdr section{};
  section.sh_type = SHT_PROGBITS;
  section.sh_offset = ~uint64_t{7};
  section.sh_size = 16;
  std::memcpy(object.data() + sizeof(Elf64_Ehdr), &section, sizeof section);
  CHECK(has(why(object), "cut off"));
  Elf64_Ehdr segments{};
  object = elf();
  std::memcpy(&segments, object.data(), sizeof segments);
  segments.e_phnum = 1;
  segments.e_phentsize = sizeof(Elf64_Phdr);
  segments.e_phoff = object.size();
  std::memcpy(object.data(), &segments, sizeof segments);
  CHECK(has(why(object), "program headers are cut off"));
  CHECK(has(why({'x', 'y'}), "too short"));
  unify_module module = nullptr;
  CHECK(load(device, elf(), &module) == UNIFY_OK);
  unify_function_args args{};
  args.struct_size = sizeof args;
  args.name = "missing";
  unify_function function = nullptr;
  CHECK(table->function_get(module, &args, &function) == UNIFY_NOT_FOUND && has(message(), "no kernel 'missing'"));
  args.name = "kernel";
  args.shared_bytes = 1 << 20;
  CHECK(table->function_get(module, &args, &function) == UNIFY_INVALID_ARGUMENT);
  CHECK(table->module_unload(module) == UNIFY_OK && get("binaries") == 0);
}

TEST(a_graph_that_runs_is_given_up_without_waiting) {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  const unify_address memory = allocate(device, 64);
  unify_graph graph = nullptr;
  CHECK(table->capture_end(stream, &graph) == UNIFY_INVALID_ARGUMENT && graph == nullptr);
  CHECK(table->capture_begin(stream) == UNIFY_OK);
  CHECK(fill(stream, memory, 9, 1, 64) == UNIFY_OK);
  CHECK(table->device_synchronize(device) == UNIFY_OK);  // not the stream that records
  CHECK(table->capture_end(stream, &graph) == UNIFY_OK);
  set("held", 1);
  CHECK(table->graph_launch(graph, stream) == UNIFY_OK);
  CHECK(table->graph_destroy(graph) == UNIFY_OK);
  CHECK(get("graphs") == 1 && get("destroy_waits") == 0);
  set("held", 0);
  CHECK(*pointer<char>(memory) == 9);
  CHECK(table->device_synchronize(device) == UNIFY_OK && get("graphs") == 0 && get("events") == 0);
}

TEST(a_graph_that_runs_too_long_keeps_its_locks) {
  const unify_device device = open_device();
  ImageHeader header;
  header.lock_count = 1;
  const unify_function function = function_of(device, image(header));
  const unify_stream streams[] = {make_stream(device), make_stream(device)};
  const long before = get("device_memory");
  const auto record = [&] {
    unify_graph graph = nullptr;
    CHECK(table->capture_begin(streams[0]) == UNIFY_OK);
    CHECK(launch(streams[0], function, {2, 1, 1}, std::string(44, '\0')) == UNIFY_OK);
    CHECK(table->capture_end(streams[0], &graph) == UNIFY_OK && get("device_memory") == before + 1);
    return graph;
  };
  unify_graph graph = record();
  set("held:1", 1);  // the second stream alone
  for (const unify_stream stream : {streams[1], streams[0]}) CHECK(table->graph_launch(graph, stream) == UNIFY_OK);
  CHECK(table->graph_destroy(graph) == UNIFY_OK);
  CHECK(get("graphs") == 1 && get("destroy_waits") == 0 && get("device_memory") == before + 1);
  set("held:1", 0);
  CHECK(table->device_synchronize(device) == UNIFY_OK && get("graphs") == 0 && get("device_memory") == before);
  graph = record();
  set("fail:aclmdlRIDestroy", 107037);
  CHECK(table->graph_destroy(graph) == UNIFY_OK && get("device_memory") == before + 1);
}

TEST(nothing_is_left_when_a_device_is_closed) {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  ImageHeader header;
  header.lock_count = 1;
  unify_module module = nullptr;
  CHECK(load(device, image(header), &module) == UNIFY_OK);
  unify_function_args args{};
  args.struct_size = sizeof args;
  args.name = "kernel";
  unify_function function = nullptr;
  CHECK(table->function_get(module, &args, &function) == UNIFY_OK);
  set("held", 1);
  CHECK(launch(stream, function, {1, 1, 1}, std::string(44, '\0')) == UNIFY_OK);
  CHECK(table->stream_destroy(stream) == UNIFY_OK);
  set("held", 0);
  CHECK(table->module_unload(module) == UNIFY_OK);
  table->device_close(device);
  CHECK(get("device_memory") == 0 && get("streams") == 0 && get("events") == 0);
}

TEST(an_old_version_has_less) {
  CHECK(has(table->version, ", without aclsysGetVersionStr") && has(table->version, "aclmdlRICaptureBegin"));
  CHECK(table->capture_begin == nullptr && table->graph_launch == nullptr && table->virtual_reserve == nullptr);
  CHECK(table->ipc_export == nullptr && table->copy_rows == nullptr && table->host_call != nullptr);
  const unify_device device = open_device();
  unify_device_info info{};
  info.struct_size = sizeof info;
  CHECK(table->device_info(device, &info) == UNIFY_OK);
  CHECK(info.cores == 20 && info.priority_least == 0 && info.virtual_granularity == 0);
  unify_module module = nullptr;
  CHECK(load(device, elf(), &module) == UNIFY_UNSUPPORTED && has(message(), "aclrtLaunchKernelWithHostArgs"));
  const unify_event_args args{sizeof args, nullptr, UNIFY_EVENT_IPC};
  unify_event event = nullptr;
  CHECK(table->event_create(device, &args, &event) == UNIFY_UNSUPPORTED);
  unify_device_state state{};
  CHECK(table->device_status(device, &state) == UNIFY_OK && state == UNIFY_DEVICE_HEALTHY);
  set("late", 507015);
  CHECK(table->stream_synchronize(make_stream(device)) == UNIFY_KERNEL_FAULT);
  CHECK(table->device_reset(device) == UNIFY_OK);
}

}  // namespace
