// As much of CUDA as the kernels of csrc/cuda use, on the CPU. It stands in for the toolkit's header of this name.
//
// Blocks run one after another, in a random order. A block's threads are coroutines: each runs until it waits at a
// barrier or in a warp's exchange, then another goes on, in a random order too. So a missing barrier shows as a result
// that depends on the seed, and one that not all threads reach as a deadlock, which is reported. What it cannot show:
// blocks that run at the same time, and the memory model.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define RFT_EMULATOR 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // one block at a time; what the last one left is the next one's garbage

typedef void* cudaStream_t;
enum cudaError_t { cudaSuccess = 0 };
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  std::memset(p, value, bytes);
  return cudaSuccess;
}

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace emulator {

extern dim3 thread_index, block_index, block_size, grid_size;
extern uint64_t seed;  // of the order of blocks and threads

void run_grid(dim3 grid, int threads, const std::function<void()>& kernel);
void wait_for_block();
void wait_for_warp();
unsigned char* warp_slot(int lane);  // 16 bytes of each lane of the running thread's warp

template <class T>
T exchange(T mine, int from) {
  static_assert(sizeof(T) <= 16, "a slot holds 16 bytes");
  std::memcpy(warp_slot(int(thread_index.x) % 32), &mine, sizeof(T));
  wait_for_warp();
  T theirs;
  std::memcpy(&theirs, warp_slot(from), sizeof(T));
  wait_for_warp();
  return theirs;
}

}  // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

inline void __syncthreads() { emulator::wait_for_block(); }
inline void __threadfence() {}
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return emulator::exchange(x, int(threadIdx.x) % 32 ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T x, int delta) {
  const int lane = int(threadIdx.x) % 32;
  return emulator::exchange(x, lane < delta ? lane : lane - delta);
}
inline unsigned __ballot_sync(unsigned, bool mine) {
  unsigned all = 0;
  std::memcpy(emulator::warp_slot(int(threadIdx.x) % 32), &mine, 1);
  emulator::wait_for_warp();
  for (int lane = 0; lane < 32; ++lane) all |= unsigned(*emulator::warp_slot(lane) != 0) << lane;
  emulator::wait_for_warp();
  return all;
}
template <class T>
T atomicAdd(T* p, T x) {
  const T old = *p;
  *p += x;
  return old;
}
template <class T>
T atomicMax(T* p, T x) {
  const T old = *p;
  if (x > old) *p = x;
  return old;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }

namespace rft {
namespace cuda {
template <class Args>
cudaError_t launch(void (*kernel)(Args), dim3 grid, int threads, cudaStream_t, Args args) {
  emulator::run_grid(grid, threads, [=] { kernel(args); });
  return cudaSuccess;
}
}  // namespace cuda
}  // namespace rft
