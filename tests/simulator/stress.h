// A simulated driver under many threads, by dlopen as a program would: for the sanitizers. What each front's program
// does.
//   stress LIBRARY IMAGE     IMAGE: a file with the kernel `add`: adds 1 to each float of its data
// A front has its driver's calls, each of which exits unless it succeeds: use and leave (a device, on this thread),
// load, unload, make_stream, make_event, allocate, fill (zeros), record, wait, add, synchronize, begin, end (a
// recording), launch, call, read, destroy (of everything that was made); configure, fault_and_reset, and kAlsoGone of
// what is counted.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                  \
    }                                                                                \
  } while (false)

inline void* library = nullptr;
inline std::vector<char> image;
constexpr uint32_t kCount = 1000;
constexpr size_t kBytes = kCount * sizeof(float);

// Fills on one stream, adds on another, replays a graph of both, and looks at what came of it.
template <typename Front, typename Module>
void turn(const Front& front, const Module& module) {
  const auto first = front.make_stream(0);
  const auto second = front.make_stream(1);
  const auto event = front.make_event(0);
  const auto back = front.make_event(1);
  const auto data = front.allocate();
  const auto work = [&] {
    front.fill(data, first);
    front.record(event, first);
    front.wait(second, event);
    front.add(module, data, second);
    front.record(back, second);
    front.wait(first, back);
    front.add(module, data, first);
  };
  work();
  front.synchronize(first);
  front.begin(first);
  work();
  const auto graph = front.end(first);
  for (int i = 0; i < 3; ++i) front.launch(graph, first);
  front.add(module, data, first);
  std::atomic<int> calls{0};
  front.call(first, [](void* counter) { ++*static_cast<std::atomic<int>*>(counter); }, &calls);
  const std::vector<float> out = front.read(data, first);
  CHECK(calls == 1);
  for (const float value : out) CHECK(value == 3);
  front.destroy(graph);
  front.destroy(data);
  for (const auto made : {event, back}) front.destroy(made);
  for (const auto made : {first, second}) front.destroy(made);
}

template <typename Front>
void run(int device) {
  const Front front;
  front.use(device);
  const auto module = front.load();
  for (int i = 0; i < 10; ++i) turn(front, module);
  front.unload(module);
  front.leave(device);
}

template <typename Front>
int stress(int count, char** arguments) {
  CHECK(count == 3);
  library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) std::fprintf(stderr, "%s\n", dlerror());
  CHECK(library != nullptr);
  std::ifstream file(arguments[2], std::ios::binary);
  image.assign(std::istreambuf_iterator<char>(file), {});
  CHECK(!image.empty());
  Front::configure();
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) threads.emplace_back([i] { run<Front>(i % 2); });
  threads.emplace_back([] { Front().fault_and_reset(2); });
  for (std::thread& thread : threads) thread.join();
  const auto live = reinterpret_cast<int64_t (*)(int, const char*)>(dlsym(library, "unify_simulator_live"));
  for (const char* kind : {"bytes", "allocations", "streams", "events", "modules", "graphs", Front::kAlsoGone}) {
    for (int device = 0; device < 3; ++device) CHECK(live(device, kind) == 0);
  }
  std::puts("well");
  return 0;
}
