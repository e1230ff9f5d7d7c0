// Which stream a call works on that takes other libraries' arrays on a device.
//
// Those libraries have current streams of their own (torch.cuda.current_stream). A call whose caller named no stream
// works on that of its first such array. The current streams of the other arrays' libraries, and ours where a tensor
// of ours takes part, come before the work, and go on after it: each by an event, none where they are the same.
//
// Where that library works on CUDA's per-thread stream, the work goes to our current stream instead.
//
// A caller names a stream by `stream=` or `with stream:`. The work is there then, after what the libraries' streams
// hold; what comes after it is the caller's to order. The libraries are told that their memory is in use there.
#pragma once

#include <Python.h>

#include <memory>
#include <vector>

#include "convert.h"

struct DLPackExchangeAPI;

namespace unify::python {

class CallStream {
 public:
  // named: the call's argument `stream`; null or None: none.
  explicit CallStream(PyObject* named = nullptr) : named_(named) {}
  // As above, of a copy: a stream of another device than the array's is no name for where the array is used.
  static CallStream of_copy(PyObject* named) {
    CallStream call(named);
    call.is_copy_ = true;
    return call;
  }
  // On this one whatever comes, as if it was named.
  explicit CallStream(std::shared_ptr<Stream> stream) : stream_(std::move(stream)), is_named_(true) {}

  // An array of another library on `device` takes part. table: its type's, or null. True when its library's stream is
  // known and seen to; else the caller has the array made ready for stream_of(device).
  bool take(PyObject* array, const DLPackExchangeAPI* table, Device& device);
  // What the call works on by what is known so far.
  std::shared_ptr<Stream> stream_of(Device& device);
  // Memory whose work so far is on `stream` takes part: a foreign one that its array names.
  void take_work_of(Device& device, uintptr_t native);
  // Whether anything was taken: else the call works on the current stream, and there is nothing to do.
  [[nodiscard]] bool is_used() const noexcept { return device_ != nullptr; }

  // Everything was taken. uses_ours: tensors of ours too. Returns the stream of the work.
  std::shared_ptr<Stream> begin(bool uses_ours);
  // The work was enqueued.
  void end();
  // The work made a tensor of ours, or takes an array over as one: our current stream comes after it.
  void end_for_ours();

 private:
  void decide(Device& device, const std::shared_ptr<Stream>& librarys);
  void add(std::shared_ptr<Stream> other);
  void add(std::shared_ptr<Stream> other, Stream& on);
  PyObject* named_ = nullptr;
  Device* device_ = nullptr;
  std::shared_ptr<Stream> stream_;  // null: not decided
  bool is_copy_ = false;
  bool is_named_ = false;
  bool uses_ours_ = false;
  std::vector<std::shared_ptr<Stream>> others_;  // that come before the work
};

// The current stream of the thread, for a scope: where the call's helpers work too.
class CurrentStream {
 public:
  explicit CurrentStream(const std::shared_ptr<Stream>& stream)
      : device_(stream->device()), replaced_(device_.set_current_stream(stream)) {}
  ~CurrentStream() { device_.set_current_stream(std::move(replaced_)); }
  CurrentStream(const CurrentStream&) = delete;
  CurrentStream& operator=(const CurrentStream&) = delete;

 private:
  Device& device_;
  std::shared_ptr<Stream> replaced_;
};

// call_on_stream_of_arrays(function, args, kwargs), for ops.
PyMethodDef* call_stream_functions();

}  // namespace unify::python
