// The driver's functions under their exported names. Where the interface changed over the years, the name has its
// version: programs that use dlsym ask for that one, cuGetProcAddress answers the name without it.
#pragma once

#include "cuda_types.h"

UNIFY_SIMULATOR_EXPORT CUresult cuInit(unsigned flags);
UNIFY_SIMULATOR_EXPORT CUresult cuDriverGetVersion(int* version);
UNIFY_SIMULATOR_EXPORT CUresult cuGetErrorName(CUresult error, const char** out);
UNIFY_SIMULATOR_EXPORT CUresult cuGetErrorString(CUresult error, const char** out);
UNIFY_SIMULATOR_EXPORT CUresult cuGetProcAddress_v2(const char* symbol, void** out, int version, uint64_t flags,
                                                    CUdriverProcAddressQueryResult* status);
UNIFY_SIMULATOR_EXPORT CUresult cuGetProcAddress(const char* symbol, void** out, int version, uint64_t flags);

UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGetCount(int* count);
UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGet(CUdevice* out, int ordinal);
UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGetName(char* name, int length, CUdevice device);
UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGetAttribute(int* out, CUdevice_attribute attribute, CUdevice device);
UNIFY_SIMULATOR_EXPORT CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device);
UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device);
UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device);
UNIFY_SIMULATOR_EXPORT CUresult cuDeviceGetPCIBusId(char* id, int length, CUdevice device);
UNIFY_SIMULATOR_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice device);
UNIFY_SIMULATOR_EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice device);
UNIFY_SIMULATOR_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device);
UNIFY_SIMULATOR_EXPORT CUresult cuDevicePrimaryCtxReset(CUdevice device);
UNIFY_SIMULATOR_EXPORT CUresult cuDevicePrimaryCtxReset_v2(CUdevice device);
UNIFY_SIMULATOR_EXPORT CUresult cuCtxGetCurrent(CUcontext* out);
UNIFY_SIMULATOR_EXPORT CUresult cuCtxSetCurrent(CUcontext context);
UNIFY_SIMULATOR_EXPORT CUresult cuCtxSynchronize();
UNIFY_SIMULATOR_EXPORT CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest);

UNIFY_SIMULATOR_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t bytes);
UNIFY_SIMULATOR_EXPORT CUresult cuMemFree_v2(CUdeviceptr address);
UNIFY_SIMULATOR_EXPORT CUresult cuMemHostAlloc(void** out, size_t bytes, unsigned flags);
UNIFY_SIMULATOR_EXPORT CUresult cuMemFreeHost(void* memory);
UNIFY_SIMULATOR_EXPORT CUresult cuMemHostRegister_v2(void* memory, size_t bytes, unsigned flags);
UNIFY_SIMULATOR_EXPORT CUresult cuMemHostUnregister(void* memory);
UNIFY_SIMULATOR_EXPORT CUresult cuMemAllocManaged(CUdeviceptr* out, size_t bytes, unsigned flags);
UNIFY_SIMULATOR_EXPORT CUresult cuMemGetInfo_v2(size_t* free_bytes, size_t* total);
UNIFY_SIMULATOR_EXPORT CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* bytes, CUdeviceptr address);

UNIFY_SIMULATOR_EXPORT CUresult cuMemGetAllocationGranularity(size_t* out, const CUmemAllocationProp* properties,
                                                              CUmemAllocationGranularity_flags which);
UNIFY_SIMULATOR_EXPORT CUresult cuMemAddressReserve(CUdeviceptr* out, size_t bytes, size_t alignment, CUdeviceptr hint,
                                                    unsigned long long flags);
UNIFY_SIMULATOR_EXPORT CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes);
UNIFY_SIMULATOR_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle* out, size_t bytes,
                                            const CUmemAllocationProp* properties, unsigned long long flags);
UNIFY_SIMULATOR_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle);
UNIFY_SIMULATOR_EXPORT CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset,
                                         CUmemGenericAllocationHandle handle, unsigned long long flags);
UNIFY_SIMULATOR_EXPORT CUresult cuMemUnmap(CUdeviceptr address, size_t bytes);
UNIFY_SIMULATOR_EXPORT CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc* wanted,
                                               size_t count);

UNIFY_SIMULATOR_EXPORT CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream);
UNIFY_SIMULATOR_EXPORT CUresult cuMemcpyPeerAsync(CUdeviceptr dst, CUcontext dst_context, CUdeviceptr src,
                                                  CUcontext src_context, size_t bytes, CUstream stream);
UNIFY_SIMULATOR_EXPORT CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* wanted, CUstream stream);
UNIFY_SIMULATOR_EXPORT CUresult cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t count,
                                                CUstream stream);
UNIFY_SIMULATOR_EXPORT CUresult cuMemsetD16Async(CUdeviceptr address, unsigned short value, size_t count,
                                                 CUstream stream);
UNIFY_SIMULATOR_EXPORT CUresult cuMemsetD32Async(CUdeviceptr address, unsigned value, size_t count, CUstream stream);

UNIFY_SIMULATOR_EXPORT CUresult cuStreamCreateWithPriority(CUstream* out, unsigned flags, int priority);
UNIFY_SIMULATOR_EXPORT CUresult cuStreamDestroy(CUstream stream);
UNIFY_SIMULATOR_EXPORT CUresult cuStreamDestroy_v2(CUstream stream);
UNIFY_SIMULATOR_EXPORT CUresult cuStreamSynchronize(CUstream stream);
UNIFY_SIMULATOR_EXPORT CUresult cuStreamQuery(CUstream stream);
UNIFY_SIMULATOR_EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags);
UNIFY_SIMULATOR_EXPORT CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data);
UNIFY_SIMULATOR_EXPORT CUresult cuEventCreate(CUevent* out, unsigned flags);
UNIFY_SIMULATOR_EXPORT CUresult cuEventDestroy(CUevent event);
UNIFY_SIMULATOR_EXPORT CUresult cuEventDestroy_v2(CUevent event);
UNIFY_SIMULATOR_EXPORT CUresult cuEventRecord(CUevent event, CUstream stream);
UNIFY_SIMULATOR_EXPORT CUresult cuEventSynchronize(CUevent event);
UNIFY_SIMULATOR_EXPORT CUresult cuEventQuery(CUevent event);
UNIFY_SIMULATOR_EXPORT CUresult cuEventElapsedTime(float* out, CUevent start, CUevent end);
UNIFY_SIMULATOR_EXPORT CUresult cuEventElapsedTime_v2(float* out, CUevent start, CUevent end);

UNIFY_SIMULATOR_EXPORT CUresult cuModuleLoadData(CUmodule* out, const void* image);
UNIFY_SIMULATOR_EXPORT CUresult cuModuleLoadDataEx(CUmodule* out, const void* image, unsigned count,
                                                   CUjit_option* options, void** values);
UNIFY_SIMULATOR_EXPORT CUresult cuModuleUnload(CUmodule module);
UNIFY_SIMULATOR_EXPORT CUresult cuModuleGetFunction(CUfunction* out, CUmodule module, const char* name);
UNIFY_SIMULATOR_EXPORT CUresult cuFuncGetAttribute(int* out, CUfunction_attribute attribute, CUfunction function);
UNIFY_SIMULATOR_EXPORT CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value);
UNIFY_SIMULATOR_EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters,
                                                 void** extra);

UNIFY_SIMULATOR_EXPORT CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode);
UNIFY_SIMULATOR_EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph* out);
UNIFY_SIMULATOR_EXPORT CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* out);
UNIFY_SIMULATOR_EXPORT CUresult cuStreamGetCaptureInfo_v2(CUstream stream, CUstreamCaptureStatus* status,
                                                          uint64_t* number, CUgraph* graph,
                                                          const CUgraphNode** dependencies, size_t* count);
UNIFY_SIMULATOR_EXPORT CUresult cuUserObjectCreate(CUuserObject* out, void* user, CUhostFn destroy, unsigned references,
                                                   unsigned flags);
UNIFY_SIMULATOR_EXPORT CUresult cuUserObjectRelease(CUuserObject object, unsigned count);
UNIFY_SIMULATOR_EXPORT CUresult cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned count,
                                                        unsigned flags);
UNIFY_SIMULATOR_EXPORT CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode);
UNIFY_SIMULATOR_EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long flags);
UNIFY_SIMULATOR_EXPORT CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream);
UNIFY_SIMULATOR_EXPORT CUresult cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo* out);
UNIFY_SIMULATOR_EXPORT CUresult cuGraphExecDestroy(CUgraphExec exec);
UNIFY_SIMULATOR_EXPORT CUresult cuGraphDestroy(CUgraph graph);

UNIFY_SIMULATOR_EXPORT CUresult cuDeviceCanAccessPeer(int* out, CUdevice device, CUdevice peer);
UNIFY_SIMULATOR_EXPORT CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags);
UNIFY_SIMULATOR_EXPORT CUresult cuCtxDisablePeerAccess(CUcontext peer);
UNIFY_SIMULATOR_EXPORT CUresult cuIpcGetMemHandle(CUipcMemHandle* out, CUdeviceptr address);
UNIFY_SIMULATOR_EXPORT CUresult cuIpcOpenMemHandle(CUdeviceptr* out, CUipcMemHandle handle, unsigned flags);
UNIFY_SIMULATOR_EXPORT CUresult cuIpcOpenMemHandle_v2(CUdeviceptr* out, CUipcMemHandle handle, unsigned flags);
UNIFY_SIMULATOR_EXPORT CUresult cuIpcCloseMemHandle(CUdeviceptr address);
UNIFY_SIMULATOR_EXPORT CUresult cuIpcGetEventHandle(CUipcEventHandle* out, CUevent event);
UNIFY_SIMULATOR_EXPORT CUresult cuIpcOpenEventHandle(CUevent* out, CUipcEventHandle handle);
