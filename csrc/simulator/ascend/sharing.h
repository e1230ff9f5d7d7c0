// Memory that other processes may open: a page that says where it is and for whom, named by a number of 64 bits.
#pragma once

#include <cstdint>
#include <memory>

#include "simulator/shared_file.h"

namespace unify::simulator {

struct SharedPage;

struct Shared {
  ~Shared();
  uint64_t name = 0;  // the process and its descriptor
  int file = -1;
  SharedPage* page = nullptr;
};

// Null without memory or descriptors. With `is_open` any process may open it.
std::shared_ptr<Shared> share_memory(const SharedFile& memory, bool is_open);
// Lets processes open it. False if they are too many.
bool allow(Shared& shared, const int32_t* processes, size_t count);

enum class Opened { kYes, kUnknown, kNotAllowed };
// What another process shared under a name.
Opened open_name(uint64_t name, SharedFile& out);

}  // namespace unify::simulator
