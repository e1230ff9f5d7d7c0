// Work of operators, whose library is another one: unify/simulated_operator.h.
#include <unify/simulated_operator.h>

#include <cinttypes>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "calls.h"

using namespace unify::simulator;

namespace {

// Keeps what the library gave until the last graph or stream has let it go.
struct Operator {
  explicit Operator(const unify_simulated_operator& op)
      : run(op.run), release(op.release), data(op.data), memory(op.memory, op.memory + op.count) {}
  ~Operator() { release(data); }
  Operator(const Operator&) = delete;  // it owns the data
  Operator& operator=(const Operator&) = delete;

  int32_t (*run)(void* data, void* const* where, char* why, size_t why_bytes);
  void (*release)(void* data);
  void* data;
  std::vector<unify_simulated_memory> memory;
};

// Where the host reaches it: at the alias if that is of one piece, else at the device's own addresses, which are then
// to be opened. The pieces must live as long. False if the device may not use all of it.
bool reach(int device, const unify_simulated_memory& memory, std::vector<Piece>& pieces, void*& where, bool& opens) {
  where = nullptr;
  if (memory.bytes == 0) return true;
  const size_t first = pieces.size();
  if (!driver().memory.resolve(memory.address, memory.bytes, pieces)) return false;
  uint64_t address = memory.address;
  bool is_one = true;
  for (size_t i = first; i < pieces.size(); ++i) {
    if (!driver().memory.may_use(device, address)) return false;
    is_one = is_one && pieces[i].alias == pieces[first].alias + (address - memory.address);
    address += pieces[i].bytes;
  }
  where = is_one ? pieces[first].alias : reinterpret_cast<void*>(memory.address);
  opens = opens || !is_one;
  return true;
}

Result run(const Operator& self, const std::string& name, int device) {
  std::vector<Piece> pieces;
  std::vector<void*> where(self.memory.size());
  bool opens = false;
  {
    const Lock lock(driver().mutex);
    for (size_t i = 0; i < where.size(); ++i) {
      if (reach(device, self.memory[i], pieces, where[i], opens)) continue;
      char text[80];
      std::snprintf(text, sizeof text, " uses %" PRIu64 " bytes at %#" PRIx64 " that are not the device's.",
                    self.memory[i].bytes, self.memory[i].address);
      return refuse(ACL_ERROR_RT_AICORE_EXCEPTION, name + text);
    }
    if (opens) driver().memory.begin_kernel(device);
  }
  char why[1024] = "";
  const Result result = self.run(self.data, where.data(), why, sizeof why);
  const Lock lock(driver().mutex);
  if (opens) driver().memory.end_kernel(device);
  pieces.clear();
  return result == kSuccess ? kSuccess : refuse(result, name + ": " + why);
}

}  // namespace

UNIFY_SIMULATOR_EXPORT int32_t unify_simulator_operate(const unify_simulated_operator* op, void* stream_handle) {
  return with_work(op->name, stream_handle, [&, self = std::make_shared<Operator>(*op)](Call& call, Stream& stream) {
    Operation operation;
    operation.kind = OperationKind::kKernel;
    operation.name = op->name;
    for (const unify_simulated_memory& each : self->memory) operation.bytes += each.bytes;
    operation.run = [self, name = operation.name, device = stream.context->device->index](Stream&) {
      return run(*self, name, device);
    };
    return submit(call, stream, std::move(operation));
  });
}

UNIFY_SIMULATOR_EXPORT int32_t unify_simulator_refuse(const char* name, int32_t code, const char* why) {
  return finish(name, refuse(code, why));
}
