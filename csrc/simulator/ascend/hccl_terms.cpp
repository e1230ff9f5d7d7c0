// How operations are named in messages.
#include <iterator>

#include "hccl_operation.h"
#include "hccl_reduce.h"

namespace unify::simulator {
namespace {

struct Kind {
  const char* name;
  bool has_count;
  bool has_reduction;
  bool has_root;
};
constexpr Kind kKinds[] = {
    {"HcclAllReduce", true, true, false},       {"HcclAllGather", true, false, false},
    {"HcclAllGatherV", false, false, false},    {"HcclReduceScatter", true, true, false},
    {"HcclReduceScatterV", false, true, false}, {"HcclBroadcast", true, false, true},
    {"HcclReduce", true, true, true},           {"HcclScatter", true, false, true},
    {"HcclAlltoAll", true, false, false},       {"HcclAlltoAllV", false, false, false},
    {"HcclAlltoAllVC", false, false, false},    {"HcclBarrier", false, false, false},
    {"HcclSend", true, false, false},           {"HcclRecv", true, false, false},
};

}  // namespace

const char* name_of(OperationName operation) noexcept {
  return operation < std::size(kKinds) ? kKinds[operation].name : "?";
}

std::string describe(const Terms& terms) {
  if (terms.operation >= std::size(kKinds)) return "?";
  const Kind& kind = kKinds[terms.operation];
  if (terms.operation == kBarrier) return kind.name;
  std::string text = std::string(kind.name) + "(" + name_of(static_cast<HcclDataType>(terms.type));
  if (kind.has_count) text += ", count " + std::to_string(terms.count);
  if (kind.has_reduction) text += std::string(", ") + name_of(static_cast<HcclReduceOp>(terms.reduction));
  if (kind.has_root) text += ", root " + std::to_string(terms.root);
  return text + ")";
}

bool agrees(const Terms& a, const Terms& b) {
  return a.number == b.number && a.operation == b.operation && a.type == b.type && a.reduction == b.reduction &&
         a.root == b.root && a.count == b.count;
}

}  // namespace unify::simulator
