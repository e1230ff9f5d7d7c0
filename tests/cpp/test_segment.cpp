// Expandable segments, on a CPU that counts what it gives.
#include <unify/backend.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "core/allocator.h"
#include "core/device.h"
#include "core/layers/layer.h"
#include "core/memory.h"
#include "core/registry.h"
#include "core/stream.h"
#include "statistics.h"

extern "C" const unify_backend* unify_host_backend_get(unify_backend_get_args* args);

namespace unify {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
using Memory = std::shared_ptr<Storage>;

std::atomic<size_t> capacity{SIZE_MAX};
std::atomic<size_t> committed{0};
std::atomic<size_t> reserved{0};  // addresses
std::atomic<size_t> allocations{0};

const unify_backend& host() { return *unify_host_backend_get(nullptr); }

const unify_backend* counting_get(unify_backend_get_args*) {
  static const unify_backend table = [] {
    unify_backend made = host();
    made.name = "counting";
    made.memory_allocate = [](unify_device device, const unify_allocate_args* args, unify_address* out) {
      if (args->bytes > capacity - std::min(capacity.load(), committed.load())) return UNIFY_OUT_OF_MEMORY;
      ++allocations;
      return host().memory_allocate(device, args, out);
    };
    made.virtual_reserve = [](unify_device device, size_t bytes, unify_address* out) {
      reserved += bytes;
      return host().virtual_reserve(device, bytes, out);
    };
    made.virtual_commit = [](unify_device device, unify_address address, size_t bytes) {
      if (committed + bytes > capacity) return UNIFY_OUT_OF_MEMORY;
      committed += bytes;
      return host().virtual_commit(device, address, bytes);
    };
    made.virtual_decommit = [](unify_device device, unify_address address, size_t bytes) {
      committed -= bytes;
      return host().virtual_decommit(device, address, bytes);
    };
    made.virtual_release = [](unify_device device, unify_address address, size_t bytes) {
      reserved -= bytes;
      return host().virtual_release(device, address, bytes);
    };
    add_faults(made);
    add_validation(made);
    return made;
  }();
  return &table;
}

struct Counting {
  Counting() {
    Registry::instance().add_builtin("counting", counting_get);
    device = Registry::instance().device("counting:0");
    device->allocator().set_expandable(true);
    stream = Stream::create(device);
    other = Stream::create(device);
    capacity = SIZE_MAX;
    allocations = 0;
  }
  ~Counting() {
    capacity = SIZE_MAX;
    device->synchronize();
    device->allocator().trim();
    check_statistics(device->allocator(), true);
    CHECK(committed == 0 && reserved == 0);
  }
  [[nodiscard]] Memory allocate(size_t bytes, const std::shared_ptr<Stream>& on) const {
    return device->allocator().allocate(bytes, *on);
  }
  [[nodiscard]] Memory allocate(size_t bytes) const { return allocate(bytes, stream); }
  [[nodiscard]] Memory filled(size_t bytes, uint8_t value, const std::shared_ptr<Stream>& on) const {
    Memory block = allocate(bytes, on);
    fill(*on, {device.get(), block->address(), block.get()}, value, 1, bytes);
    return block;
  }
  std::shared_ptr<Device> device;
  std::shared_ptr<Stream> stream;
  std::shared_ptr<Stream> other;
};

bool holds(const Memory& block, uint8_t value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(static_cast<uintptr_t>(block->address()));
  return std::all_of(bytes, bytes + block->bytes(), [&](uint8_t byte) { return byte == value; });
}

}  // namespace

void test_a_segment_grows_where_its_last_block_ends() {
  const Counting on;
  for (size_t bytes = 3 * kMiB; bytes < 300 * kMiB; bytes += bytes / 2) {
    const uint64_t address = on.allocate(bytes)->address();
    CHECK(on.allocate(bytes)->address() == address);
    CHECK(committed >= bytes && committed < bytes + 20 * kMiB);
  }
  const Memory small = on.allocate(100);
  CHECK(on.device->allocator().statistics().segments == 2 && allocations == 0);
  CHECK(small->is_expandable());
  on.device->allocator().set_expandable(false);
  CHECK(!on.allocate(30 * kMiB, on.other)->is_expandable() && allocations == 1);
}

void test_idle_chunks_go_back_from_the_middle_and_come_again() {
  const Counting on;
  std::vector<Memory> blocks;
  for (uint8_t i = 0; i < 6; ++i) blocks.push_back(on.filled(20 * kMiB, i, on.stream));
  const uint64_t gap = blocks[1]->address();
  blocks.erase(blocks.begin() + 1, blocks.begin() + 4);
  on.stream->synchronize();
  on.device->allocator().trim();
  CHECK(committed == 60 * kMiB);
  check_statistics(on.device->allocator(), true);
  const Memory again = on.filled(50 * kMiB, 9, on.stream);
  on.stream->synchronize();
  CHECK(again->address() == gap && committed == 120 * kMiB);
  CHECK(holds(blocks[0], 0) && holds(blocks[1], 4) && holds(blocks[2], 5) && holds(again, 9));
}

void test_memory_that_runs_out_is_taken_from_what_lies_idle() {
  const Counting on;
  capacity = 64 * kMiB;
  std::vector<Memory> held;
  for (int i = 0; i < 4; ++i) held.push_back(on.allocate(16 * kMiB));  // 3 chunks, and what is missing
  CHECK(committed == 64 * kMiB);
  CHECK(has(error_of([&] { (void)on.allocate(16 * kMiB, on.other); }), "16.0 MiB asked"));
  check_statistics(on.device->allocator(), true);
  held.resize(1);
  Memory large = on.filled(40 * kMiB, 3, on.other);  // from chunks of the first stream
  CHECK(committed <= 64 * kMiB);
  large->used_on(*on.stream);
  large.reset();
  large = on.allocate(44 * kMiB);  // still in use by a stream: waited for
  CHECK(committed == 60 * kMiB);
  CHECK(!error_of([&] { (void)on.allocate(size_t{1} << 50); }).empty());
  check_statistics(on.device->allocator(), true);
}

void test_a_commit_that_fails_leaves_nothing_behind() {
  const Counting on;
  const Memory before = on.filled(15 * kMiB, 7, on.stream);
  for (const char* what : {"virtual_commit:3:internal", "virtual_reserve:1:internal"}) {
    on.device->set_option("fail", what);
    const auto& stream = has(what, "commit") ? on.stream : on.other;
    CHECK(has(error_of([&] { (void)on.allocate(100 * kMiB, stream); }), "told to fail"));
    CHECK(committed == 20 * kMiB);
    check_statistics(on.device->allocator(), true);
  }
  on.device->set_option("fail", "virtual_reserve:1:unsupported");
  const Memory ordinary = on.allocate(100 * kMiB, on.other);
  CHECK(!ordinary->is_expandable() && before->is_expandable());
  on.stream->synchronize();
  CHECK(holds(before, 7));
}

void test_a_reset_takes_addresses_and_memory_away() {
  Counting on;
  const Memory held = on.allocate(30 * kMiB);
  Memory freed = on.allocate(30 * kMiB);
  const Memory small = on.allocate(10, on.other);
  freed.reset();
  on.device->reset();
  CHECK(committed == 0 && reserved == 0 && on.device->allocator().statistics().segments == 0);
  CHECK(!held->is_expandable() && has(error_of([&] { held->require_current(); }), "reset"));
  on.stream = Stream::create(on.device);
  on.other = Stream::create(on.device);
  CHECK(on.allocate(30 * kMiB)->is_expandable());
}

// Against a shadow, at a capacity that is reached now and then: live blocks never overlap, keep what was written, and
// the figures add up after every step.
void test_expandable_segments_keep_blocks_apart() {
  const Counting on;
  capacity = 160 * kMiB;
  struct Live {
    Memory block;
    uint8_t value;
  };
  std::vector<std::shared_ptr<Stream>> streams;
  for (int i = 0; i < 4; ++i) streams.push_back(Stream::create(on.device));
  std::mt19937_64 random(3);
  std::map<uint64_t, Live> live;  // by address
  size_t refused = 0;
  const auto drop = [&](std::map<uint64_t, Live>::iterator victim) {
    if (random() % 8 == 0) {
      on.device->synchronize();
      CHECK(holds(victim->second.block, victim->second.value));
    }
    if (random() % 3 == 0) victim->second.block->used_on(*streams[random() % streams.size()]);
    live.erase(victim);
  };
  for (int step = 0; step < 1500; ++step) {
    const auto& stream = streams[random() % streams.size()];
    if (random() % 5 < 3) {
      const size_t bytes = size_t{1} + random() % (size_t{1} << (8 + random() % 18));
      const auto value = static_cast<uint8_t>(step);
      Memory block;
      const std::string error = error_of([&] { block = on.filled(bytes, value, stream); });
      if (block == nullptr) {
        CHECK(has(error, "asked") && !live.empty());
        ++refused;
        while (live.size() > 10) drop(live.begin());
        continue;
      }
      const uint64_t begin = block->address();
      const auto after = live.lower_bound(begin);
      CHECK(after == live.end() || after->first >= begin + bytes);
      CHECK(after == live.begin() || std::prev(after)->first + std::prev(after)->second.block->bytes() <= begin);
      live[begin] = {std::move(block), value};
    } else if (!live.empty()) {
      drop(std::next(live.begin(), static_cast<int64_t>(random() % live.size())));
    }
    CHECK(committed <= capacity);
    if (step % 16 == 0) check_statistics(on.device->allocator(), true);
    if (step % 100 == 50) on.device->allocator().trim();
    if (step % 300 == 299) streams[random() % streams.size()] = Stream::create(on.device);  // one ends, its blocks stay
  }
  CHECK(refused > 0);
}

}  // namespace unify
