// Memory of other devices, and memory and events of other processes.
#include <unistd.h>

#include "ascend_backend.h"
#include "process_mark.h"

namespace unify::ascend {
namespace {

std::mutex ways;  // before a device's own

bool is_open(Device& device, Device& peer) {
  const std::lock_guard<std::mutex> lock(device.mutex);
  return std::find(device.peers.begin(), device.peers.end(), &peer) != device.peers.end();
}

void forget(Device& device, const Device& peer) {
  const std::lock_guard<std::mutex> lock(device.mutex);
  device.peers.erase(std::remove(device.peers.begin(), device.peers.end(), &peer), device.peers.end());
}

// A way is open once both ends have opened it: torch_npu's NPUPeerToPeerAccess.cpp.
unify_status open_way(Device& device, Device& peer) {
  unify_status status = run(device, [&] { return driver.aclrtDeviceEnablePeerAccess(peer.index, 0); });
  if (status == UNIFY_OK) status = run(peer, [&] { return driver.aclrtDeviceEnablePeerAccess(device.index, 0); });
  if (status == UNIFY_OK) status = run(peer, [&] { return open_virtual(peer, device); });
  if (status == UNIFY_OK) status = run(device, [&] { return open_virtual(device, peer); });
  if (status != UNIFY_OK) {
    const std::lock_guard<std::mutex> lock(ways);
    forget(device, peer);
    forget(peer, device);
  }
  return status;
}

unify_status peer_access(unify_device handle, unify_device peer_handle, uint32_t enable, uint32_t* out_can) {
  Device& device = *of(handle);
  Device& peer = *of(peer_handle);
  *out_can = 0;
  // Without aclrtMemSetAccess memory that was mapped stays its device's own.
  if (virtual_granularity(device) != 0 && driver.aclrtMemSetAccess == nullptr) return UNIFY_OK;
  int32_t there = 0;
  int32_t back = 0;
  unify_status status = run(device, [&] {
    const aclError code = driver.aclrtDeviceCanAccessPeer(&there, device.index, peer.index);
    return code != ACL_SUCCESS ? code : driver.aclrtDeviceCanAccessPeer(&back, peer.index, device.index);
  });
  if (status == UNIFY_UNSUPPORTED) return UNIFY_OK;
  if (status != UNIFY_OK) return status;
  *out_can = there != 0 && back != 0 ? 1 : 0;
  if (*out_can == 0 || enable == 0 || is_open(peer, device)) return UNIFY_OK;
  return open_way(device, peer);
}

// What travels: ACL's key or handle, and who made it, since ACL does not say what opening it at home would do.
constexpr size_t kKeyBytes = 65;  // as torch_npu's NPUCachingAllocator.cpp has it
struct Token {
  char magic[8];
  uint32_t kind;
  int32_t process;
  uint64_t mark;
  char key[kKeyBytes];
};
static_assert(sizeof(Token) <= sizeof(unify_ipc_args::token));
static_assert(sizeof(aclrtIpcEventHandle) <= sizeof(Token::key));
constexpr char kMagic[8] = {'U', 'N', 'I', 'F', 'Y', 'A', 'S', '2'};

bool has_events() { return driver.aclrtIpcGetEventHandle != nullptr && driver.aclrtIpcOpenEventHandle != nullptr; }

// One key for each memory: what is imported by two of them lies at two places. It names nobody who may import it, as
// torch_npu's do. The device's own lock is not held meanwhile: a fault that is found here takes it.
unify_status export_memory(Device& device, unify_address address, Token& out) {
  const std::lock_guard<std::mutex> exporting(device.export_mutex);
  size_t bytes = 0;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    const auto found = device.allocated.find(address);
    if (found == device.allocated.end()) return refuse(UNIFY_INVALID_ARGUMENT, "no memory begins there");
    bytes = found->second;
    if (const auto known = device.exported.find(address); known != device.exported.end()) {
      std::memcpy(out.key, known->second.data(), known->second.size());
      return UNIFY_OK;
    }
  }
  const unify_status status = run(device, [&] {
    return driver.aclrtIpcMemGetExportKey(pointer(address), bytes, out.key, sizeof out.key,
                                          ACL_RT_IPC_MEM_EXPORT_FLAG_DISABLE_PID_VALIDATION);
  });
  const std::lock_guard<std::mutex> lock(device.mutex);
  if (status == UNIFY_OK) device.exported[address] = std::string(out.key, strnlen(out.key, sizeof out.key));
  return status;
}

unify_status export_event(Event& event, Token& out) {
  if (!has_events()) return refuse(UNIFY_UNSUPPORTED, "this CANN shares no events between processes");
  aclrtIpcEventHandle shared{};
  const unify_status status = run(*event.device, [&] { return driver.aclrtIpcGetEventHandle(event.handle, &shared); });
  std::memcpy(out.key, &shared, sizeof shared);
  if (status == UNIFY_OK) event.is_recorded = true;  // by others, perhaps
  return status;
}

unify_status ipc_export(unify_device handle, unify_ipc_args* args) {
  Token token{};
  std::memcpy(token.magic, kMagic, sizeof kMagic);
  token.kind = args->kind;
  token.process = getpid();
  token.mark = mark_of_process();
  const unify_status status = args->kind == UNIFY_IPC_EVENT ? export_event(*of(args->event), token)
                                                            : export_memory(*of(handle), args->address, token);
  std::memset(args->token, 0, sizeof args->token);
  if (status == UNIFY_OK) std::memcpy(args->token, &token, sizeof token);
  return status;
}

unify_status import_memory(Device& device, const Token& token, unify_address& out) {
  const std::string key(token.key, strnlen(token.key, sizeof token.key));
  void* memory = nullptr;
  const unify_status status = run(device, [&] {
    return driver.aclrtIpcMemImportByKey(&memory, key.c_str(), ACL_RT_IPC_MEM_IMPORT_FLAG_ENABLE_PEER_ACCESS);
  });
  if (status != UNIFY_OK) return status;
  out = address_of(memory);
  const std::lock_guard<std::mutex> lock(device.mutex);
  device.imported[out] = key;
  return UNIFY_OK;
}

unify_status import_event(Device& device, const Token& token, unify_event& out) {
  if (!has_events()) return refuse(UNIFY_UNSUPPORTED, "this CANN shares no events between processes");
  aclrtIpcEventHandle shared{};
  std::memcpy(&shared, token.key, sizeof shared);
  auto event = std::make_unique<Event>();
  event->device = &device;
  event->is_recorded = true;  // by whom it belongs to
  const unify_status status = run(device, [&] { return driver.aclrtIpcOpenEventHandle(shared, &event->handle); });
  if (status == UNIFY_OK) out = reinterpret_cast<unify_event>(event.release());
  return status;
}

unify_status ipc_import(unify_device handle, unify_ipc_args* args) {
  Token token{};
  std::memcpy(&token, args->token, sizeof token);
  if (std::memcmp(token.magic, kMagic, sizeof kMagic) != 0 || token.kind != static_cast<uint32_t>(args->kind)) {
    return refuse(UNIFY_INVALID_ARGUMENT, "this is no token of an Ascend device's memory or event");
  }
  if (token.process == getpid() && token.mark == mark_of_process()) {
    return refuse(UNIFY_INVALID_ARGUMENT, "the token was made by this same process");
  }
  return args->kind == UNIFY_IPC_MEMORY ? import_memory(*of(handle), token, args->address)
                                        : import_event(*of(handle), token, args->event);
}

unify_status close_memory(Device& device, unify_address address) {
  std::string key;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    const auto found = device.imported.find(address);
    if (found == device.imported.end()) return refuse(UNIFY_INVALID_ARGUMENT, "nothing was imported there");
    key = found->second;
    device.imported.erase(found);
  }
  return run(device, [&] { return driver.aclrtIpcMemClose(key.c_str()); });
}

unify_status ipc_close(unify_device handle, const unify_ipc_args* args) {
  if (args->kind == UNIFY_IPC_MEMORY) return close_memory(*of(handle), args->address);
  const std::unique_ptr<Event> event(of(args->event));
  return run(*event->device, [&] { return driver.aclrtDestroyEvent(event->handle); });
}

}  // namespace

// A reset of one end closes the way for both.
void forget_peers(Device& device) {
  const std::lock_guard<std::mutex> lock(ways);
  std::vector<Device*> peers;
  {
    const std::lock_guard<std::mutex> own(device.mutex);
    peers.swap(device.peers);
  }
  for (Device* peer : peers) forget(*peer, device);
}

void add_sharing(unify_backend& table) {
  table.peer_access = peer_access;
  const bool has_memory = driver.aclrtIpcMemGetExportKey != nullptr && driver.aclrtIpcMemImportByKey != nullptr &&
                          driver.aclrtIpcMemClose != nullptr;
  if (!has_memory) return;
  table.ipc_export = ipc_export;
  table.ipc_import = ipc_import;
  table.ipc_close = ipc_close;
}

}  // namespace unify::ascend
