// The rules of the ABI as code: a method for each function of the table, which refuses or passes on.
#pragma once

#include "../error.h"
#include "handed_out.h"

namespace unify::layers {

class Validation : public HandedOut {
 public:
  explicit Validation(const unify_backend& table) : HandedOut(table) {}

  template <size_t Slot>
  static void install(unify_backend& table);

  unify_status device_count(uint32_t* out_count);
  unify_status device_open(const unify_device_open_args* args, unify_device* out_device);
  void device_close(unify_device device);
  unify_status device_info(unify_device device, unify_device_info* out_info);
  unify_status device_status(unify_device device, unify_device_state* out_state);
  unify_status device_set_option(unify_device device, const char* key, const char* value);
  unify_status device_reset(unify_device device);
  unify_status device_synchronize(unify_device device);

  unify_status memory_allocate(unify_device device, const unify_allocate_args* args, unify_address* out_address);
  unify_status memory_free(unify_device device, unify_memory_kind kind, unify_address address);
  unify_status memory_info(unify_device device, uint64_t* out_free_bytes, uint64_t* out_total_bytes);
  unify_status virtual_reserve(unify_device device, size_t bytes, unify_address* out_address);
  unify_status virtual_commit(unify_device device, unify_address address, size_t bytes);
  unify_status virtual_decommit(unify_device device, unify_address address, size_t bytes);
  unify_status virtual_release(unify_device device, unify_address address, size_t bytes);

  unify_status copy(unify_stream stream, const unify_copy_args* args);
  unify_status copy_rows(unify_stream stream, const unify_copy_rows_args* args);
  unify_status fill(unify_stream stream, const unify_fill_args* args);
  unify_status launch(unify_stream stream, unify_function function, const unify_launch_args* args);
  unify_status host_call(unify_stream stream, unify_host_function function, void* user);
  unify_status stream_wait_event(unify_stream stream, unify_event event);
  unify_status event_record(unify_event event, unify_stream stream);

  unify_status stream_create(unify_device device, unify_stream_args* args, unify_stream* out_stream);
  unify_status stream_destroy(unify_stream stream);
  unify_status stream_synchronize(unify_stream stream);
  unify_status stream_query(unify_stream stream);
  unify_status event_create(unify_device device, const unify_event_args* args, unify_event* out_event);
  unify_status event_destroy(unify_event event);
  unify_status event_synchronize(unify_event event);
  unify_status event_query(unify_event event);
  unify_status event_elapsed(unify_event start, unify_event stop, int64_t* out_nanoseconds);

  unify_status module_load(unify_device device, const unify_module_args* args, unify_module* out_module);
  unify_status module_unload(unify_module module);
  unify_status function_get(unify_module module, unify_function_args* args, unify_function* out_function);
  unify_status capture_begin(unify_stream stream);
  unify_status capture_end(unify_stream stream, unify_graph* out_graph);
  unify_status graph_launch(unify_graph graph, unify_stream stream);
  unify_status graph_destroy(unify_graph graph);
  unify_status capture_update(unify_stream stream, unify_graph graph, unify_graph* out_graph);
  unify_status capture_keep(unify_stream stream, unify_host_function release, void* user);
  template <typename End>
  unify_status end_capture(const char* call, unify_stream stream, unify_graph* out_graph, End end);

  unify_status peer_access(unify_device device, unify_device peer, uint32_t enable, uint32_t* out_can);
  unify_status ipc_export(unify_device device, unify_ipc_args* args);
  unify_status ipc_import(unify_device device, unify_ipc_args* args);
  unify_status ipc_close(unify_device device, const unify_ipc_args* args);

 private:
  // Waiting for a stream or an event, or asking it.
  template <typename Handle>
  unify_status passing(const char* function, Handle handle, unify_status (*call)(Handle)) {
    unify_stream stream = nullptr;
    uint64_t count = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!is_live(function, handle)) return UNIFY_INVALID_ARGUMENT;
      const Live& live = live_.at(handle);
      if (live.recording != 0) {
        const bool is_stream = std::is_same_v<Handle, unify_stream>;
        return refuse(std::string(function) + (is_stream ? ": the stream records a graph"
                                                         : ": the event is part of a graph and marks nothing outside"));
      }
      if constexpr (std::is_same_v<Handle, unify_stream>) {
        stream = handle;
        count = live.enqueued;
      } else {
        stream = live.stream;
        count = live.mark;
      }
    }
    const unify_status status = call(handle);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status != UNIFY_NOT_READY && status != UNIFY_UNSUPPORTED) pass(stream, count);  // neither says that it is done
    return status;
  }
  static uint64_t shared_thing(const unify_ipc_args& args);
  void imported(unify_device device, const unify_ipc_args& args);
  bool is_granular(const char* function, unify_device device, unify_address address, size_t bytes);
  // With the lock.
  bool has_committed(unify_address address, size_t bytes);
};

}  // namespace unify::layers
