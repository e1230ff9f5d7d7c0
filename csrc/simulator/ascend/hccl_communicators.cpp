// HCCL's functions that make communicators and ask about them.
#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "hccl_communicator.h"

using namespace unify::simulator;

namespace {

struct CommSettings {
  std::string name;  // empty: made up
  std::chrono::seconds timeout{};
};

struct ConfigHead {
  size_t bytes;
  uint32_t magic;
  uint32_t version;
};

// Seconds from the environment; false for other texts.
bool read_seconds(const char* variable, int64_t least, int64_t most, int64_t otherwise, std::chrono::seconds& out) {
  const char* text = std::getenv(variable);
  out = std::chrono::seconds(otherwise);
  if (text == nullptr || *text == 0) return true;
  char* end = nullptr;
  errno = 0;
  const int64_t value = std::strtoll(text, &end, 10);
  if (*end != 0 || errno != 0 || value < least || value > most) {
    refuse(HCCL_E_PARA, "EI0001: " + std::string(variable) + "=" + text + ": seconds from " + std::to_string(least) +
                            " to " + std::to_string(most) + " are possible.");
    return false;
  }
  out = std::chrono::seconds(value);
  return true;
}

// HCCL's own least is 120 s: here a test may wait for less.
bool read_connect_timeout(std::chrono::seconds& out) { return read_seconds("HCCL_CONNECT_TIMEOUT", 1, 7200, 120, out); }

Result read_settings(const HcclCommConfig* config, CommSettings& out) {
  if (!read_seconds("HCCL_EXEC_TIMEOUT", 0, INT32_MAX, 1836, out.timeout)) return HCCL_E_PARA;
  if (config == nullptr) return kSuccess;
  ConfigHead head{};
  std::memcpy(&head, config->reserved, sizeof head);
  if (head.magic != HCCL_COMM_CONFIG_MAGIC_WORD || head.bytes < sizeof config->reserved) {
    return refuse(HCCL_E_PARA, "The configuration was not initialised by HcclCommConfigInit.");
  }
  const auto has = [&](size_t offset, size_t bytes) { return head.bytes >= offset + bytes; };
  if (has(offsetof(HcclCommConfig, hcclCommName), sizeof config->hcclCommName)) {
    out.name.assign(config->hcclCommName, strnlen(config->hcclCommName, COMM_NAME_MAX_LENGTH - 1));
  }
  if (has(offsetof(HcclCommConfig, hcclExecTimeOut), sizeof(int32_t)) && config->hcclExecTimeOut >= 0) {
    out.timeout = std::chrono::seconds(config->hcclExecTimeOut);
  }
  return kSuccess;
}

std::shared_ptr<Communicator> make_communicator(const std::shared_ptr<Meeting>& meeting, uint32_t size, uint32_t rank,
                                                int device, const CommSettings& settings) {
  auto comm = std::make_shared<Communicator>();
  comm->meeting = meeting;
  comm->size = size;
  comm->rank = rank;
  comm->device = device;
  comm->timeout = settings.timeout;
  comm->name = settings.name;
  if (comm->name.empty()) {
    char name[32];
    std::snprintf(name, sizeof name, "simulated_%016llx", static_cast<unsigned long long>(meeting->head().key[0]));
    comm->name = name;
  }
  comm->restart();
  return comm;
}

Result enter(Meeting& meeting, uint32_t size, uint32_t rank, int device) {
  uint32_t said = 0;
  if (!meeting.head().size.compare_exchange_strong(said, size) && said != size) {
    return refuse(HCCL_E_PARA, "EI0005: the ranks disagree: rank " + std::to_string(rank) + " says nRanks=" +
                                   std::to_string(size) + ", another one said " + std::to_string(said) + ".");
  }
  if (meeting.join(rank, device)) return kSuccess;
  return refuse(HCCL_E_PARA, "Rank " + std::to_string(rank) + " is taken by process " +
                                 std::to_string(meeting.rank(rank).process.load()) + ".");
}

// Waits for a change, without the mutex. What then became of the context.
Result sleep(Call& call, Meeting& meeting, uint32_t bell) {
  call.lock.unlock();
  meeting.sleep(bell);
  call.lock.lock();
  apply_due_faults(*call.context->device);
  return result_of(*call.context);
}

// Waits until all ranks are there. `until` is of the call's beginning.
Result wait_for_all(Call& call, Communicator& comm, Deadline until, std::chrono::seconds timeout) {
  Meeting& meeting = *comm.meeting;
  for (;;) {
    const uint32_t bell = meeting.head().bell.load();
    std::string missing;
    for (uint32_t rank = 0; rank < comm.size; ++rank) {
      if (meeting.rank(rank).process.load() == 0) {
        missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
      }
    }
    if (missing.empty()) return kSuccess;
    for (uint32_t rank = 0; rank < comm.size; ++rank) {
      if (meeting.is_there(rank)) continue;
      return refuse(HCCL_E_REMOTE, "EI0006: " + name_of(comm, rank) + " was there and went, its process is " +
                                       std::to_string(meeting.rank(rank).process.load()) + ".");
    }
    if (std::chrono::steady_clock::now() >= until) {
      return refuse(HCCL_E_TIMEOUT, "EI0006: " + name_of(comm, comm.rank) + " waited " +
                                        std::to_string(timeout.count()) + " s for ranks " + missing +
                                        " (HCCL_CONNECT_TIMEOUT).");
    }
    if (const Result result = sleep(call, meeting, bell); result != kSuccess) return result;
  }
}

Result check_rank(uint32_t size, uint32_t rank) {
  if (size == 0 || size > kMostRanks) {
    return refuse(HCCL_E_PARA,
                  "nRanks=" + std::to_string(size) + ", 1 to " + std::to_string(kMostRanks) + " are possible.");
  }
  if (rank < size) return kSuccess;
  return refuse(HCCL_E_PARA, "rank=" + std::to_string(rank) + ", of nRanks=" + std::to_string(size) + ".");
}

Result join(Call& call, const Ticket& ticket, uint32_t size, uint32_t rank, const CommSettings& settings,
            Deadline until, std::chrono::seconds timeout, HcclComm* out) {
  const std::shared_ptr<Meeting> meeting = open_meeting(ticket);
  if (meeting == nullptr) {
    return refuse(HCCL_E_PARA, "The root info is none of HcclGetRootInfo, or the process that made it has ended.");
  }
  const int device = call.context->device->index;
  if (const Result result = enter(*meeting, size, rank, device); result != kSuccess) return result;
  const auto comm = make_communicator(meeting, size, rank, device, settings);
  if (const Result result = wait_for_all(call, *comm, until, timeout); result != kSuccess) return result;
  end_invitation(ticket);
  *out = communicators().all.add<HcclComm>(comm);
  return kSuccess;
}

HcclResult init(const char* name, uint32_t size, const HcclRootInfo* info, uint32_t rank, const HcclCommConfig* config,
                HcclComm* out) {
  return to_hccl(with_context(name, [&](Call& call) -> Result {
    if (info == nullptr || out == nullptr) return HCCL_E_PTR;
    CommSettings settings;
    std::chrono::seconds timeout{};
    if (!read_connect_timeout(timeout)) return HCCL_E_PARA;
    const Deadline until = std::chrono::steady_clock::now() + timeout;
    if (const Result result = read_settings(config, settings); result != kSuccess) return result;
    if (const Result result = check_rank(size, rank); result != kSuccess) return result;
    if (const Result result = hang_here(call); result != kSuccess) return result;
    Ticket ticket{};
    std::memcpy(&ticket, info->internal, sizeof ticket);
    return join(call, ticket, size, rank, settings, until, timeout, out);
  }));
}

// Tells the other ranks of a group where it meets.
Group* invite(Meeting& parent, uint64_t id, uint64_t times, const Ticket& ticket) {
  for (Group& group : parent.head().groups) {
    uint32_t state = 0;
    if (!group.state.compare_exchange_strong(state, 1)) continue;
    group.id = id;
    group.times = times;
    group.ticket = ticket;
    group.state.store(2);
    parent.ring();
    return &group;
  }
  return nullptr;
}

bool find_group(Meeting& parent, uint64_t id, uint64_t times, Ticket& out) {
  for (const Group& group : parent.head().groups) {
    if (group.state.load() != 2 || group.id != id || group.times != times) continue;
    out = group.ticket;
    return true;
  }
  return false;
}

// Which ranks of which communicator make it, and how often the same ones did before.
uint64_t number_group(Communicator& parent, const uint32_t* ranks, uint32_t size, uint64_t id, uint64_t& times) {
  uint64_t hash = id ^ parent.epoch << 32;
  for (uint32_t i = 0; i < size; ++i) hash = (hash ^ ranks[i]) * 0x100000001b3ULL + size;
  times = parent.groups[hash]++;
  return hash;
}

Result make_group(Call& call, Communicator& parent, const uint32_t* ranks, uint32_t size, uint64_t id, uint32_t rank,
                  const CommSettings& settings, HcclComm* out) {
  for (uint32_t i = 0; i < size; ++i) {
    if (ranks[i] >= parent.size || std::find(ranks, ranks + i, ranks[i]) != ranks + i) {
      return refuse(HCCL_E_PARA, "rankIds has " + std::to_string(ranks[i]) + ", which is no rank of communicator " +
                                     parent.name + ", or twice.");
    }
  }
  if (ranks[rank] != parent.rank) {
    return refuse(HCCL_E_PARA, "subCommRankId=" + std::to_string(rank) + " is rank " + std::to_string(ranks[rank]) +
                                   " by rankIds, the call is of rank " + std::to_string(parent.rank) + ".");
  }
  std::chrono::seconds timeout{};
  if (!read_connect_timeout(timeout)) return HCCL_E_PARA;
  const Deadline until = std::chrono::steady_clock::now() + timeout;
  uint64_t times = 0;
  const uint64_t group = number_group(parent, ranks, size, id, times);
  const std::shared_ptr<Meeting> meeting = parent.meeting;
  Ticket ticket{};
  if (rank == 0) {
    if (!make_meeting(ticket)) return refuse(HCCL_E_SYSCALL, "There is no memory or no descriptor left.");
    Group* const entry = invite(*meeting, group, times, ticket);
    Result result = HCCL_E_UNAVAIL;
    if (entry != nullptr) {
      result = join(call, ticket, size, rank, settings, until, timeout, out);
      entry->state.store(0);
    }
    end_invitation(ticket);
    return result;
  }
  for (;;) {
    const uint32_t bell = meeting->head().bell.load();
    if (find_group(*meeting, group, times, ticket)) break;
    if (!meeting->is_there(ranks[0]))
      return refuse(HCCL_E_REMOTE, name_of(parent, ranks[0]) + " is not there any more.");
    if (std::chrono::steady_clock::now() >= until) {
      return refuse(HCCL_E_TIMEOUT, "EI0006: " + name_of(parent, parent.rank) + " waited " +
                                        std::to_string(timeout.count()) + " s for rank " + std::to_string(ranks[0]) +
                                        " to make sub-communicator " + std::to_string(id) + " (HCCL_CONNECT_TIMEOUT).");
    }
    if (const Result result = sleep(call, *meeting, bell); result != kSuccess) return result;
  }
  return join(call, ticket, size, rank, settings, until, timeout, out);
}

template <typename Work>
HcclResult with_communicator(const char* name, HcclComm handle, Work&& work) {
  return to_hccl(with_driver(name, [&](Call&) -> Result {
    std::shared_ptr<Communicator> comm;
    if (const Result result = find_communicator(handle, comm); result != kSuccess) return result;
    return work(*comm);
  }));
}

}  // namespace

UNIFY_SIMULATOR_EXPORT HcclResult HcclGetRootInfo(HcclRootInfo* info) {
  return to_hccl(with_driver("HcclGetRootInfo", [&](Call&) -> Result {
    if (info == nullptr) return HCCL_E_PTR;
    Ticket ticket{};
    if (!make_meeting(ticket)) return refuse(HCCL_E_SYSCALL, "There is no memory or no descriptor left.");
    std::memset(info->internal, 0, sizeof info->internal);
    std::memcpy(info->internal, &ticket, sizeof ticket);
    return kSuccess;
  }));
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclCommInitRootInfo(uint32_t size, const HcclRootInfo* info, uint32_t rank,
                                                       HcclComm* out) {
  return init("HcclCommInitRootInfo", size, info, rank, nullptr, out);
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclCommInitRootInfoConfig(uint32_t size, const HcclRootInfo* info, uint32_t rank,
                                                             const HcclCommConfig* config, HcclComm* out) {
  if (config == nullptr) return to_hccl(finish("HcclCommInitRootInfoConfig", refuse(HCCL_E_PTR, "config is null.")));
  return init("HcclCommInitRootInfoConfig", size, info, rank, config, out);
}

// Ranks of the communicator that are not in the new one pass no ranks, and have nothing to do.
UNIFY_SIMULATOR_EXPORT HcclResult HcclCreateSubCommConfig(HcclComm* parent, uint32_t size, uint32_t* ranks, uint64_t id,
                                                          uint32_t rank, HcclCommConfig* config, HcclComm* out) {
  return to_hccl(with_context("HcclCreateSubCommConfig", [&](Call& call) -> Result {
    constexpr uint64_t kNotInIt = 0xffffffff;
    if (parent == nullptr || out == nullptr) return HCCL_E_PTR;
    if (ranks == nullptr && id == kNotInIt) {
      *out = nullptr;
      return kSuccess;
    }
    if (ranks == nullptr || config == nullptr) return HCCL_E_PTR;
    std::shared_ptr<Communicator> comm;
    CommSettings settings;
    if (const Result result = find_communicator(*parent, comm); result != kSuccess) return result;
    if (const Result result = read_settings(config, settings); result != kSuccess) return result;
    if (const Result result = check_rank(size, rank); result != kSuccess) return result;
    if (const Result result = hang_here(call); result != kSuccess) return result;
    return make_group(call, *comm, ranks, size, id, rank, settings, out);
  }));
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclCommInitAll(uint32_t size, int32_t* devices, HcclComm* out) {
  return to_hccl(with_driver("HcclCommInitAll", [&](Call&) -> Result {
    if (out == nullptr) return HCCL_E_PTR;
    if (const Result result = check_rank(size, 0); result != kSuccess) return result;
    CommSettings settings;
    if (const Result result = read_settings(nullptr, settings); result != kSuccess) return result;
    Ticket ticket{};
    if (!make_meeting(ticket)) return refuse(HCCL_E_SYSCALL, "There is no memory or no descriptor left.");
    std::vector<std::shared_ptr<Communicator>> made;
    for (uint32_t rank = 0; rank < size; ++rank) {
      const int32_t device = devices == nullptr ? static_cast<int32_t>(rank) : devices[rank];
      const auto is_same = [&](const auto& each) { return each->device == device; };
      if (find_device(device) == nullptr || std::any_of(made.begin(), made.end(), is_same)) {
        end_invitation(ticket);
        return refuse(HCCL_E_PARA, "There is no device " + std::to_string(device) + ", or it is named twice.");
      }
      const std::shared_ptr<Meeting> meeting = open_meeting(ticket);
      if (meeting == nullptr || !meeting->join(rank, device)) return HCCL_E_INTERNAL;
      made.push_back(make_communicator(meeting, size, rank, device, settings));
    }
    end_invitation(ticket);
    for (uint32_t rank = 0; rank < size; ++rank) out[rank] = communicators().all.add<HcclComm>(made[rank]);
    return kSuccess;
  }));
}

// What is enqueued keeps it until it is done.
UNIFY_SIMULATOR_EXPORT HcclResult HcclCommDestroy(HcclComm handle) {
  return with_communicator("HcclCommDestroy", handle, [&](const Communicator&) -> Result {
    communicators().all.remove(handle);
    return kSuccess;
  });
}

// Its work ends without being done, and there is none until it is resumed.
UNIFY_SIMULATOR_EXPORT HcclResult HcclCommSuspend(HcclComm handle) {
  return with_communicator("HcclCommSuspend", handle, [&](Communicator& comm) -> Result {
    comm.is_suspended = true;
    comm.why = "it is suspended";
    return kSuccess;
  });
}

// All ranks call it. What each had under way is forgotten.
UNIFY_SIMULATOR_EXPORT HcclResult HcclCommResume(HcclComm handle) {
  return with_communicator("HcclCommResume", handle, [&](Communicator& comm) -> Result {
    ++comm.epoch;
    comm.restart();
    return kSuccess;
  });
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclGetRankSize(HcclComm handle, uint32_t* out) {
  return with_communicator("HcclGetRankSize", handle, [&](const Communicator& comm) -> Result {
    if (out == nullptr) return HCCL_E_PTR;
    *out = comm.size;
    return kSuccess;
  });
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclGetRankId(HcclComm handle, uint32_t* out) {
  return with_communicator("HcclGetRankId", handle, [&](const Communicator& comm) -> Result {
    if (out == nullptr) return HCCL_E_PTR;
    *out = comm.rank;
    return kSuccess;
  });
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclGetCommName(HcclComm handle, char* out) {
  return with_communicator("HcclGetCommName", handle, [&](const Communicator& comm) -> Result {
    if (out == nullptr) return HCCL_E_PTR;
    std::memcpy(out, comm.name.c_str(), comm.name.size() + 1);
    return kSuccess;
  });
}

// The call itself succeeds. Its thread then finds the reason where those of calls that fail are.
UNIFY_SIMULATOR_EXPORT HcclResult HcclGetCommAsyncError(HcclComm handle, HcclResult* out) {
  return with_communicator("HcclGetCommAsyncError", handle, [&](const Communicator& comm) -> Result {
    if (out == nullptr) return HCCL_E_PTR;
    *out = comm.failure == HCCL_SUCCESS && comm.is_suspended ? HCCL_E_SUSPENDING : comm.failure;
    if (comm.failure != HCCL_SUCCESS) finish("HcclGetCommAsyncError", refuse(comm.result, comm.why));
    return kSuccess;
  });
}

UNIFY_SIMULATOR_EXPORT const char* HcclGetErrorString(HcclResult code) { return reason_of(static_cast<Result>(code)); }

UNIFY_SIMULATOR_EXPORT uint32_t HcclGetCommConfigCapability() { return HCCL_COMM_CONFIG_RESERVED; }

// Every sum here is computed in the same order each time, whatever is asked for.
UNIFY_SIMULATOR_EXPORT HcclResult HcclSetConfig(HcclConfig config, HcclConfigValue value) {
  return to_hccl(with_driver("HcclSetConfig", [&](Call&) -> Result {
    const auto found = communicators().settings.find(config);
    if (found == communicators().settings.end()) {
      return refuse(HCCL_E_NOT_SUPPORT, "config=" + std::to_string(config) + " is not served.");
    }
    if (value.value < 0 || value.value > 2) return refuse(HCCL_E_PARA, "value=" + std::to_string(value.value) + ".");
    found->second = value.value;
    return kSuccess;
  }));
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclGetConfig(HcclConfig config, HcclConfigValue* out) {
  return to_hccl(with_driver("HcclGetConfig", [&](Call&) -> Result {
    if (out == nullptr) return HCCL_E_PTR;
    const auto found = communicators().settings.find(config);
    if (found == communicators().settings.end()) {
      return refuse(HCCL_E_NOT_SUPPORT, "config=" + std::to_string(config) + " is not served.");
    }
    out->value = found->second;
    return kSuccess;
  }));
}
