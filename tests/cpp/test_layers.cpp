// The layers around the CPU backend's table, called as the core would call it, and as it never should.
#include <unify/backend.h>

#include <atomic>
#include <initializer_list>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "core/layers/layer.h"

extern "C" const unify_backend* unify_host_backend_get(unify_backend_get_args* args);

namespace unify {
namespace {

struct Opened {
  explicit Opened(void (*add_layer)(unify_backend&)) : table(*unify_host_backend_get(nullptr)) {
    add_layer(table);
    unify_device_open_args args{sizeof args, nullptr, 0, "threads=1"};
    CHECK(table.device_open(&args, &device) == UNIFY_OK);
  }
  unify_stream stream() const {
    unify_stream_args args{sizeof args, nullptr, 0, 0, nullptr};
    unify_stream made = nullptr;
    CHECK(table.stream_create(device, &args, &made) == UNIFY_OK);
    return made;
  }
  unify_event event() const {
    unify_event_args args{sizeof args, nullptr, 0};
    unify_event made = nullptr;
    CHECK(table.event_create(device, &args, &made) == UNIFY_OK);
    return made;
  }
  unify_address memory(size_t bytes) const {
    unify_allocate_args args{sizeof args, nullptr, UNIFY_MEMORY_DEVICE, bytes};
    unify_address made = 0;
    CHECK(table.memory_allocate(device, &args, &made) == UNIFY_OK);
    return made;
  }
  unify_status fill(unify_stream stream, unify_address dst, size_t count, uint32_t width = 1) const {
    unify_fill_args args{sizeof args, nullptr, dst, 0, width, count, 7};
    return table.fill(stream, &args);
  }
  unify_status copy(unify_stream stream, unify_address dst, unify_address src, size_t bytes) const {
    unify_copy_args args{sizeof args, nullptr, dst, src, device, device, bytes, 7};
    return table.copy(stream, &args);
  }
  // Whether `status` is a refusal whose text has all of `words`.
  bool is_refused(unify_status status, std::initializer_list<const char*> words) const {
    unify_error error{};
    error.struct_size = sizeof error;
    table.last_error(&error);
    if (status != UNIFY_INVALID_ARGUMENT || error.status != status || error.message == nullptr) return false;
    for (const char* word : words) {
      if (std::string(error.message).find(word) == std::string::npos) return false;
    }
    return true;
  }

  unify_backend table;
  unify_device device = nullptr;
};

}  // namespace

void test_validation_names_what_breaks_a_rule() {
  const Opened cpu(add_validation);
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

  const Opened other(add_validation);  // another table: its handles are none of the first one's
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
  CHECK(cpu.is_refused(table.event_destroy(event), {"event_destroy", "no event"}));
  CHECK(cpu.is_refused(table.event_query(event), {"event_query"}));
  CHECK(table.stream_destroy(stream) == UNIFY_OK);
  CHECK(cpu.is_refused(cpu.fill(stream, memory, 1), {"fill", "no stream"}));
}

void test_faults_come_when_they_are_asked_for() {
  const Opened cpu(add_faults);
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

}  // namespace unify
