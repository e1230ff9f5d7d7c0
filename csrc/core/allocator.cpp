#include "allocator.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <list>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>
#include <utility>

#include "device.h"
#include "error.h"
#include "event.h"
#include "graph.h"
#include "stream.h"

namespace unify {
namespace {

// An event that has to pass before a block comes back. The stream may be another device's: a copy across.
struct Wait {
  Device* device;  // the registry keeps them all
  unify_event event;
  uint32_t generation;
};

constexpr size_t kGranule = 512;            // what sizes are rounded to: fewer classes, more reuse
constexpr size_t kSmall = size_t{1} << 20;  // below, blocks share segments of kSmallSegment
constexpr size_t kSmallSegment = size_t{2} << 20;
constexpr size_t kLargeSegment = size_t{20} << 20;  // medium blocks share these
constexpr size_t kOwnSegment = size_t{10} << 20;    // from here on a block has a segment of its own size
constexpr size_t kSplitRest = size_t{1} << 20;      // a large block is split only if this much is left

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

struct Segment {
  unify_address address;
  size_t bytes;
  Block* first;
};

struct Pool;

}  // namespace

struct Block {
  Segment* segment = nullptr;
  Pool* pool = nullptr;
  unify_address address = 0;
  size_t bytes = 0;
  size_t requested = 0;
  std::atomic<uint32_t> stream{0};  // id of the one whose order it follows; the default one's once that has ended
  uint32_t generation = 0;          // of the device
  bool is_free = true;
  Block* previous = nullptr;  // neighbours in the segment
  Block* next = nullptr;
  std::vector<std::shared_ptr<Stream>> used_on;  // other streams
  std::vector<Wait> waits_for;                   // freed, and these have still to pass
  std::shared_ptr<Pool> keeps;                   // a graph's pool lives as long as its blocks
};

namespace {

struct BySize {
  bool operator()(const Block* a, const Block* b) const {
    return a->bytes != b->bytes ? a->bytes < b->bytes : a->address < b->address;
  }
};

// Segments and the free blocks in them, by stream. One for everybody, and one for each graph.
struct Pool {
  using Free = std::map<uint32_t, std::set<Block*, BySize>>;
  std::list<Segment> segments;
  Free free_small;
  Free free_large;
  bool is_private = false;

  Free& free_of(const Block* block) { return block->segment->bytes <= kSmallSegment ? free_small : free_large; }
  void insert(Block* block) { free_of(block)[block->stream].insert(block); }
  void erase(Block* block) { free_of(block)[block->stream].erase(block); }
};

}  // namespace

struct Allocator::State {
  explicit State(Device& owner) : device(owner) {}

  Device& device;
  mutable std::mutex mutex;
  Pool common;
  std::list<Block*> waiting;
  std::unordered_map<uint32_t, std::shared_ptr<Pool>> recording;  // stream id → pool of the graph being recorded
  std::unordered_map<uint32_t, std::weak_ptr<Stream>> streams;    // by id, those that have blocks
  MemoryStatistics statistics;
  uint64_t limit = 0;

  Block* find(Pool& pool, size_t bytes, uint32_t stream);
  // `let_go`: what is to be dropped without the lock, since the end of a stream comes back to retire(), and that of a
  // graph's pool to destroy_pool().
  using LetGo = std::vector<std::shared_ptr<void>>;
  bool is_dry(uint32_t stream, LetGo& let_go);
  Block* find_of_dry_stream(Pool& pool, size_t bytes, uint32_t stream, LetGo& let_go);
  Block* grow(Pool& pool, size_t bytes, uint32_t stream, const std::shared_ptr<Pool>& keeps);
  void split(Pool& pool, Block* block, size_t bytes);
  void release(Block* block);  // to the free blocks, merged with its neighbours
  Block* merge(Pool& pool, Block* left, Block* right);
  void collect(LetGo& let_go);
  void free_unused(Pool& pool, LetGo& let_go);
  // Waits for all work on the device. Never under the lock: a host call on a stream may let go of memory.
  void synchronize() const { (void)device.table().device_synchronize(device.handle()); }
  void destroy_pool(Pool* pool);
  [[noreturn]] void throw_out_of_memory(size_t bytes, const Stream& stream);
};

Block* Allocator::State::find(Pool& pool, size_t bytes, uint32_t stream) {
  Pool::Free& free = bytes <= kSmall ? pool.free_small : pool.free_large;
  const auto blocks = free.find(stream);
  if (blocks == free.end()) return nullptr;
  Block key{};
  key.bytes = bytes;
  const auto best = blocks->second.lower_bound(&key);
  if (best == blocks->second.end()) return nullptr;
  Block* block = *best;
  // A block far too large is better kept for a request of its size.
  if (block->bytes > kLargeSegment && block->bytes > 2 * bytes) return nullptr;
  blocks->second.erase(best);
  return block;
}

// Whether a stream has nothing left to do, so that its free blocks can go to others.
bool Allocator::State::is_dry(uint32_t stream, LetGo& let_go) {
  const std::shared_ptr<Stream> other = streams[stream].lock();
  // Without a stream: the one with this id is just ending and not yet retired. Blocks of 0 were retired.
  if (other == nullptr) return stream == 0;
  let_go.push_back(other);
  return other->recording() == nullptr && device.table().stream_query(other->handle()) != UNIFY_NOT_READY;
}

Block* Allocator::State::find_of_dry_stream(Pool& pool, size_t bytes, uint32_t stream, LetGo& let_go) {
  for (auto& [id, blocks] : bytes <= kSmall ? pool.free_small : pool.free_large) {
    if (id == stream || blocks.empty() || !is_dry(id, let_go)) continue;
    if (Block* block = find(pool, bytes, id)) {
      // Neighbours follow the other stream still: only a whole segment may change sides.
      if (block->previous == nullptr && block->next == nullptr) {
        block->stream = stream;
        return block;
      }
      pool.insert(block);
    }
  }
  return nullptr;
}

Block* Allocator::State::grow(Pool& pool, size_t bytes, uint32_t stream, const std::shared_ptr<Pool>& keeps) {
  size_t wanted = kSmallSegment;
  if (bytes > kSmall) wanted = bytes < kOwnSegment ? kLargeSegment : round_up(bytes, kSmallSegment);
  if (limit != 0 && statistics.reserved_bytes + wanted > limit) return nullptr;
  unify_allocate_args args{};
  args.struct_size = sizeof args;
  args.kind = UNIFY_MEMORY_DEVICE;
  args.bytes = wanted;
  unify_address address = 0;
  const unify_status status = device.table().memory_allocate(device.handle(), &args, &address);
  if (status == UNIFY_OUT_OF_MEMORY) return nullptr;
  check(device, nullptr, status, "allocating memory");
  pool.segments.push_back({address, wanted, nullptr});
  Segment& segment = pool.segments.back();
  auto* block = new Block{};
  block->segment = &segment;
  block->pool = &pool;
  block->address = address;
  block->bytes = wanted;
  block->stream = stream;
  block->generation = device.generation();
  block->keeps = keeps;
  segment.first = block;
  statistics.reserved_bytes += wanted;
  statistics.reserved_bytes_peak = std::max(statistics.reserved_bytes_peak, statistics.reserved_bytes);
  ++statistics.segments;
  return block;
}

void Allocator::State::split(Pool& pool, Block* block, size_t bytes) {
  const size_t rest = block->bytes - bytes;
  if (rest < (bytes <= kSmall ? kGranule : kSplitRest)) return;
  auto* tail = new Block{};
  tail->segment = block->segment;
  tail->pool = block->pool;
  tail->address = block->address + bytes;
  tail->bytes = rest;
  tail->stream = block->stream.load();
  tail->generation = block->generation;
  tail->previous = block;
  tail->next = block->next;
  if (tail->next != nullptr) tail->next->previous = tail;
  block->next = tail;
  block->bytes = bytes;
  pool.insert(tail);
}

Block* Allocator::State::merge(Pool& pool, Block* left, Block* right) {
  left->bytes += right->bytes;
  left->next = right->next;
  if (left->next != nullptr) left->next->previous = left;
  (void)pool;
  delete right;
  return left;
}

void Allocator::State::release(Block* block) {
  Pool& pool = *block->pool;
  block->is_free = true;
  const auto joins = [&](const Block* other) {
    return other != nullptr && other->is_free && other->waits_for.empty() && other->stream == block->stream;
  };
  if (joins(block->next)) {
    pool.erase(block->next);
    block = merge(pool, block, block->next);
  }
  if (joins(block->previous)) {
    pool.erase(block->previous);
    block = merge(pool, block->previous, block);
  }
  pool.insert(block);
}

// Frees what every stream has passed.
void Allocator::State::collect(LetGo& let_go) {
  for (auto it = waiting.begin(); it != waiting.end();) {
    Block* block = *it;
    auto& waits = block->waits_for;
    while (!waits.empty()) {
      const auto [owner, event, generation] = waits.back();
      if (generation == owner->generation()) {  // else a reset ended what it stood for
        if (owner->table().event_query(event) == UNIFY_NOT_READY) break;
        owner->events().give_back(event);
      }
      waits.pop_back();
    }
    if (!waits.empty()) {
      ++it;
      continue;
    }
    statistics.waiting_bytes -= block->bytes;
    let_go.push_back(std::move(block->keeps));
    release(block);
    it = waiting.erase(it);
  }
}

// Returns segments without a block in use whose stream is dry: before, its work may still write to a free block.
void Allocator::State::free_unused(Pool& pool, LetGo& let_go) {
  for (auto it = pool.segments.begin(); it != pool.segments.end();) {
    Block* block = it->first;
    if (!block->is_free || block->next != nullptr || !is_dry(block->stream, let_go)) {
      ++it;
      continue;
    }
    pool.erase(block);
    device.table().memory_free(device.handle(), UNIFY_MEMORY_DEVICE, it->address);
    statistics.reserved_bytes -= it->bytes;
    --statistics.segments;
    delete block;
    it = pool.segments.erase(it);
  }
}

void Allocator::State::throw_out_of_memory(size_t bytes, const Stream& stream) {
  ++statistics.out_of_memory;
  uint64_t free_bytes = 0;
  uint64_t total_bytes = 0;
  device.table().memory_info(device.handle(), &free_bytes, &total_bytes);
  std::string text = device.name() + ", " + stream.name() + ": " + format_bytes(bytes) + " asked, " +
                     format_bytes(free_bytes) + " free of " + format_bytes(total_bytes) + "; unify holds " +
                     format_bytes(statistics.reserved_bytes) + ", " + format_bytes(statistics.allocated_bytes) +
                     " of it in use; what was idle was returned already.";
  if (limit != 0) text += " set_memory_limit allows " + format_bytes(limit) + ".";
  Error error(ErrorKind::kOutOfMemory, text + " Free tensors, use smaller batches, or a smaller dtype.");
  error.device = device.name();
  error.stream = stream.name();
  throw error;
}

Allocator::Allocator(Device& device) : state_(std::make_unique<State>(device)) {}

Allocator::~Allocator() {
  // Storages keep their device, and so us: nothing is in use any more.
  state_->synchronize();
  trim();
}

std::shared_ptr<Storage> Allocator::allocate(size_t bytes, Stream& stream) {
  State& state = *state_;
  state.device.require_usable();
  if (bytes == 0) return std::make_shared<Storage>(stream.device_ptr(), 0, 0, std::shared_ptr<void>());
  const size_t rounded = round_up(bytes, std::max<size_t>(kGranule, state.device.info().alignment));
  State::LetGo let_go;
  std::unique_lock<std::mutex> lock(state.mutex);
  if (bytes > SIZE_MAX / 2) state.throw_out_of_memory(bytes, stream);  // rounding overflowed
  if (!state.waiting.empty()) state.collect(let_go);
  std::shared_ptr<Pool> own;
  if (!state.recording.empty()) {
    const auto found = state.recording.find(stream.id());
    if (found != state.recording.end()) own = found->second;
  }
  Pool& pool = own != nullptr ? *own : state.common;
  Block* block = state.find(pool, rounded, stream.id());
  if (block != nullptr) {
    ++state.statistics.cache_hits;
  } else {
    state.streams[stream.id()] = stream.weak_from_this();
    if (own == nullptr) block = state.find_of_dry_stream(pool, rounded, stream.id(), let_go);
    if (block == nullptr) block = state.grow(pool, rounded, stream.id(), own);
    const auto retry = [&] {
      state.collect(let_go);
      state.free_unused(state.common, let_go);
      block = state.find(pool, rounded, stream.id());
      if (block == nullptr) block = state.grow(pool, rounded, stream.id(), own);
    };
    if (block == nullptr) {  // out of memory: give back what is idle, then wait for what is in use by streams
      ++state.statistics.trims;
      retry();
    }
    if (block == nullptr && !records_natively(stream)) {
      lock.unlock();
      state.synchronize();
      lock.lock();
      retry();
    }
    while (block == nullptr && !state.waiting.empty()) {  // for another device: nothing to wait for is at hand
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      lock.lock();
      retry();
    }
    if (block == nullptr) state.throw_out_of_memory(bytes, stream);
  }
  state.split(pool, block, rounded);
  block->is_free = false;
  block->requested = bytes;
  block->keeps = own;
  MemoryStatistics& statistics = state.statistics;
  ++statistics.allocations;
  statistics.allocated_bytes += block->bytes;
  statistics.allocated_bytes_peak = std::max(statistics.allocated_bytes_peak, statistics.allocated_bytes);
  lock.unlock();
  return std::make_shared<Storage>(stream.device_ptr(), block);
}

void Allocator::give_back(Block* block) noexcept {
  State& state = *state_;
  // Let go after the lock: a graph's pool may go with its last block, a stream with its last user.
  std::shared_ptr<Pool> last;
  const std::vector<std::shared_ptr<Stream>> streams = std::move(block->used_on);
  const std::lock_guard<std::mutex> lock(state.mutex);
  if (block->generation != state.device.generation()) {
    last = std::move(block->keeps);
    if (last == nullptr) delete block;  // else its pool does
    return;
  }
  state.statistics.allocated_bytes -= block->bytes;
  for (const std::shared_ptr<Stream>& other : streams) {
    Device& owner = other->device();
    const unify_backend& table = owner.table();
    const std::lock_guard<std::mutex> order(other->mutex());
    if (records_natively(*other)) continue;  // dry since it began, and the graph keeps what it uses
    if (table.stream_query(other->handle()) == UNIFY_OK) continue;
    unify_event event = nullptr;
    if (owner.events().mark(*other, &event) != UNIFY_OK) {
      table.stream_synchronize(other->handle());  // cannot be marked: then be sure
      continue;
    }
    block->waits_for.push_back({&owner, event, owner.generation()});
  }
  if (block->waits_for.empty()) {
    last = std::move(block->keeps);
    state.release(block);
  } else {
    state.statistics.waiting_bytes += block->bytes;
    state.waiting.push_back(block);
  }
}

// Never under a stream's mutex: give_back takes one under ours.
void Allocator::note_use(Block* block, Stream& stream) {
  if (block->stream == stream.id() && &stream.device() == &state_->device) return;
  const std::lock_guard<std::mutex> lock(state_->mutex);
  const auto is_same = [&](const std::shared_ptr<Stream>& other) { return other.get() == &stream; };
  if (std::any_of(block->used_on.begin(), block->used_on.end(), is_same)) return;
  block->used_on.push_back(stream.shared_from_this());
}

uint32_t Allocator::generation_of(const Block* block) noexcept { return block->generation; }
bool Allocator::is_private(const Block* block) noexcept { return block->keeps != nullptr; }
unify_address Allocator::address_of(const Block* block) noexcept { return block->address; }
size_t Allocator::bytes_of(const Block* block) noexcept { return block->requested; }

void Allocator::trim() {
  state_->synchronize();
  State::LetGo let_go;
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->collect(let_go);
  state_->free_unused(state_->common, let_go);
}

MemoryStatistics Allocator::statistics() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->statistics;
}

void Allocator::reset_peaks() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->statistics.allocated_bytes_peak = state_->statistics.allocated_bytes;
  state_->statistics.reserved_bytes_peak = state_->statistics.reserved_bytes;
}

std::vector<SegmentSnapshot> Allocator::snapshot() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  std::vector<SegmentSnapshot> result;
  for (const Segment& segment : state_->common.segments) {
    SegmentSnapshot copy{segment.address, segment.bytes, {}};
    for (const Block* block = segment.first; block != nullptr; block = block->next) {
      const char* state = block->is_free ? "free" : block->waits_for.empty() ? "allocated" : "waiting";
      copy.blocks.push_back({block->address, block->bytes, block->requested, state, block->stream});
    }
    result.push_back(std::move(copy));
  }
  return result;
}

void Allocator::set_limit(uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->limit = bytes;
}

std::shared_ptr<void> Allocator::begin_private_pool(Stream& stream) {
  auto device = stream.device_ptr();
  State* state = state_.get();
  std::shared_ptr<Pool> pool(new Pool, [device, state](Pool* gone) { state->destroy_pool(gone); });
  pool->is_private = true;
  const std::lock_guard<std::mutex> lock(state->mutex);
  state->recording[stream.id()] = pool;
  return pool;
}

// Of a graph that is gone: all its blocks are free.
void Allocator::State::destroy_pool(Pool* pool) {
  synchronize();
  const std::lock_guard<std::mutex> lock(mutex);
  for (Segment& segment : pool->segments) {
    const bool is_outdated = segment.first->generation != device.generation();
    for (Block* block = segment.first; block != nullptr;) delete std::exchange(block, block->next);
    if (is_outdated) continue;  // a reset took the memory away
    device.table().memory_free(device.handle(), UNIFY_MEMORY_DEVICE, segment.address);
    statistics.reserved_bytes -= segment.bytes;
    --statistics.segments;
  }
  delete pool;
}

void Allocator::end_private_pool(Stream& stream) {
  std::shared_ptr<Pool> last;
  const std::lock_guard<std::mutex> lock(state_->mutex);
  const auto found = state_->recording.find(stream.id());
  if (found == state_->recording.end()) return;
  last = std::move(found->second);
  state_->recording.erase(found);
}

void Allocator::retire(Stream& stream) noexcept {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    if (state_->streams.count(stream.id()) == 0) return;
  }
  // Without the lock: its host calls may let go of memory.
  state_->device.table().stream_synchronize(stream.handle());
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->streams.erase(stream.id());
  for (Pool::Free* free : {&state_->common.free_small, &state_->common.free_large}) free->erase(stream.id());
  for (Segment& segment : state_->common.segments) {
    for (Block* block = segment.first; block != nullptr; block = block->next) {
      if (block->stream != stream.id()) continue;
      block->stream = 0;
      if (block->is_free) state_->common.insert(block);
    }
  }
}

void Allocator::forget() noexcept {
  State::LetGo let_go;
  const std::lock_guard<std::mutex> lock(state_->mutex);
  State& state = *state_;
  for (Block* block : state.waiting) let_go.push_back(std::move(block->keeps));
  for (Segment& segment : state.common.segments) {
    for (Block* block = segment.first; block != nullptr;) {
      Block* next = block->next;
      if (block->is_free || !block->waits_for.empty()) delete block;  // the others go with their storages
      block = next;
    }
  }
  state.common = Pool{};
  state.waiting.clear();
  state.recording.clear();
  state.streams.clear();
  state.statistics = MemoryStatistics{};
}

Storage::Storage(std::shared_ptr<Device> device, unify_address address, size_t bytes, std::shared_ptr<void> owner)
    : device_(std::move(device)), address_(address), bytes_(bytes), owner_(std::move(owner)) {}

Storage::Storage(std::shared_ptr<Device> device, Block* block)
    : device_(std::move(device)),
      address_(Allocator::address_of(block)),
      bytes_(Allocator::bytes_of(block)),
      block_(block) {}

Storage::~Storage() {
  if (block_ != nullptr) device_->allocator().give_back(block_);
}

void Storage::require_current() const {
  if (block_ != nullptr) device_->require_generation(Allocator::generation_of(block_), "this tensor's memory");
}

void Storage::used_on(Stream& stream) {
  if (Recording* recording = stream.recording()) {
    if (!is_private()) record_keep(*recording, shared_from_this());
  } else if (block_ != nullptr) {
    device_->allocator().note_use(block_, stream);
  } else if (owner_ != nullptr) {
    stream.keep_alive(owner_);
  }
}

bool Storage::is_private() const noexcept { return block_ != nullptr && Allocator::is_private(block_); }

}  // namespace unify
