#include "sharing.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "device.h"
#include "error.h"
#include "failures.h"
#include "leaks.h"
#include "reclaim.h"
#include "stream.h"

namespace unify {
namespace {

using Handle = std::array<uint8_t, sizeof(unify_ipc_args::token)>;  // the backend's own token

// An event's token is a Header, a tensor's has a Layout behind it.
struct Header {
  std::array<char, 8> magic;
  uint32_t version;
  uint32_t kind;  // unify_ipc_kind
  std::array<char, 48> device;
  std::array<uint8_t, sizeof(unify_device_info::uuid)> uuid;  // zeros if unknown
  Handle handle;  // of the whole segment; of nothing for a tensor without elements
};
struct Layout {
  std::array<char, 16> dtype;
  uint64_t ndim;
  uint64_t segment_bytes;
  uint64_t offset;  // of the first element, in the segment
  std::array<int64_t, kMaxDims> shape;
  std::array<int64_t, kMaxDims> strides;  // in elements
};
static_assert(sizeof(Header) == 208 && sizeof(Layout) == 168, "tokens have no padding");

constexpr std::array<char, 8> kMagic = {'u', 'n', 'i', 'f', 'y', 'i', 'p', 'c'};
constexpr uint32_t kVersion = 2;

[[noreturn]] void throw_no_token(const std::string& why) {
  throw Error(ErrorKind::kInvalidArgument,
              "from_shared: " + why + ". Pass the bytes that share() of the other process returned.");
}

template <size_t N>
void write_text(std::array<char, N>& out, const std::string& text) {
  std::copy_n(text.begin(), std::min(text.size(), N - 1), out.begin());
}

// Letters, digits and a few signs, ended by a zero: what names of devices and dtypes are made of.
template <size_t N>
std::string read_text(const std::array<char, N>& in, const char* what) {
  const auto end = std::find(in.begin(), in.end(), '\0');
  std::string text(in.begin(), end);
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == ':' || c == '_' ||
           c == '-';
  };
  if (text.empty() || end == in.end() || !std::all_of(text.begin(), text.end(), is_plain)) {
    throw_no_token(std::string("the token names no ") + what);
  }
  return text;
}

template <typename Part>
void append(std::string& token, const Part& part) {
  token.append(reinterpret_cast<const char*>(&part), sizeof part);
}

Header header_for(unify_ipc_kind kind, const Device& device) {
  Header header{};
  header.magic = kMagic;
  header.version = kVersion;
  header.kind = kind;
  write_text(header.device, device.name());
  std::copy_n(device.info().uuid, header.uuid.size(), header.uuid.begin());
  return header;
}

Header read_header(const std::string& token) {
  Header header{};
  if (token.size() < sizeof header) throw_no_token("a token of " + std::to_string(token.size()) + " bytes is cut off");
  std::memcpy(&header, token.data(), sizeof header);
  if (header.magic != kMagic) throw_no_token("the bytes are no token of unify");
  if (header.version != kVersion) {
    throw_no_token("the token is of version " + std::to_string(header.version) + ", this unify reads version " +
                   std::to_string(kVersion));
  }
  if (header.kind != UNIFY_IPC_MEMORY && header.kind != UNIFY_IPC_EVENT)
    throw_no_token("the token is of no known kind");
  const size_t whole = sizeof header + (header.kind == UNIFY_IPC_MEMORY ? sizeof(Layout) : 0);
  if (token.size() != whole) {
    throw_no_token("the token has " + std::to_string(token.size()) + " bytes, " + std::to_string(whole) + " are whole");
  }
  return header;
}

std::string kind_of(const std::string& name) { return name.substr(0, name.find(':')); }

// As read_header, of this kind and for this device.
Header read_header(const std::string& token, unify_ipc_kind kind, const Device& device) {
  const Header header = read_header(token);
  if (header.kind != static_cast<uint32_t>(kind)) {
    throw_no_token(kind == UNIFY_IPC_MEMORY ? "the token is of an event, not of a tensor"
                                            : "the token is of a tensor, not of an event");
  }
  const std::string name = read_text(header.device, "device");
  if (kind_of(name) != kind_of(device.name())) {
    throw Error(ErrorKind::kDeviceMismatch, "from_shared: the token is of " + name + ", which " + device.name() +
                                                " cannot open. Leave out device, or name one of the same kind.");
  }
  decltype(header.uuid) here{};
  std::copy_n(device.info().uuid, here.size(), here.begin());
  const decltype(here) unknown{};
  if (header.uuid != here && header.uuid != unknown && here != unknown) {
    throw Error(ErrorKind::kDeviceMismatch, "from_shared: the token is of the chip that is " + name +
                                                " in the other process; " + device.name() +
                                                " is another one here. Name that chip as device.");
  }
  return header;
}

// Where the tensor's elements lie in the segment: from `low`, `bytes` of them. False where that is no range of it.
bool find_extent(const Layout& layout, uint32_t width, uint64_t* out_low, uint64_t* out_bytes) {
  int64_t low = 0;
  int64_t high = 0;
  for (size_t i = 0; i < layout.ndim; ++i) {
    int64_t reach = 0;
    if (__builtin_mul_overflow(layout.shape[i] - 1, layout.strides[i], &reach)) return false;
    int64_t& end = reach < 0 ? low : high;
    if (__builtin_add_overflow(end, reach, &end)) return false;
  }
  int64_t first = 0;
  int64_t last = 0;
  if (layout.offset > INT64_MAX || layout.segment_bytes > INT64_MAX || layout.offset % width != 0) return false;
  const auto offset = static_cast<int64_t>(layout.offset);
  if (__builtin_mul_overflow(low, int64_t{width}, &first) || __builtin_add_overflow(first, offset, &first))
    return false;
  if (__builtin_mul_overflow(high, int64_t{width}, &last) || __builtin_add_overflow(last, offset, &last) ||
      __builtin_add_overflow(last, int64_t{width}, &last)) {
    return false;
  }
  if (first < 0 || last > static_cast<int64_t>(layout.segment_bytes)) return false;
  *out_low = static_cast<uint64_t>(first);
  *out_bytes = static_cast<uint64_t>(last - first);
  return true;
}

// Whether the shape has axes and elements that can be counted.
bool is_shape(const Layout& layout, uint32_t width) {
  if (layout.ndim > kMaxDims) return false;
  uint64_t bytes = width;
  for (size_t i = 0; i < layout.ndim; ++i) {
    const int64_t length = layout.shape[i];
    if (length < 0 || (length > 0 && bytes > (uint64_t{1} << 62) / static_cast<uint64_t>(length))) return false;
    bytes *= static_cast<uint64_t>(length);
  }
  return true;
}

unify_ipc_args args_of(unify_ipc_kind kind) {
  unify_ipc_args args{};
  args.struct_size = sizeof args;
  args.kind = kind;
  return args;
}

Handle export_handle(Device& device, unify_ipc_args args, const char* what) {
  check(device, nullptr, device.table().ipc_export(device.handle(), &args), what);
  Handle handle;
  std::memcpy(handle.data(), args.token, handle.size());
  return handle;
}

// The caller holds the device's call().
unify_ipc_args import_handle(Device& device, unify_ipc_kind kind, const Handle& handle, const char* what) {
  unify_ipc_args args = args_of(kind);
  std::memcpy(args.token, handle.data(), handle.size());
  const unify_status status = device.table().ipc_import(device.handle(), &args);
  if (status == UNIFY_OK) return args;
  Error error = error_of(device, {}, status, what);
  if (error.advice.empty() && error.native_code != 0) {  // a driver says that a handle is none, and not why
    error.advice = "Does the process that shared it still live, and keep it?";
    error.message += " " + error.advice;
  }
  device.failures().was_told(error);
  throw error;
}

// Nor may a backend be asked to close what a reset took away.
void close_import(Device& device, uint32_t generation, const unify_ipc_args& args) noexcept {
  if (generation != device.generation()) return;
  const unify_status status = device.table().ipc_close(device.handle(), &args);
  if (status != UNIFY_OK) device.failures().note(Failures::kNoStream, status, "closing what another process shared");
}

// What is open in this process, and by how many imports: a backend is not asked to open a handle twice.
struct Opened {
  unify_address address = 0;
  size_t imports = 0;
};
struct OpenedHandles {
  using Key = std::tuple<const Device*, uint32_t, Handle>;  // of a device's generation
  std::mutex mutex;                                         // within a device's call()
  std::map<Key, Opened> map;
};
OpenedHandles& opened() {
  static auto* instance = new OpenedHandles;  // things are let go of until the process ends
  return *instance;
}

class ImportedMemory : public Reclaimable {
 public:
  static std::shared_ptr<ImportedMemory> open(const std::shared_ptr<Device>& device, const Handle& handle) {
    auto import = std::make_unique<ImportedMemory>();
    const auto call = device->call();
    const std::lock_guard<std::mutex> lock(opened().mutex);
    import->key_ = {device.get(), device->generation(), handle};
    Opened& entry = opened().map[import->key_];
    if (entry.imports == 0) {
      try {
        entry.address = import_handle(*device, UNIFY_IPC_MEMORY, handle, "opening a tensor of another process").address;
      } catch (...) {
        opened().map.erase(import->key_);
        throw;
      }
    }
    ++entry.imports;
    import->device_ = device;
    import->address_ = entry.address;
    return reclaimed(import.release());
  }

  bool end() noexcept override {
    const auto call = device_->call();
    const std::lock_guard<std::mutex> lock(opened().mutex);
    const auto entry = opened().map.find(key_);
    if (--entry->second.imports > 0) return true;
    opened().map.erase(entry);
    unify_ipc_args args = args_of(UNIFY_IPC_MEMORY);
    args.address = address_;
    close_import(*device_, generation(), args);
    return true;
  }

  [[nodiscard]] unify_address address() const noexcept { return address_; }
  [[nodiscard]] uint32_t generation() const noexcept { return std::get<1>(key_); }

 private:
  std::shared_ptr<Device> device_;
  OpenedHandles::Key key_;
  unify_address address_ = 0;
};

class ImportedEvent : public Reclaimable {
 public:
  ImportedEvent(std::shared_ptr<Device> device, uint32_t generation, unify_event handle)
      : device_(std::move(device)), generation_(generation), handle_(handle) {}

  bool end() noexcept override {
    const auto call = device_->call();
    unify_ipc_args args = args_of(UNIFY_IPC_EVENT);
    args.event = handle_;
    close_import(*device_, generation_, args);
    return true;
  }

 private:
  std::shared_ptr<Device> device_;
  uint32_t generation_;
  unify_event handle_;
};

}  // namespace

void require_sharing(const Device& device, const char* what) {
  if (device.table().ipc_export != nullptr) return;
  const char* instead = device.is_host_visible() ? " Use multiprocessing.shared_memory, and unify.asarray over it."
                                                 : " Send a copy: tensor.numpy().";
  throw Error(ErrorKind::kUnsupported,
              device.name() + ": " + what + ": this backend shares nothing between processes." + instead);
}

std::string share(const Tensor& tensor, Stream& stream) {
  Device& device = tensor.device();
  require_sharing(device, "share");
  Header header = header_for(UNIFY_IPC_MEMORY, device);
  Layout layout{};
  write_text(layout.dtype, name(tensor.dtype));
  layout.ndim = static_cast<uint64_t>(tensor.ndim);
  layout.shape = tensor.shape;
  layout.strides = tensor.strides;
  tensor.storage->require_current();
  if (tensor.size() > 0) {
    if (tensor.storage->is_foreign()) {
      throw Error(ErrorKind::kUnsupported,
                  device.name() +
                      ": share: the tensor's memory comes from another library or another process. Share a copy() and "
                      "keep that, or pass on the token that it was opened from.");
    }
    stream.synchronize();
    const auto call = device.call();
    tensor.storage->require_current();
    if (tensor.storage->is_expandable()) {
      throw Error(ErrorKind::kUnsupported, device.name() +
                                               ": share: memory of expandable segments cannot be exported. Run without "
                                               "UNIFY_EXPANDABLE_SEGMENTS.");
    }
    const MemoryRange segment = *tensor.storage->segment();
    layout.segment_bytes = segment.bytes;
    layout.offset = tensor.address() - segment.address;
    unify_ipc_args args = args_of(UNIFY_IPC_MEMORY);
    args.address = segment.address;
    header.handle = export_handle(device, args, "sharing a tensor");
  }
  std::string token;
  append(token, header);
  append(token, layout);
  return token;
}

Tensor open_tensor(const std::shared_ptr<Device>& device, const std::string& token) {
  const char* caller = leaks::caller();
  const Header header = read_header(token, UNIFY_IPC_MEMORY, *device);
  Layout layout{};
  std::memcpy(&layout, token.data() + sizeof header, sizeof layout);
  Tensor tensor;
  try {
    tensor.dtype = dtype_from_name(read_text(layout.dtype, "dtype"));
  } catch (const Error&) {
    throw_no_token("the token names no dtype");
  }
  const uint32_t width = itemsize(tensor.dtype);
  if (!is_shape(layout, width)) throw_no_token("the token's shape is none");
  tensor.ndim = static_cast<int>(layout.ndim);
  tensor.shape = layout.shape;
  tensor.strides = layout.strides;
  require_sharing(*device, "from_shared");
  device->require_usable();
  if (tensor.size() == 0) {
    tensor.storage = std::make_shared<Storage>(device, 0, 0, std::shared_ptr<void>());
    return tensor;
  }
  uint64_t low = 0;
  uint64_t bytes = 0;
  if (!find_extent(layout, width, &low, &bytes)) throw_no_token("the token's tensor goes beyond its memory");
  reclaim();
  const std::shared_ptr<ImportedMemory> import = ImportedMemory::open(device, header.handle);
  tensor.offset_bytes = layout.offset - low;
  tensor.storage = std::make_shared<Storage>(device, import->address() + low, bytes, import, import->generation());
  leaks::held(tensor.storage.get(), leaks::Kind::kTensor, *device, bytes, caller);
  return tensor;
}

std::string share(const Event& event) {
  Device& device = event.device();
  require_sharing(device, "share");
  if (!event.is_shared() || event.is_imported()) {
    throw Error(ErrorKind::kInvalidArgument,
                device.name() + ": share: " +
                    (event.is_shared() ? "the event is another process's. Pass on the token that it was opened from."
                                       : "the event is not for other processes. Make it with shared=True."));
  }
  device.require_usable();
  Header header = header_for(UNIFY_IPC_EVENT, device);
  const auto call = device.call();
  event.require_current();
  unify_ipc_args args = args_of(UNIFY_IPC_EVENT);
  args.event = event.handle();
  header.handle = export_handle(device, args, "sharing an event");
  std::string token;
  append(token, header);
  return token;
}

std::shared_ptr<Event> open_event(const std::shared_ptr<Device>& device, const std::string& token) {
  const char* caller = leaks::caller();
  const Header header = read_header(token, UNIFY_IPC_EVENT, *device);
  require_sharing(*device, "from_shared");
  device->require_usable();
  reclaim();
  const auto call = device->call();
  const uint32_t generation = device->generation();
  const unify_ipc_args args =
      import_handle(*device, UNIFY_IPC_EVENT, header.handle, "opening an event of another process");
  std::shared_ptr<Event> event =
      Event::create_over(device, args.event, generation, reclaimed(new ImportedEvent(device, generation, args.event)));
  leaks::held(event.get(), leaks::Kind::kEvent, *device, 0, caller);
  return event;
}

std::string device_of_token(const std::string& token) { return read_text(read_header(token).device, "device"); }

}  // namespace unify
