// The layers that watch and that fail on demand, around the CPU backend's table: called as the core would call it.
#include <unify/backend.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "check.h"
#include "core/device.h"
#include "core/layers/layer.h"
#include "core/leaks.h"
#include "core/registry.h"
#include "core/stream.h"
#include "core/tensor.h"
#include "core/trace_file.h"
#include "opened.h"

namespace unify {

void test_faults_come_when_they_are_asked_for() {
  const Opened cpu({add_faults});
  const unify_backend& table = cpu.table;
  const auto plan = [&](const char* what) { return table.device_set_option(cpu.device, "fail", what); };
  unify_stream stream = cpu.stream();
  unify_address memory = cpu.memory(64);
  CHECK(cpu.is_refused(plan("copy:0"), {"from 1"}));
  CHECK(cpu.is_refused(plan("copy:1:no_such"), {"out_of_memory"}));
  CHECK(table.device_set_option(cpu.device, "threads", "1") == UNIFY_OK);  // others pass

  // The third one only, once, and no state stays.
  CHECK(plan("fill:3:timeout") == UNIFY_OK);
  const std::vector<unify_status> expected = {UNIFY_OK, UNIFY_OK, UNIFY_TIMEOUT, UNIFY_OK};
  for (const unify_status status : expected) CHECK(cpu.fill(stream, memory, 64) == status);

  CHECK(plan("query") == UNIFY_OK);
  CHECK(cpu.fill(stream, memory, 64) == UNIFY_OK);
  CHECK(table.stream_query(stream) == UNIFY_KERNEL_FAULT);  // and the device is faulted from now on
  CHECK(cpu.fill(stream, memory, 64) == UNIFY_KERNEL_FAULT);
  unify_device_state state = UNIFY_DEVICE_HEALTHY;
  CHECK(table.device_status(cpu.device, &state) == UNIFY_OK && state == UNIFY_DEVICE_FAULTED);

  CHECK(table.device_reset(cpu.device) == UNIFY_OK);  // which the backend itself cannot
  CHECK(table.device_status(cpu.device, &state) == UNIFY_OK && state == UNIFY_DEVICE_HEALTHY);
  stream = cpu.stream();
  memory = cpu.memory(64);
  CHECK(cpu.copy(stream, memory, memory + 32, 32) == UNIFY_OK);
  CHECK(plan("lost") == UNIFY_OK);
  CHECK(table.stream_synchronize(stream) == UNIFY_DEVICE_LOST);
  CHECK(table.device_reset(cpu.device) == UNIFY_OK);

  CHECK(plan("copy:1:internal") == UNIFY_OK);
  CHECK(cpu.copy(cpu.stream(), cpu.memory(8), cpu.memory(8), 8) == UNIFY_INTERNAL);
  unify_error error{};
  error.struct_size = sizeof error;
  table.last_error(&error);
  CHECK(error.status == UNIFY_INTERNAL && error.operation == 7 && error.native_name != nullptr);
  CHECK(table.device_reset(cpu.device) == UNIFY_OK);
}

// Functions that the CPU backend has not, so that their failure can be asked for.
void test_every_function_that_was_appended_fails_on_demand() {
  const Opened cpu({[](unify_backend& table) {
                      table.copy_rows = [](unify_stream, const unify_copy_rows_args*) { return UNIFY_OK; };
                      table.capture_update = [](unify_stream, unify_graph, unify_graph*) { return UNIFY_OK; };
                      table.capture_keep = [](unify_stream, unify_host_function, void*) { return UNIFY_OK; };
                    },
                    add_faults});
  const auto plan = [&](const char* what) { return cpu.table.device_set_option(cpu.device, "fail", what); };
  unify_copy_rows_args rows{};
  rows.struct_size = sizeof rows;
  const unify_stream stream = cpu.stream();
  CHECK(plan("copy_rows:2:timeout") == UNIFY_OK);
  CHECK(cpu.table.copy_rows(stream, &rows) == UNIFY_OK);
  CHECK(cpu.table.copy_rows(stream, &rows) == UNIFY_TIMEOUT);
  CHECK(cpu.table.copy_rows(stream, &rows) == UNIFY_OK);
  CHECK(plan("capture_keep:1:out_of_memory") == UNIFY_OK);
  CHECK(cpu.table.capture_keep(stream, nullptr, nullptr) == UNIFY_OUT_OF_MEMORY);
  CHECK(cpu.table.capture_keep(stream, nullptr, nullptr) == UNIFY_OK);
  CHECK(plan("copy:1:timeout") == UNIFY_OK);  // a word of its name
  CHECK(cpu.table.copy_rows(stream, &rows) == UNIFY_TIMEOUT);
}

void test_what_a_device_still_had_is_said_at_its_close() {
  const Opened cpu({add_leaks});
  const unify_stream stream = cpu.stream();
  const unify_address memory = cpu.memory(1024);
  {
    const Losing losing;
    (void)cpu.event();
    (void)cpu.memory(3072);
  }
  CHECK(cpu.table.memory_free(cpu.device, UNIFY_MEMORY_DEVICE, memory) == UNIFY_OK);
  CHECK(cpu.table.stream_destroy(stream) == UNIFY_OK);
  std::fflush(stderr);
  const std::string said = said_by([&] { cpu.table.device_close(cpu.device); });
  CHECK(said == "unify leaks: cpu: not destroyed at its close: 1 event, 1 allocation (3.0 KiB)\n");
  const Opened tidy({add_leaks});
  CHECK(tidy.table.stream_destroy(tidy.stream()) == UNIFY_OK);
  CHECK(said_by([&] { tidy.table.device_close(tidy.device); }).empty());
}

void test_a_graph_that_an_update_made_is_counted() {
  static unify_graph next = nullptr;
  const Opened cpu({[](unify_backend& table) {
                      table.capture_update = [](unify_stream, unify_graph, unify_graph* out_graph) {
                        *out_graph = next;
                        return UNIFY_OK;
                      };
                    },
                    add_leaks});
  static char places[2];
  const auto old = reinterpret_cast<unify_graph>(&places[0]);
  const unify_stream stream = cpu.stream();
  unify_graph made = nullptr;
  CHECK(cpu.table.capture_update(stream, old, &made) == UNIFY_OK);  // the old one was changed
  next = reinterpret_cast<unify_graph>(&places[1]);
  CHECK(cpu.table.capture_update(stream, old, &made) == UNIFY_OK);
  CHECK(cpu.table.stream_destroy(stream) == UNIFY_OK);
  const std::string said = said_by([&] { cpu.table.device_close(cpu.device); });
  CHECK(said == "unify leaks: cpu: not destroyed at its close: 1 graph\n");
}

// The hook takes the interpreter's lock, and a device makes its default stream under one of its own.
void test_a_default_stream_does_not_ask_for_its_line() {
  static int asked = 0;
  leaks::set_caller_hook([]() -> const char* {
    ++asked;
    return nullptr;
  });
  leaks::start();
  const std::shared_ptr<Device> device = Registry::instance().device("cpu");
  (void)Stream::create(device, 0, nullptr, true);
  CHECK(asked == 0);
  (void)Stream::create(device);
  CHECK(asked == 1);
  leaks::is_on = false;
  leaks::set_caller_hook(nullptr);
}

void test_what_is_held_is_listed_by_line_the_largest_first() {
  static const char* line = nullptr;
  leaks::set_caller_hook([] { return line; });
  leaks::start();
  const std::shared_ptr<Device> device = Registry::instance().device("cpu");
  line = "a.py:1 in f";
  std::vector<Tensor> small;
  for (int i = 0; i < 2; ++i) small.push_back(empty(*device->default_stream(), {1024}, DType::kFloat32));
  std::shared_ptr<Stream> stream = Stream::create(device);
  line = "b.py:2 in g";
  Tensor large = empty(*stream, {1 << 20}, DType::kUInt8);
  line = nullptr;
  std::shared_ptr<Event> event = Event::create(device, false);
  CHECK(leaks::report() ==
        "unify leaks: held to the end: 1.0 MiB in 3 tensors, 1 stream, 1 event\n"
        "  1.0 MiB in 1 tensor on cpu, made at b.py:2 in g\n"
        "  8.0 KiB in 2 tensors, 1 stream on cpu, made at a.py:1 in f\n"
        "  1 event on cpu, made at no line of Python\n");
  leaks::begin_collection();
  large.storage.reset();
  leaks::end_collection();
  small.clear();
  stream.reset();
  event.reset();
  CHECK(leaks::report() ==
        "unify leaks: held by reference cycles until the garbage collector ran: 1.0 MiB in 1 tensor\n"
        "  1.0 MiB in 1 tensor on cpu, made at b.py:2 in g\n");
  leaks::is_on = false;
}

// After each piece that is written the file is whole.
void test_a_trace_has_calls_and_what_ran(const std::string& folder) {
  const std::string path = folder + "/layer-trace.json";
  const auto content = [&] {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  };
  TraceFile::set_path(path);
  const Opened cpu({add_trace});
  CHECK(has(content(), "\"otherData\":{\"dropped\":\"0\"}}\n"));
  const unify_stream stream = cpu.stream();
  const unify_address memory = cpu.memory(1 << 16);
  for (int i = 0; i < 3; ++i) CHECK(cpu.fill(stream, memory, 1 << 16) == UNIFY_OK);
  CHECK(cpu.table.device_set_option(cpu.device, "nonsense", "1") == UNIFY_INVALID_ARGUMENT);
  unify_error error{};
  error.struct_size = sizeof error;
  cpu.table.last_error(&error);
  CHECK(error.message != nullptr && has(error.message, "nonsense"));  // the layer has called nothing since
  CHECK(cpu.table.stream_synchronize(stream) == UNIFY_OK);
  CHECK(cpu.table.stream_destroy(stream) == UNIFY_OK);
  CHECK(cpu.table.memory_free(cpu.device, UNIFY_MEMORY_DEVICE, memory) == UNIFY_OK);
  cpu.table.device_close(cpu.device);
  TraceFile::current()->flush();
  const std::string trace = content();
  for (const char* part : {"\"name\":\"fill\",\"cat\":\"device\"", "\"gb_s\":", "\"status\":\"INVALID_ARGUMENT\"",
                           "\"name\":\"stream_synchronize\",\"cat\":\"cpu\"", "\"name\":\"device_close\""}) {
    CHECK(has(trace, part));
  }
  CHECK(trace.substr(trace.size() - 2) == "}\n");
}

}  // namespace unify
