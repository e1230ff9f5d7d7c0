#include "allocator.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <unordered_map>
#include <utility>

#include "device.h"
#include "error.h"
#include "event.h"
#include "failures.h"
#include "leaks.h"
#include "pool.h"
#include "reclaim.h"
#include "recording.h"
#include "stream.h"

namespace unify {

struct Allocator::State {
  explicit State(Device& owner) : device(owner) {}

  Device& device;
  LetGoList<Block> given_back;  // by their storages; in use until settle()
  mutable std::mutex mutex;
  Pool common;
  std::list<Block*> waiting;
  std::unordered_map<uint32_t, std::shared_ptr<Pool>> recording;  // stream id → pool of the graph being recorded
  std::list<Pool*> graphs;                                        // pools of graphs
  std::unordered_map<uint32_t, std::weak_ptr<Stream>> streams;    // by id, those that have blocks
  MemoryStatistics statistics;
  uint64_t limit = 0;
  std::string refusal;         // why the backend gave no memory, in its words
  bool is_expandable = false;  // for segments to come

  [[nodiscard]] bool is_dry(uint32_t stream);
  Block* find_of_dry_stream(Pool& pool, size_t bytes, uint32_t stream);
  Block* take(Pool& pool, size_t bytes, uint32_t stream, const std::shared_ptr<Pool>& keeps);
  Block* take_trimmed(Pool& pool, size_t bytes, uint32_t stream, const std::shared_ptr<Pool>& keeps);
  Block* grow(Pool& pool, size_t bytes, uint32_t stream, const std::shared_ptr<Pool>& keeps);
  Block* grow_by(Pool& pool, size_t wanted, bool is_small, uint32_t stream, const std::shared_ptr<Pool>& keeps);
  Block* expand(size_t bytes, uint32_t stream);
  void note_reserved(Block* block, uint32_t stream);
  void settle();  // what was given back: freed, or waiting for the streams that used it
  void settle(Block* block);
  void collect();
  template <typename Question>
  [[nodiscard]] bool ask(const Mark& mark, Question question) const noexcept;
  [[nodiscard]] bool is_any_on_its_way() const noexcept;
  void free_unused();
  void free_segment(const Segment& segment) noexcept;
  void shrink(const Segment& segment, const std::function<bool(const Block*)>& is_idle);
  void relabel(uint32_t from, uint32_t to);
  void adopt_dry(uint32_t stream);
  void note_taken(Block* block, size_t requested, const std::shared_ptr<Pool>& keeps);
  [[noreturn]] void throw_out_of_memory(size_t bytes, const Stream& stream);
};

// Whether a stream has nothing left to do, so that its free blocks can go to others.
bool Allocator::State::is_dry(uint32_t stream) {
  std::shared_ptr<Stream> other;
  if (stream == 0) {  // blocks follow it that were another's, which has ended
    other = device.made_default_stream();
    if (other == nullptr) return true;
  } else {
    const auto found = streams.find(stream);
    if (found == streams.end()) return true;  // retired
    other = found->second.lock();
    if (other == nullptr) return false;  // about to end, when it is dry
  }
  // Under its mutex no recording begins: a question would end that one. Whose stream is busy may have work for it.
  const std::unique_lock<std::mutex> lock(other->mutex(), std::try_to_lock);
  return lock.owns_lock() && other->recording() == nullptr && other->is_dry();
}

Block* Allocator::State::find_of_dry_stream(Pool& pool, size_t bytes, uint32_t stream) {
  for (auto& [id, blocks] : bytes <= Pool::kSmall ? pool.free_small : pool.free_large) {
    if (id == stream || blocks.empty() || !is_dry(id)) continue;
    // Neighbours follow the other stream still: only a whole segment changes sides while there is more.
    if (Block* block = pool.find(bytes, id, Pool::Choice::kSegment)) {
      block->stream = block->segment->stream = stream;
      return block;
    }
  }
  return nullptr;
}

// A segment of the usual size; where that is too much, of what is needed.
Block* Allocator::State::grow(Pool& pool, size_t bytes, uint32_t stream, const std::shared_ptr<Pool>& keeps) {
  if (is_expandable && keeps == nullptr) {
    if (Block* block = expand(bytes, stream)) return block;
  }
  size_t last = 0;
  for (const size_t wanted : Pool::segment_sizes(bytes)) {
    if (wanted == last) continue;
    if (Block* block = grow_by(pool, wanted, bytes <= Pool::kSmall, stream, keeps)) return block;
    last = wanted;
  }
  return nullptr;
}

Block* Allocator::State::grow_by(Pool& pool, size_t wanted, bool is_small, uint32_t stream,
                                 const std::shared_ptr<Pool>& keeps) {
  if (limit != 0 && statistics.reserved_bytes + wanted > limit) return nullptr;
  unify_allocate_args args{};
  args.struct_size = sizeof args;
  args.kind = UNIFY_MEMORY_DEVICE;
  args.bytes = wanted;
  unify_address address = 0;
  const unify_status status = device.table().memory_allocate(device.handle(), &args, &address);
  if (status == UNIFY_OUT_OF_MEMORY) {
    refusal = reason_of(device, status);
    return nullptr;
  }
  check(device, nullptr, status, "allocating memory");
  Block* block = pool.add_segment(address, wanted, is_small);
  block->keeps = keeps;
  ++statistics.segments;
  note_reserved(block, stream);
  return block;
}

// More memory for one of the stream's expandable segments, or for a new one: where free addresses, with what is free
// beside them, are enough.
Block* Allocator::State::expand(size_t bytes, uint32_t stream) {
  if (bytes > device.info().memory_bytes) return nullptr;
  std::optional<Pool::Growth> growth = common.find_growth(bytes, stream);
  if (!growth) {
    const bool is_small = bytes <= Pool::kSmall;
    auto range =
        AddressRange::reserve(device, device.info().memory_bytes, is_small ? Pool::kSmallSegment : Pool::kLargeSegment);
    if (range == nullptr) return nullptr;
    Segment& segment = common.add_range(std::move(range), is_small, stream);
    ++statistics.segments;
    growth = {&segment, *segment.find_gap(bytes)};
  }
  Segment::Gap& gap = growth->gap;
  if (limit != 0) gap.most = std::min<uint64_t>(gap.most, limit - std::min(limit, statistics.reserved_bytes));
  const size_t grown = growth->segment->range->commit(gap.begin, gap.least, gap.most);
  if (grown == 0) return nullptr;
  Block* block = common.add_memory(*growth, grown);
  note_reserved(block, stream);
  common.release(block);
  return common.find(bytes, stream, Pool::Choice::kLastResort);
}

void Allocator::State::note_reserved(Block* block, uint32_t stream) {
  block->stream = stream;
  block->generation = device.generation();
  statistics.reserved_bytes += block->bytes;
  statistics.reserved_bytes_peak = std::max(statistics.reserved_bytes_peak, statistics.reserved_bytes);
}

void Allocator::State::settle() {
  for (Block* block = given_back.take(); block != nullptr;) settle(std::exchange(block, block->next_let_go));
}

void Allocator::State::settle(Block* block) {
  const std::shared_ptr<Pool> keeps = std::move(block->keeps);
  const std::vector<std::shared_ptr<Stream>> streams = std::move(block->used_on);
  if (block->generation != device.generation()) {
    if (keeps == nullptr) delete block;  // else its pool does
    return;
  }
  statistics.allocated_bytes -= block->bytes;
  for (const std::shared_ptr<Stream>& other : streams) {
    const std::lock_guard<std::mutex> order(other->mutex());
    Mark mark(*other);
    if (!mark.is_of_nothing()) block->waits_for.push_back(std::move(mark));
  }
  if (block->waits_for.empty()) {
    block->pool->release(block);
  } else {
    block->keeps = keeps;
    statistics.waiting_bytes += block->bytes;
    waiting.push_back(block);
  }
}

// Our mutex holds back a reset of our device; another's, while one is under way, is asked later.
template <typename Question>
bool Allocator::State::ask(const Mark& mark, Question question) const noexcept {
  if (mark.device() == nullptr || mark.device() == &device) return question();
  const auto call = mark.device()->try_call();
  return call.owns_lock() && question();
}

// Frees what every stream has passed.
void Allocator::State::collect() {
  settle();
  for (auto it = waiting.begin(); it != waiting.end();) {
    Block* block = *it;
    auto& waits = block->waits_for;
    const auto has_last_passed = [&] { return ask(waits.back(), [&] { return waits.back().has_passed(); }); };
    while (!waits.empty() && has_last_passed()) waits.pop_back();
    if (!waits.empty()) {
      ++it;
      continue;
    }
    const std::shared_ptr<Pool> keeps = std::move(block->keeps);
    statistics.waiting_bytes -= block->bytes;
    block->pool->release(block);
    it = waiting.erase(it);
  }
}

// Whether to wait for streams may bring memory: not where another library records one, perhaps this very thread.
bool Allocator::State::is_any_on_its_way() const noexcept {
  const auto is_held_up = [&](const Mark& mark) { return ask(mark, [&] { return mark.is_held_up(); }); };
  return std::any_of(waiting.begin(), waiting.end(), [&](const Block* block) {
    return std::none_of(block->waits_for.begin(), block->waits_for.end(), is_held_up);
  });
}

void Allocator::State::free_segment(const Segment& segment) noexcept {
  const unify_status status = device.table().memory_free(device.handle(), UNIFY_MEMORY_DEVICE, segment.address);
  if (status != UNIFY_OK) device.failures().note(Failures::kNoStream, status, "freeing memory");
  statistics.reserved_bytes -= segment.bytes;
}

// Returns segments without a block in use, and idle chunks of expandable ones, whose stream is dry: before, its work
// may still write to a free block.
void Allocator::State::free_unused() {
  std::map<uint32_t, bool> asked;
  const auto is_idle = [&](const Block* block) {
    if (!block->is_free) return false;
    const auto [stream, is_new] = asked.try_emplace(block->stream, false);
    if (is_new) stream->second = is_dry(stream->first);
    return stream->second;
  };
  for (auto segment = common.segments.begin(); segment != common.segments.end();) {
    for (Block* block = segment->first; block != nullptr; block = block->next) {
      while (block->next != nullptr && Pool::are_adjacent(block, block->next) && is_idle(block) &&
             is_idle(block->next)) {
        common.join(block, block->next);
      }
    }
    if (segment->is_expandable()) {
      shrink(*segment, is_idle);
    } else if (Block* block = segment->first; block->next == nullptr && is_idle(block)) {
      common.erase(block);
      free_segment(*segment);
      delete std::exchange(segment->first, nullptr);
    }
    if (segment->first != nullptr) {
      ++segment;
      continue;
    }
    --statistics.segments;
    segment = common.segments.erase(segment);
  }
}

void Allocator::State::shrink(const Segment& segment, const std::function<bool(const Block*)>& is_idle) {
  for (Block* block = segment.first; block != nullptr;) {
    Block* next = block->next;
    if (is_idle(block)) {
      const AddressRange::Part part = segment.range->decommit(block->address, block->end());
      statistics.reserved_bytes -= part.bytes;
      if (part.bytes > 0) common.remove_memory(block, part);
    }
    block = next;
  }
}

// Blocks of one stream become another's, and their free ones join its free neighbours.
void Allocator::State::relabel(uint32_t from, uint32_t to) {
  std::vector<Block*> moved;
  for (Pool::Free* free : {&common.free_small, &common.free_large}) {
    const auto blocks = free->find(from);
    if (blocks == free->end()) continue;
    moved.insert(moved.end(), blocks->second.begin(), blocks->second.end());
    free->erase(blocks);
  }
  for (Block* block : moved) block->is_free = false;  // none joins one that is not in the new list yet
  for (Block* block : moved) block->stream = to;
  for (Block* block : moved) common.release(block);
}

// The last resort: what streams that ran dry left free beside their blocks in use.
void Allocator::State::adopt_dry(uint32_t stream) {
  std::set<uint32_t> others;
  for (const Pool::Free* free : {&common.free_small, &common.free_large}) {
    for (const auto& [id, blocks] : *free) {
      if (id != stream && !blocks.empty()) others.insert(id);
    }
  }
  for (const uint32_t other : others) {
    if (is_dry(other)) relabel(other, stream);
  }
}

void Allocator::State::throw_out_of_memory(size_t bytes, const Stream& stream) {
  ++statistics.out_of_memory;
  uint64_t free_bytes = 0;
  uint64_t total_bytes = 0;
  (void)device.table().memory_info(device.handle(), &free_bytes, &total_bytes);
  const Pool::Idle idle = common.idle();
  std::string text = device.name() + ", " + stream.name() + ": " + format_bytes(bytes) + " asked, " +
                     format_bytes(free_bytes) + " free of " + format_bytes(total_bytes) + "; unify holds " +
                     format_bytes(statistics.reserved_bytes) + ", " + format_bytes(statistics.allocated_bytes) +
                     " of it in use";
  if (statistics.waiting_bytes > 0) text += ", " + format_bytes(statistics.waiting_bytes) + " by unfinished work";
  if (idle.bytes > 0) {
    text += "; " + format_bytes(idle.bytes) + " lie idle between, in pieces of at most " + format_bytes(idle.largest);
  }
  if (!refusal.empty()) text += "; its backend says: " + refusal;
  text += ".";
  if (limit != 0) text += " set_memory_limit allows " + format_bytes(limit) + ".";
  Error error(ErrorKind::kOutOfMemory, text + " Free tensors, use smaller batches, or a smaller dtype.");
  error.device = device.name();
  error.stream = stream.name();
  throw error;
}

Allocator::Allocator(Device& device) : state_(std::make_unique<State>(device)) {}

Allocator::~Allocator() {
  // Storages keep their device, and so us: nothing is in use any more.
  trim();
}

// Without asking the device for its work.
Block* Allocator::State::take(Pool& pool, size_t bytes, uint32_t stream, const std::shared_ptr<Pool>& keeps) {
  if (Block* block = pool.find(bytes, stream)) {
    ++statistics.cache_hits;
    return block;
  }
  if (keeps == nullptr) {
    if (Block* block = find_of_dry_stream(pool, bytes, stream)) return block;
  }
  return grow(pool, bytes, stream, keeps);
}

// After giving back to the device what is idle.
Block* Allocator::State::take_trimmed(Pool& pool, size_t bytes, uint32_t stream, const std::shared_ptr<Pool>& keeps) {
  collect();
  free_unused();
  Block* block = pool.find(bytes, stream);
  if (block == nullptr) block = grow(pool, bytes, stream, keeps);
  if (block != nullptr) return block;
  if (keeps == nullptr) adopt_dry(stream);
  return pool.find(bytes, stream, Pool::Choice::kLastResort);
}

std::shared_ptr<Storage> Allocator::allocate(size_t bytes, Stream& stream) {
  reclaim();
  const char* caller = leaks::caller();
  State& state = *state_;
  state.device.require_usable();
  if (bytes == 0) return std::make_shared<Storage>(stream.device_ptr(), 0, 0, std::shared_ptr<void>());
  const size_t rounded = Pool::rounded(bytes, state.device.info().alignment);
  // For a graph of another library, which runs whenever and wherever that pleases, nothing is ready by the stream's
  // order.
  const uint32_t id = stream.goes_into_other_graph() ? Block::kNoStream : stream.id();
  std::unique_lock<std::mutex> lock(state.mutex);
  state.refusal.clear();
  if (bytes > SIZE_MAX / 2) state.throw_out_of_memory(bytes, stream);  // rounding overflowed
  stream.require_current();
  state.collect();
  if (id != Block::kNoStream && state.streams.find(id) == state.streams.end()) {
    state.streams[id] = stream.weak_from_this();
  }
  std::shared_ptr<Pool> own;
  if (!state.recording.empty()) {
    const auto found = state.recording.find(stream.id());
    if (found != state.recording.end()) own = found->second;
  }
  Pool& pool = own != nullptr ? *own : state.common;
  Block* block = state.take(pool, rounded, id, own);
  if (block == nullptr) {
    ++state.statistics.trims;
    block = state.take_trimmed(pool, rounded, id, own);
  }
  // Then wait for what is in use by streams: of this device, and what waits for another one, a little at a time.
  for (bool is_first = true; block == nullptr && (is_first || state.is_any_on_its_way()); is_first = false) {
    lock.unlock();
    if (!is_first || records_natively(stream)) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    } else {
      state.device.wait_for_work();
    }
    reclaim();
    lock.lock();
    block = state.take_trimmed(pool, rounded, id, own);
  }
  if (block == nullptr) state.throw_out_of_memory(bytes, stream);
  pool.split(block, rounded);
  state.note_taken(block, bytes, own);
  lock.unlock();
  auto storage = std::make_shared<Storage>(stream.device_ptr(), block);
  leaks::held(storage.get(), leaks::Kind::kTensor, state.device, bytes, caller);
  return storage;
}

void Allocator::State::note_taken(Block* block, size_t requested, const std::shared_ptr<Pool>& keeps) {
  block->is_free = false;
  block->requested = requested;
  block->keeps = keeps;
  ++statistics.allocations;
  statistics.allocated_bytes += block->bytes;
  statistics.allocated_bytes_peak = std::max(statistics.allocated_bytes_peak, statistics.allocated_bytes);
}

void Allocator::give_back(Block* block) noexcept { state_->given_back.add(block); }

// Never under a stream's mutex: settle() takes one under ours.
void Allocator::note_use(Block* block, Stream& stream) {
  if (block->stream == stream.id() && &stream.device() == &state_->device) return;
  const std::lock_guard<std::mutex> lock(state_->mutex);
  const auto is_same = [&](const std::shared_ptr<Stream>& other) { return other.get() == &stream; };
  if (std::any_of(block->used_on.begin(), block->used_on.end(), is_same)) return;
  block->used_on.push_back(stream.shared_from_this());
}

MemoryRange Allocator::segment_of(const Block* block) const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return {block->segment->address, block->segment->bytes};
}

uint32_t Allocator::generation_of(const Block* block) noexcept { return block->generation; }
const void* Allocator::pool_of(const Block* block) noexcept { return block->keeps.get(); }
uint32_t Allocator::stream_of(const Block* block) noexcept { return block->stream; }
unify_address Allocator::address_of(const Block* block) noexcept { return block->address; }
size_t Allocator::bytes_of(const Block* block) noexcept { return block->requested; }

// What was let go of ends as far as it can: things give back memory, and memory the pool of a graph.
void Allocator::catch_up() const {
  reclaim();
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->collect();
  }
  reclaim();
}

void Allocator::trim() {
  state_->device.wait_for_work();
  catch_up();
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->collect();
  state_->free_unused();
}

MemoryStatistics Allocator::statistics() const {
  catch_up();
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->settle();
  return state_->statistics;
}

void Allocator::reset_peaks() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->settle();
  state_->statistics.allocated_bytes_peak = state_->statistics.allocated_bytes;
  state_->statistics.reserved_bytes_peak = state_->statistics.reserved_bytes;
}

std::vector<SegmentSnapshot> Allocator::snapshot() const {
  catch_up();
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->settle();
  std::vector<SegmentSnapshot> result;
  const auto add = [&](const Pool& pool) {
    for (const Segment& segment : pool.segments) {
      SegmentSnapshot copy{segment.address, segment.bytes, {}};
      for (const Block* block = segment.first; block != nullptr; block = block->next) {
        const char* state = block->is_free ? "free" : block->waits_for.empty() ? "allocated" : "waiting";
        copy.blocks.push_back({block->address, block->bytes, block->requested, state, block->stream});
      }
      result.push_back(std::move(copy));
    }
  };
  add(state_->common);
  for (const Pool* pool : state_->graphs) add(*pool);
  return result;
}

void Allocator::set_limit(uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->limit = bytes;
}

void Allocator::set_expandable(bool is_expandable) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->is_expandable = is_expandable && state_->device.has_virtual_memory();
}

bool Allocator::is_expandable(const Block* block) const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return block->generation == state_->device.generation() && block->segment->is_expandable();
}

// A graph's own memory. Ends after the work that used it: the graph's launches, for which the graph has waited, and
// what was enqueued besides on the stream that recorded it.
struct Allocator::GraphPool : Reclaimable {
  GraphPool(State& owner, Stream& stream) : state(owner), origin(stream.shared_from_this()) {}

  bool end() noexcept override {
    const auto call = state.device.call();
    if (origin != nullptr) {
      const std::lock_guard<std::mutex> order(origin->mutex());
      if (origin->generation() == state.device.generation()) mark = Mark(*origin);
    }
    origin.reset();
    if (!mark.has_passed()) return false;
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.graphs.remove(&pool);
    for (Segment& segment : pool.segments) {
      const bool is_outdated = segment.first->generation != state.device.generation();
      for (Block* block = segment.first; block != nullptr;) delete std::exchange(block, block->next);
      if (is_outdated) continue;  // a reset took the memory away
      state.free_segment(segment);
      --state.statistics.segments;
    }
    return true;
  }

  State& state;
  std::shared_ptr<Stream> origin;  // until it is marked
  Mark mark;
  Pool pool;
};

std::shared_ptr<void> Allocator::begin_private_pool(Stream& stream) {
  State& state = *state_;
  const std::shared_ptr<GraphPool> owner = reclaimed(new GraphPool(state, stream));
  std::shared_ptr<Pool> pool(owner, &owner->pool);
  const std::lock_guard<std::mutex> lock(state.mutex);
  state.graphs.push_back(pool.get());
  state.recording[stream.id()] = pool;
  return pool;
}

void Allocator::end_private_pool(Stream& stream) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->recording.erase(stream.id());
}

bool Allocator::serves(const Stream& stream) const noexcept {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->streams.count(stream.id()) != 0;
}

void Allocator::retire(const Stream& stream) noexcept {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  State& state = *state_;
  if (state.streams.erase(stream.id()) == 0) return;
  for (Segment& segment : state.common.segments) {
    if (segment.stream == stream.id()) segment.stream = 0;
    for (Block* block = segment.first; block != nullptr; block = block->next) {
      if (block->stream == stream.id() && !block->is_free) block->stream = 0;
    }
  }
  state.relabel(stream.id(), 0);
}

std::unique_lock<std::mutex> Allocator::lock() { return std::unique_lock<std::mutex>(state_->mutex); }

void Allocator::forget() noexcept {
  State& state = *state_;
  for (Block* next = state.given_back.take(); next != nullptr;) {
    Block* block = std::exchange(next, next->next_let_go);
    if (block->generation + 1 != state.device.generation() && block->keeps == nullptr) {
      delete block;  // no segment has it any more since an earlier reset
      continue;
    }
    block->is_free = true;
    block->used_on.clear();
    block->keeps.reset();
  }
  for (Block* block : state.waiting) block->keeps.reset();
  for (Segment& segment : state.common.segments) {
    if (segment.is_expandable()) segment.range->forget();
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

}  // namespace unify
