// HCCL's functions as this library offers them, declared anew after Huawei's documentation. What it does not offer:
// refused.inc. tests/simulator/acl/test_abi.py compares them with the vendor's headers.
#pragma once

#include "acl_types.h"

enum HcclResult : unsigned {
#define RESULT(name, value, text) name = (value),
#include "hccl_results.inc"
#undef RESULT
};

using HcclComm = void*;

enum HcclReduceOp : unsigned {
  HCCL_REDUCE_SUM = 0,
  HCCL_REDUCE_PROD = 1,
  HCCL_REDUCE_MAX = 2,
  HCCL_REDUCE_MIN = 3,
};
enum HcclDataType : unsigned {
  HCCL_DATA_TYPE_INT8 = 0,
  HCCL_DATA_TYPE_INT16 = 1,
  HCCL_DATA_TYPE_INT32 = 2,
  HCCL_DATA_TYPE_FP16 = 3,
  HCCL_DATA_TYPE_FP32 = 4,
  HCCL_DATA_TYPE_INT64 = 5,
  HCCL_DATA_TYPE_UINT64 = 6,
  HCCL_DATA_TYPE_UINT8 = 7,
  HCCL_DATA_TYPE_UINT16 = 8,
  HCCL_DATA_TYPE_UINT32 = 9,
  HCCL_DATA_TYPE_FP64 = 10,
  HCCL_DATA_TYPE_BFP16 = 11,
  HCCL_DATA_TYPE_INT128 = 12,
  HCCL_DATA_TYPE_HIF8 = 14,
  HCCL_DATA_TYPE_FP8E4M3 = 15,
  HCCL_DATA_TYPE_FP8E5M2 = 16,
  HCCL_DATA_TYPE_FP8E8M0 = 17,
};
enum HcclConfig : unsigned { HCCL_DETERMINISTIC = 0 };
enum HcclSendRecvType : unsigned { HCCL_SEND = 0, HCCL_RECV = 1 };
constexpr uint32_t HCCL_COMM_CONFIG_RESERVED = 12;  // how many capabilities HcclCommConfig has
constexpr uint32_t HCCL_COMM_CONFIG_MAGIC_WORD = 0xf0f0f0f0;
constexpr uint32_t HCCL_ROOT_INFO_BYTES = 4108;
constexpr uint32_t COMM_NAME_MAX_LENGTH = 128;

union HcclConfigValue {
  int32_t value;
};
struct HcclRootInfo {
  char internal[4108];
};
struct HcclSendRecvItem {
  HcclSendRecvType sendRecvType;
  void* buf;
  uint64_t count;
  HcclDataType dataType;
  uint32_t remoteRank;
};
struct HcclCommConfig {
  char reserved[24];  // its size, the magic word, its version
  uint32_t hcclBufferSize;
  uint32_t hcclDeterministic;
  char hcclCommName[128];
  char hcclUdi[128];
  uint32_t hcclOpExpansionMode;
  uint32_t hcclRdmaTrafficClass;
  uint32_t hcclRdmaServiceLevel;
  uint32_t hcclWorldRankID;
  uint64_t hcclJobID;
  uint8_t aclGraphZeroCopyEnable;
  int32_t hcclExecTimeOut;
  char hcclAlgo[1600];
  char hcclRetryEnable[50];
  char hcclRetryParams[128];
  char hcclBufferName[128];
  uint32_t hcclQos;
  uint64_t hcclSymWinMaxMemSizePerRank;
};

// ---- communicators ----

UNIFY_SIMULATOR_EXPORT HcclResult HcclGetRootInfo(HcclRootInfo* rootInfo);
UNIFY_SIMULATOR_EXPORT HcclResult HcclCommInitRootInfo(uint32_t nRanks, const HcclRootInfo* rootInfo, uint32_t rank,
                                                       HcclComm* comm);
UNIFY_SIMULATOR_EXPORT HcclResult HcclCommInitRootInfoConfig(uint32_t nRanks, const HcclRootInfo* rootInfo,
                                                             uint32_t rank, const HcclCommConfig* config,
                                                             HcclComm* comm);
UNIFY_SIMULATOR_EXPORT HcclResult HcclCreateSubCommConfig(HcclComm* comm, uint32_t rankNum, uint32_t* rankIds,
                                                          uint64_t subCommId, uint32_t subCommRankId,
                                                          HcclCommConfig* config, HcclComm* subComm);
UNIFY_SIMULATOR_EXPORT HcclResult HcclCommInitAll(uint32_t ndev, int32_t* devices, HcclComm* comms);
UNIFY_SIMULATOR_EXPORT HcclResult HcclCommDestroy(HcclComm comm);
UNIFY_SIMULATOR_EXPORT HcclResult HcclCommSuspend(HcclComm comm);
UNIFY_SIMULATOR_EXPORT HcclResult HcclCommResume(HcclComm comm);
UNIFY_SIMULATOR_EXPORT HcclResult HcclGetRankSize(HcclComm comm, uint32_t* rankSize);
UNIFY_SIMULATOR_EXPORT HcclResult HcclGetRankId(HcclComm comm, uint32_t* rank);
UNIFY_SIMULATOR_EXPORT HcclResult HcclGetCommName(HcclComm comm, char* commName);
UNIFY_SIMULATOR_EXPORT HcclResult HcclGetCommAsyncError(HcclComm comm, HcclResult* asyncError);
UNIFY_SIMULATOR_EXPORT const char* HcclGetErrorString(HcclResult code);
UNIFY_SIMULATOR_EXPORT uint32_t HcclGetCommConfigCapability();
UNIFY_SIMULATOR_EXPORT HcclResult HcclSetConfig(HcclConfig config, HcclConfigValue configValue);
UNIFY_SIMULATOR_EXPORT HcclResult HcclGetConfig(HcclConfig config, HcclConfigValue* configValue);

// ---- operations: enqueued on a stream ----

UNIFY_SIMULATOR_EXPORT HcclResult HcclAllReduce(void* sendBuf, void* recvBuf, uint64_t count, HcclDataType dataType,
                                                HcclReduceOp op, HcclComm comm, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclBroadcast(void* buf, uint64_t count, HcclDataType dataType, uint32_t root,
                                                HcclComm comm, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclReduceScatter(void* sendBuf, void* recvBuf, uint64_t recvCount,
                                                    HcclDataType dataType, HcclReduceOp op, HcclComm comm,
                                                    aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclReduceScatterV(void* sendBuf, const void* sendCounts, const void* sendDispls,
                                                     void* recvBuf, uint64_t recvCount, HcclDataType dataType,
                                                     HcclReduceOp op, HcclComm comm, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclScatter(void* sendBuf, void* recvBuf, uint64_t recvCount, HcclDataType dataType,
                                              uint32_t root, HcclComm comm, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclAllGather(void* sendBuf, void* recvBuf, uint64_t sendCount, HcclDataType dataType,
                                                HcclComm comm, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclAllGatherV(void* sendBuf, uint64_t sendCount, void* recvBuf,
                                                 const void* recvCounts, const void* recvDispls, HcclDataType dataType,
                                                 HcclComm comm, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclReduce(void* sendBuf, void* recvBuf, uint64_t count, HcclDataType dataType,
                                             HcclReduceOp op, uint32_t root, HcclComm comm, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclAlltoAll(const void* sendBuf, uint64_t sendCount, HcclDataType sendType,
                                               const void* recvBuf, uint64_t recvCount, HcclDataType recvType,
                                               HcclComm comm, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclAlltoAllV(const void* sendBuf, const void* sendCounts, const void* sdispls,
                                                HcclDataType sendType, const void* recvBuf, const void* recvCounts,
                                                const void* rdispls, HcclDataType recvType, HcclComm comm,
                                                aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclAlltoAllVC(const void* sendBuf, const void* sendCountMatrix,
                                                 HcclDataType sendType, const void* recvBuf, HcclDataType recvType,
                                                 HcclComm comm, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclBarrier(HcclComm comm, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclSend(void* sendBuf, uint64_t count, HcclDataType dataType, uint32_t destRank,
                                           HcclComm comm, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclRecv(void* recvBuf, uint64_t count, HcclDataType dataType, uint32_t srcRank,
                                           HcclComm comm, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT HcclResult HcclBatchSendRecv(HcclSendRecvItem* sendRecvInfo, uint32_t itemNum, HcclComm comm,
                                                    aclrtStream stream);
// Sends and receives of this thread between the two are under way together.
UNIFY_SIMULATOR_EXPORT HcclResult HcclGroupStart();
UNIFY_SIMULATOR_EXPORT HcclResult HcclGroupEnd();
