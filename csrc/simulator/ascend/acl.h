// ACL's functions as this library offers them. What it does not offer: refused.inc.
#pragma once

#include "acl_types.h"

// ---- the runtime itself ----

UNIFY_SIMULATOR_EXPORT aclError aclInit(const char* configPath);
UNIFY_SIMULATOR_EXPORT aclError aclFinalize();
UNIFY_SIMULATOR_EXPORT aclError aclFinalizeReference(uint64_t* refCount);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetVersion(int32_t* majorVersion, int32_t* minorVersion, int32_t* patchVersion);
UNIFY_SIMULATOR_EXPORT aclError aclsysGetVersionStr(char* pkgName, char* versionStr);
UNIFY_SIMULATOR_EXPORT aclError aclsysGetCANNVersion(aclCANNPackageName name, aclCANNPackageVersion* version);
UNIFY_SIMULATOR_EXPORT const char* aclrtGetSocName();
UNIFY_SIMULATOR_EXPORT aclError aclrtGetRunMode(aclrtRunMode* runMode);
UNIFY_SIMULATOR_EXPORT const char* aclGetRecentErrMsg();
UNIFY_SIMULATOR_EXPORT aclError aclrtPeekAtLastError(aclrtLastErrLevel level);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetLastError(aclrtLastErrLevel level);
UNIFY_SIMULATOR_EXPORT aclError aclGetCannAttribute(aclCannAttr cannAttr, int32_t* value);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetSysParamOpt(aclSysParamOpt opt, int64_t value);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetSysParamOpt(aclSysParamOpt opt, int64_t* value);
UNIFY_SIMULATOR_EXPORT aclError aclSetCompileopt(aclCompileOpt opt, const char* value);
UNIFY_SIMULATOR_EXPORT aclError aclGetCompileopt(aclCompileOpt opt, char* value, size_t length);
UNIFY_SIMULATOR_EXPORT size_t aclGetCompileoptSize(aclCompileOpt opt);
UNIFY_SIMULATOR_EXPORT void aclAppLog(aclLogLevel logLevel, const char* func, const char* file, uint32_t line,
                                      const char* fmt, ...);

// ---- devices ----

UNIFY_SIMULATOR_EXPORT aclError aclrtSetDevice(int32_t deviceId);
UNIFY_SIMULATOR_EXPORT aclError aclrtResetDevice(int32_t deviceId);
UNIFY_SIMULATOR_EXPORT aclError aclrtResetDeviceForce(int32_t deviceId);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetDevice(int32_t* deviceId);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetDeviceCount(uint32_t* count);
UNIFY_SIMULATOR_EXPORT aclError aclrtSynchronizeDevice();
UNIFY_SIMULATOR_EXPORT aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout);
UNIFY_SIMULATOR_EXPORT aclError aclrtQueryDeviceStatus(int32_t deviceId, aclrtDeviceStatus* deviceStatus);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetDeviceInfo(uint32_t deviceId, aclrtDevAttr attr, int64_t* value);
UNIFY_SIMULATOR_EXPORT aclError aclGetDeviceCapability(uint32_t deviceId, aclDeviceInfo deviceInfo, int64_t* value);
UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceGetUuid(int32_t deviceId, aclrtUuid* uuid);
UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceGetStreamPriorityRange(int32_t* leastPriority, int32_t* greatestPriority);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetLogicDevIdByUserDevId(const int32_t userDevid, int32_t* const logicDevId);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetUserDevIdByLogicDevId(const int32_t logicDevId, int32_t* const userDevid);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetPhyDevIdByLogicDevId(const int32_t logicDevId, int32_t* const phyDevId);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetLogicDevIdByPhyDevId(const int32_t phyDevId, int32_t* const logicDevId);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetDevicesTopo(uint32_t deviceId, uint32_t otherDeviceId, uint64_t* value);
UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceGetBareTgid(int32_t* pid);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetDeviceSatMode(aclrtFloatOverflowMode* mode);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetDeviceResLimit(int32_t deviceId, aclrtDevResLimitType type, uint32_t* value);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetDeviceResLimit(int32_t deviceId, aclrtDevResLimitType type, uint32_t value);
UNIFY_SIMULATOR_EXPORT aclError aclrtResetDeviceResLimit(int32_t deviceId);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetStreamResLimit(aclrtStream stream, aclrtDevResLimitType type, uint32_t* value);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetStreamResLimit(aclrtStream stream, aclrtDevResLimitType type, uint32_t value);
UNIFY_SIMULATOR_EXPORT aclError aclrtResetStreamResLimit(aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtUseStreamResInCurrentThread(aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtUnuseStreamResInCurrentThread(aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetResInCurrentThread(aclrtDevResLimitType type, uint32_t* value);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetOpWaitTimeout(uint32_t timeout);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetOpExecuteTimeOut(uint32_t timeout);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetOpExecuteTimeOutWithMs(uint32_t timeout);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetOpExecuteTimeOutV2(uint64_t timeout, uint64_t* actualTimeout);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetOpTimeOutInterval(uint64_t* interval);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetOpExecuteTimeout(uint32_t* const timeoutMs);

// ---- contexts ----

UNIFY_SIMULATOR_EXPORT aclError aclrtCreateContext(aclrtContext* context, int32_t deviceId);
UNIFY_SIMULATOR_EXPORT aclError aclrtDestroyContext(aclrtContext context);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetCurrentContext(aclrtContext context);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetCurrentContext(aclrtContext* context);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetPrimaryCtxState(int32_t deviceId, uint32_t* flags, int32_t* active);
UNIFY_SIMULATOR_EXPORT aclError aclrtCtxGetCurrentDefaultStream(aclrtStream* stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtCtxSetSysParamOpt(aclSysParamOpt opt, int64_t value);
UNIFY_SIMULATOR_EXPORT aclError aclrtCtxGetSysParamOpt(aclSysParamOpt opt, int64_t* value);

// ---- memory ----

UNIFY_SIMULATOR_EXPORT aclError aclrtMalloc(void** devPtr, size_t size, aclrtMemMallocPolicy policy);
UNIFY_SIMULATOR_EXPORT aclError aclrtMallocAlign32(void** devPtr, size_t size, aclrtMemMallocPolicy policy);
UNIFY_SIMULATOR_EXPORT aclError aclrtMallocCached(void** devPtr, size_t size, aclrtMemMallocPolicy policy);
UNIFY_SIMULATOR_EXPORT aclError aclrtMallocWithCfg(void** devPtr, size_t size, aclrtMemMallocPolicy policy,
                                                   aclrtMallocConfig* cfg);
UNIFY_SIMULATOR_EXPORT aclError aclrtFree(void* devPtr);
UNIFY_SIMULATOR_EXPORT aclError aclrtFreeWithDevSync(void* devPtr);
UNIFY_SIMULATOR_EXPORT aclError aclrtMallocHost(void** hostPtr, size_t size);
UNIFY_SIMULATOR_EXPORT aclError aclrtMallocHostWithCfg(void** ptr, uint64_t size, aclrtMallocConfig* cfg);
UNIFY_SIMULATOR_EXPORT aclError aclrtFreeHost(void* hostPtr);
UNIFY_SIMULATOR_EXPORT aclError aclrtFreeHostWithDevSync(void* hostPtr);
UNIFY_SIMULATOR_EXPORT aclError aclrtHostRegister(void* ptr, uint64_t size, aclrtHostRegisterType type, void** devPtr);
UNIFY_SIMULATOR_EXPORT aclError aclrtHostRegisterV2(void* ptr, uint64_t size, uint32_t flag);
UNIFY_SIMULATOR_EXPORT aclError aclrtHostGetDevicePointer(void* pHost, void** pDevice, uint32_t flag);
UNIFY_SIMULATOR_EXPORT aclError aclrtHostUnregister(void* ptr);
UNIFY_SIMULATOR_EXPORT aclError aclrtPointerGetAttributes(const void* ptr, aclrtPtrAttributes* attributes);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemGetAddressRange(void* ptr, void** pbase, size_t* psize);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetMemInfo(aclrtMemAttr attr, size_t* free, size_t* total);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemAllocManaged(void** ptr, uint64_t size, uint32_t flag);

// ---- addresses and memory apart ----

UNIFY_SIMULATOR_EXPORT aclError aclrtReserveMemAddress(void** virPtr, size_t size, size_t alignment, void* expectPtr,
                                                       uint64_t flags);
UNIFY_SIMULATOR_EXPORT aclError aclrtReleaseMemAddress(void* virPtr);
UNIFY_SIMULATOR_EXPORT aclError aclrtMallocPhysical(aclrtDrvMemHandle* handle, size_t size,
                                                    const aclrtPhysicalMemProp* prop, uint64_t flags);
UNIFY_SIMULATOR_EXPORT aclError aclrtFreePhysical(aclrtDrvMemHandle handle);
UNIFY_SIMULATOR_EXPORT aclError aclrtMapMem(void* virPtr, size_t size, size_t offset, aclrtDrvMemHandle handle,
                                            uint64_t flags);
UNIFY_SIMULATOR_EXPORT aclError aclrtUnmapMem(void* virPtr);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemSetAccess(void* virPtr, size_t size, aclrtMemAccessDesc* desc, size_t count);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemGetAccess(void* virPtr, aclrtMemLocation* location, uint64_t* flag);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemGetAllocationGranularity(aclrtPhysicalMemProp* prop,
                                                                 aclrtMemGranularityOptions option,
                                                                 size_t* granularity);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemExportToShareableHandle(aclrtDrvMemHandle handle, aclrtMemHandleType handleType,
                                                                uint64_t flags, uint64_t* shareableHandle);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemImportFromShareableHandle(uint64_t shareableHandle, int32_t deviceId,
                                                                  aclrtDrvMemHandle* handle);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemSetPidToShareableHandle(uint64_t shareableHandle, int32_t* pid, size_t pidNum);

// ---- copies and fills ----

UNIFY_SIMULATOR_EXPORT aclError aclrtMemcpy(void* dst, size_t destMax, const void* src, size_t count,
                                            aclrtMemcpyKind kind);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemcpyAsync(void* dst, size_t destMax, const void* src, size_t count,
                                                 aclrtMemcpyKind kind, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemcpy2d(void* dst, size_t dpitch, const void* src, size_t spitch, size_t width,
                                              size_t height, aclrtMemcpyKind kind);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemcpy2dAsync(void* dst, size_t dpitch, const void* src, size_t spitch,
                                                   size_t width, size_t height, aclrtMemcpyKind kind,
                                                   aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemcpyBatch(void** dsts, size_t* destMaxs, void** srcs, size_t* sizes,
                                                 size_t numBatches, aclrtMemcpyBatchAttr* attrs, size_t* attrsIndexes,
                                                 size_t numAttrs, size_t* failIndex);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemcpyBatchAsync(void** dsts, size_t* destMaxs, void** srcs, size_t* sizes,
                                                      size_t numBatches, aclrtMemcpyBatchAttr* attrs,
                                                      size_t* attrsIndexes, size_t numAttrs, size_t* failIndex,
                                                      aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemset(void* devPtr, size_t maxCount, int32_t value, size_t count);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemsetAsync(void* devPtr, size_t maxCount, int32_t value, size_t count,
                                                 aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemsetD32(void* ptr, size_t memSize, uint32_t value, size_t N);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemsetD32Async(void* ptr, size_t memSize, uint32_t value, size_t N,
                                                    aclrtStream stream);

// ---- streams ----

UNIFY_SIMULATOR_EXPORT aclError aclrtCreateStream(aclrtStream* stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t priority, uint32_t flag);
UNIFY_SIMULATOR_EXPORT aclError aclrtDestroyStream(aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtDestroyStreamForce(aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtSynchronizeStream(aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout);
UNIFY_SIMULATOR_EXPORT aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus* status);
UNIFY_SIMULATOR_EXPORT aclError aclrtStreamGetPriority(aclrtStream stream, uint32_t* priority);
UNIFY_SIMULATOR_EXPORT aclError aclrtStreamGetFlags(aclrtStream stream, uint32_t* flags);
UNIFY_SIMULATOR_EXPORT aclError aclrtStreamGetId(aclrtStream stream, int32_t* streamId);
UNIFY_SIMULATOR_EXPORT aclError aclrtStreamAbort(aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetStreamFailureMode(aclrtStream stream, uint64_t mode);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetStreamAttribute(aclrtStream stream, aclrtStreamAttr stmAttrType,
                                                        aclrtStreamAttrValue* value);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetStreamAttribute(aclrtStream stream, aclrtStreamAttr stmAttrType,
                                                        aclrtStreamAttrValue* value);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetStreamAvailableNum(uint32_t* streamCount);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetStreamOverflowSwitch(aclrtStream stream, uint32_t flag);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetStreamOverflowSwitch(aclrtStream stream, uint32_t* flag);
UNIFY_SIMULATOR_EXPORT aclError aclrtValueWrite(void* devAddr, uint64_t value, uint32_t flag, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtValueWait(void* devAddr, uint64_t value, uint32_t flag, aclrtStream stream);

// ---- events ----

UNIFY_SIMULATOR_EXPORT aclError aclrtCreateEvent(aclrtEvent* event);
UNIFY_SIMULATOR_EXPORT aclError aclrtCreateEventWithFlag(aclrtEvent* event, uint32_t flag);
UNIFY_SIMULATOR_EXPORT aclError aclrtCreateEventExWithFlag(aclrtEvent* event, uint32_t flag);
UNIFY_SIMULATOR_EXPORT aclError aclrtDestroyEvent(aclrtEvent event);
UNIFY_SIMULATOR_EXPORT aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtResetEvent(aclrtEvent event, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event);
UNIFY_SIMULATOR_EXPORT aclError aclrtStreamWaitEventWithTimeout(aclrtStream stream, aclrtEvent event, int32_t timeout);
UNIFY_SIMULATOR_EXPORT aclError aclrtQueryEvent(aclrtEvent event, aclrtEventStatus* status);
UNIFY_SIMULATOR_EXPORT aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus* status);
UNIFY_SIMULATOR_EXPORT aclError aclrtQueryEventWaitStatus(aclrtEvent event, aclrtEventWaitStatus* status);
UNIFY_SIMULATOR_EXPORT aclError aclrtSynchronizeEvent(aclrtEvent event);
UNIFY_SIMULATOR_EXPORT aclError aclrtSynchronizeEventWithTimeout(aclrtEvent event, int32_t timeout);
UNIFY_SIMULATOR_EXPORT aclError aclrtEventElapsedTime(float* ms, aclrtEvent startEvent, aclrtEvent endEvent);
UNIFY_SIMULATOR_EXPORT aclError aclrtEventGetTimestamp(aclrtEvent event, uint64_t* timestamp);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetEventId(aclrtEvent event, uint32_t* eventId);

// ---- functions of the host ----

UNIFY_SIMULATOR_EXPORT aclError aclrtLaunchHostFunc(aclrtStream stream, aclrtHostFunc fn, void* args);
UNIFY_SIMULATOR_EXPORT aclError aclrtLaunchCallback(aclrtCallback fn, void* userData, aclrtCallbackBlockType blockType,
                                                    aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtSubscribeReport(uint64_t threadId, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtUnSubscribeReport(uint64_t threadId, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtProcessReport(int32_t timeout);

// ---- captures and graphs ----

UNIFY_SIMULATOR_EXPORT aclError aclmdlRICaptureBegin(aclrtStream stream, aclmdlRICaptureMode mode);
UNIFY_SIMULATOR_EXPORT aclError aclmdlRICaptureGetInfo(aclrtStream stream, aclmdlRICaptureStatus* status,
                                                       aclmdlRI* modelRI);
UNIFY_SIMULATOR_EXPORT aclError aclmdlRICaptureEnd(aclrtStream stream, aclmdlRI* modelRI);
UNIFY_SIMULATOR_EXPORT aclError aclmdlRICaptureThreadExchangeMode(aclmdlRICaptureMode* mode);
UNIFY_SIMULATOR_EXPORT aclError aclmdlRIExecuteAsync(aclmdlRI modelRI, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclmdlRIExecute(aclmdlRI modelRI, int32_t timeout);
UNIFY_SIMULATOR_EXPORT aclError aclmdlRIDestroy(aclmdlRI modelRI);
UNIFY_SIMULATOR_EXPORT aclError aclmdlRIGetId(aclmdlRI modelRI, uint32_t* modelRIId);
UNIFY_SIMULATOR_EXPORT aclError aclmdlRIDebugPrint(aclmdlRI modelRI);

// ---- binaries and launches ----

UNIFY_SIMULATOR_EXPORT aclError aclrtBinaryLoadFromFile(const char* binPath, aclrtBinaryLoadOptions* options,
                                                        aclrtBinHandle* binHandle);
UNIFY_SIMULATOR_EXPORT aclError aclrtBinaryLoadFromData(const void* data, size_t length,
                                                        const aclrtBinaryLoadOptions* options,
                                                        aclrtBinHandle* binHandle);
UNIFY_SIMULATOR_EXPORT aclError aclrtBinaryUnLoad(aclrtBinHandle binHandle);
UNIFY_SIMULATOR_EXPORT aclError aclrtBinaryGetFunction(const aclrtBinHandle binHandle, const char* kernelName,
                                                       aclrtFuncHandle* funcHandle);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetFunctionAddr(aclrtFuncHandle funcHandle, void** aicAddr, void** aivAddr);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetFunctionName(aclrtFuncHandle funcHandle, uint32_t maxLen, char* name);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetFunctionAttribute(aclrtFuncHandle funcHandle, aclrtFuncAttribute attrType,
                                                          int64_t* attrValue);
UNIFY_SIMULATOR_EXPORT aclError aclrtFunctionGetBinary(const aclrtFuncHandle funcHandle, aclrtBinHandle* binHandle);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetHardwareSyncAddr(void** addr);
UNIFY_SIMULATOR_EXPORT aclError aclrtLaunchKernel(aclrtFuncHandle funcHandle, uint32_t numBlocks, const void* argsData,
                                                  size_t argsSize, aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtLaunchKernelV2(aclrtFuncHandle funcHandle, uint32_t numBlocks,
                                                    const void* argsData, size_t argsSize, aclrtLaunchKernelCfg* cfg,
                                                    aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclError aclrtLaunchKernelWithHostArgs(aclrtFuncHandle funcHandle, uint32_t numBlocks,
                                                              aclrtStream stream, aclrtLaunchKernelCfg* cfg,
                                                              void* hostArgs, size_t argsSize,
                                                              aclrtPlaceHolderInfo* placeHolderArray,
                                                              size_t placeHolderNum);
UNIFY_SIMULATOR_EXPORT aclError aclrtLaunchKernelWithConfig(aclrtFuncHandle funcHandle, uint32_t numBlocks,
                                                            aclrtStream stream, aclrtLaunchKernelCfg* cfg,
                                                            aclrtArgsHandle argsHandle, void* reserve);
UNIFY_SIMULATOR_EXPORT aclError aclrtKernelArgsInit(aclrtFuncHandle funcHandle, aclrtArgsHandle* argsHandle);
UNIFY_SIMULATOR_EXPORT aclError aclrtKernelArgsAppend(aclrtArgsHandle argsHandle, void* param, size_t paramSize,
                                                      aclrtParamHandle* paramHandle);
UNIFY_SIMULATOR_EXPORT aclError aclrtKernelArgsParaUpdate(aclrtArgsHandle argsHandle, aclrtParamHandle paramHandle,
                                                          void* param, size_t paramSize);
UNIFY_SIMULATOR_EXPORT aclError aclrtKernelArgsFinalize(aclrtArgsHandle argsHandle);

// ---- peers and other processes ----

UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceCanAccessPeer(int32_t* canAccessPeer, int32_t deviceId,
                                                         int32_t peerDeviceId);
UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceEnablePeerAccess(int32_t peerDeviceId, uint32_t flags);
UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceDisablePeerAccess(int32_t peerDeviceId);
UNIFY_SIMULATOR_EXPORT aclError aclrtDevicePeerAccessStatus(int32_t deviceId, int32_t peerDeviceId, int32_t* status);
UNIFY_SIMULATOR_EXPORT aclError aclrtIpcMemGetExportKey(void* devPtr, size_t size, char* key, size_t len,
                                                        uint64_t flags);
UNIFY_SIMULATOR_EXPORT aclError aclrtIpcMemImportByKey(void** devPtr, const char* key, uint64_t flags);
UNIFY_SIMULATOR_EXPORT aclError aclrtIpcMemSetImportPid(const char* key, int32_t* pid, size_t num);
UNIFY_SIMULATOR_EXPORT aclError aclrtIpcMemClose(const char* key);
UNIFY_SIMULATOR_EXPORT aclError aclrtIpcGetEventHandle(aclrtEvent event, aclrtIpcEventHandle* handle);
UNIFY_SIMULATOR_EXPORT aclError aclrtIpcOpenEventHandle(aclrtIpcEventHandle handle, aclrtEvent* event);

// ---- faults and what is done about them ----

UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceTaskAbort(int32_t deviceId, uint32_t timeout);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetDeviceTaskAbortCallback(const char* regName,
                                                                aclrtDeviceTaskAbortCallback callback, void* args);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetMemUceInfo(int32_t deviceId, aclrtMemUceInfo* memUceInfoArray, size_t arraySize,
                                                   size_t* retSize);
UNIFY_SIMULATOR_EXPORT aclError aclrtMemUceRepair(int32_t deviceId, aclrtMemUceInfo* memUceInfoArray, size_t arraySize);
UNIFY_SIMULATOR_EXPORT aclError aclrtGetErrorVerbose(int32_t deviceId, aclrtErrorInfo* errorInfo);
UNIFY_SIMULATOR_EXPORT aclError aclrtRepairError(int32_t deviceId, const aclrtErrorInfo* errorInfo);
UNIFY_SIMULATOR_EXPORT aclError aclrtSetExceptionInfoCallback(aclrtExceptionInfoCallback callback);
UNIFY_SIMULATOR_EXPORT uint32_t aclrtGetTaskIdFromExceptionInfo(const aclrtExceptionInfo* info);
UNIFY_SIMULATOR_EXPORT uint32_t aclrtGetStreamIdFromExceptionInfo(const aclrtExceptionInfo* info);
UNIFY_SIMULATOR_EXPORT uint32_t aclrtGetThreadIdFromExceptionInfo(const aclrtExceptionInfo* info);
UNIFY_SIMULATOR_EXPORT uint32_t aclrtGetDeviceIdFromExceptionInfo(const aclrtExceptionInfo* info);
UNIFY_SIMULATOR_EXPORT uint32_t aclrtGetErrorCodeFromExceptionInfo(const aclrtExceptionInfo* info);

// ---- the profiler ----

UNIFY_SIMULATOR_EXPORT aclError aclprofInit(const char* profilerResultPath, size_t length);
UNIFY_SIMULATOR_EXPORT aclError aclprofFinalize();
UNIFY_SIMULATOR_EXPORT aclprofConfig* aclprofCreateConfig(uint32_t* deviceIdList, uint32_t deviceNums,
                                                          aclprofAicoreMetrics aicoreMetrics,
                                                          const aclprofAicoreEvents* aicoreEvents,
                                                          uint64_t dataTypeConfig);
UNIFY_SIMULATOR_EXPORT aclError aclprofDestroyConfig(const aclprofConfig* profilerConfig);
UNIFY_SIMULATOR_EXPORT aclError aclprofStart(const aclprofConfig* profilerConfig);
UNIFY_SIMULATOR_EXPORT aclError aclprofStop(const aclprofConfig* profilerConfig);
