// Runs one kernel of an object file where no Python is: run_object OBJECT KERNEL REQUEST ANSWER.
//
// REQUEST: 64-bit numbers grid x, y, z, bytes of scratch, of buffers, of arguments, count of pointers; for each of
// these its offset in the arguments and what it points to, counted from the start of the buffers; the arguments; the
// buffers.
//
// ANSWER: the buffers; `status kind x y z line`, then message and file of the fault, a line each.
#include <unify/host_kernel.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "backends/host_elf.h"

namespace {

std::vector<char> contents(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Reader {
 public:
  explicit Reader(const char* path) : data_(contents(path)), at_(data_.data()) {}
  const char* take(size_t bytes) {
    const char* here = at_;
    at_ += bytes;
    return here;
  }
  uint64_t number() {
    uint64_t value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }

 private:
  std::vector<char> data_;
  const char* at_;
};

char* aligned(size_t bytes) { return static_cast<char*>(std::aligned_alloc(64, (bytes + 127) / 64 * 64)); }

}  // namespace

int main(int, char** argv) {
  const std::vector<char> image = contents(argv[1]);
  std::string why;
  const auto object = unify::host::LoadedObject::load(image.data(), image.size(), why);
  if (object == nullptr) {
    std::fprintf(stderr, "%s\n", why.c_str());
    return 1;
  }
  Reader request(argv[3]);
  unify_host_call call{};
  unify_host_fault fault{};
  uint64_t programs = 1;
  for (uint32_t& extent : call.grid) {
    extent = static_cast<uint32_t>(request.number());
    programs *= extent;
  }
  call.scratch = aligned(request.number());
  call.fault = &fault;
  const size_t bytes = request.number();
  const size_t args_bytes = request.number();
  std::vector<std::array<uint64_t, 2>> pointers(request.number());
  for (auto& [offset, target] : pointers) {
    offset = request.number();
    target = request.number();
  }
  char* args = aligned(args_bytes);
  std::memcpy(args, request.take(args_bytes), args_bytes);
  call.args = args;
  char* buffers = aligned(bytes);
  std::memcpy(buffers, request.take(bytes), bytes);
  for (const auto& [offset, target] : pointers) {
    const char* address = buffers + target;
    std::memcpy(args + offset, &address, sizeof address);
  }
  const auto kernel = reinterpret_cast<unify_host_kernel>(object->find(argv[2]));
  const int status = kernel(&call, 0, programs);
  std::ofstream answer(argv[4], std::ios::binary);
  answer.write(buffers, static_cast<std::streamsize>(bytes));
  answer << status << ' ' << fault.kind << ' ' << fault.program[0] << ' ' << fault.program[1] << ' ' << fault.program[2]
         << ' ' << fault.line << '\n'
         << (fault.message != nullptr ? fault.message : "") << '\n'
         << (fault.file != nullptr ? fault.file : "");
}
