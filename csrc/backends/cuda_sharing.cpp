// Memory of other devices, and memory and events of other processes.
#include <unistd.h>

#include "cuda_backend.h"
#include "process_mark.h"

namespace unify::cuda {
namespace {

unify_status peer_access(unify_device handle, unify_device peer, uint32_t enable, uint32_t* out_can) {
  Device& device = *of(handle);
  int can = 0;
  unify_status status = status_of(nullptr, driver.cuDeviceCanAccessPeer(&can, device.id, of(peer)->id));
  *out_can = can != 0 ? 1 : 0;
  if (status != UNIFY_OK || can == 0 || enable == 0) return status;
  return run(device, [&] {
    const CUresult code = driver.cuCtxEnablePeerAccess(of(peer)->context, 0);
    const bool is_enabled = code == CUDA_SUCCESS || code == CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
    return is_enabled ? open_virtual(*of(peer), device.id) : code;
  });
}

// What travels: the driver's handle, and who made it, since CUDA does not open a handle in its own process.
struct Token {
  char magic[8];
  uint32_t kind;
  int32_t process;
  uint64_t mark;
  char handle[64];
};
static_assert(sizeof(Token) <= sizeof(unify_ipc_args::token));
static_assert(sizeof(CUipcMemHandle) == sizeof(Token::handle) && sizeof(CUipcEventHandle) == sizeof(Token::handle));
constexpr char kMagic[8] = {'U', 'N', 'I', 'F', 'Y', 'C', 'U', '2'};

unify_status ipc_export(unify_device handle, unify_ipc_args* args) {
  Token token{};
  std::memcpy(token.magic, kMagic, sizeof kMagic);
  token.kind = args->kind;
  token.process = getpid();
  token.mark = mark_of_process();
  const unify_status status = run(*of(handle), [&] {
    if (args->kind == UNIFY_IPC_EVENT) {
      return driver.cuIpcGetEventHandle(reinterpret_cast<CUipcEventHandle*>(token.handle), of(args->event)->handle);
    }
    return driver.cuIpcGetMemHandle(reinterpret_cast<CUipcMemHandle*>(token.handle), args->address);
  });
  std::memset(args->token, 0, sizeof args->token);
  if (status == UNIFY_OK) std::memcpy(args->token, &token, sizeof token);
  return status;
}

template <typename Handle>
Handle handle_of(const Token& token) {
  Handle handle;
  std::memcpy(&handle, token.handle, sizeof handle);
  return handle;
}

unify_status ipc_import(unify_device handle, unify_ipc_args* args) {
  Device& device = *of(handle);
  Token token{};
  std::memcpy(&token, args->token, sizeof token);
  if (std::memcmp(token.magic, kMagic, sizeof kMagic) != 0 || token.kind != static_cast<uint32_t>(args->kind)) {
    return refuse(UNIFY_INVALID_ARGUMENT, "this is no token of a CUDA device's memory or event");
  }
  if (token.process == getpid() && token.mark == mark_of_process()) {
    return refuse(UNIFY_INVALID_ARGUMENT, "the token was made by this same process");
  }
  if (args->kind == UNIFY_IPC_MEMORY) {
    CUdeviceptr address = 0;
    const unify_status status = run(device, [&] {
      return driver.cuIpcOpenMemHandle(&address, handle_of<CUipcMemHandle>(token), CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
    });
    args->address = address;
    return status;
  }
  auto event = std::make_unique<Event>();
  event->device = &device;
  const unify_status status =
      run(device, [&] { return driver.cuIpcOpenEventHandle(&event->handle, handle_of<CUipcEventHandle>(token)); });
  if (status == UNIFY_OK) args->event = reinterpret_cast<unify_event>(event.release());
  return status;
}

unify_status ipc_close(unify_device handle, const unify_ipc_args* args) {
  if (args->kind == UNIFY_IPC_MEMORY) {
    return run(*of(handle), [&] { return driver.cuIpcCloseMemHandle(args->address); });
  }
  const std::unique_ptr<Event> event(of(args->event));
  return run(*event->device, [&] { return driver.cuEventDestroy(event->handle); });
}

}  // namespace

void add_sharing(unify_backend& table) {
  table.peer_access = peer_access;
  const bool has_ipc = driver.cuIpcGetMemHandle != nullptr && driver.cuIpcOpenMemHandle != nullptr &&
                       driver.cuIpcCloseMemHandle != nullptr && driver.cuIpcGetEventHandle != nullptr &&
                       driver.cuIpcOpenEventHandle != nullptr;
  if (!has_ipc) return;
  table.ipc_export = ipc_export;
  table.ipc_import = ipc_import;
  table.ipc_close = ipc_close;
}

}  // namespace unify::cuda
