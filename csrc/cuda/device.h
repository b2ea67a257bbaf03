// What the CUDA kernels share: launching, 16-byte loads, numbers as ordered integers, reductions over a block.
//
// Kernels are launched by `launch`, not with <<<>>>, so that every source here is plain C++ as well:
// tests/cuda/emulator compiles them for the CPU and runs each block's threads in turn.
#pragma once
#include <cuda_runtime.h>

#include <cfloat>
#include <cstdint>
#include <cstring>

#define RFT_DEVICE static __device__ __forceinline__

namespace rft {
namespace cuda {

constexpr int kWarp = 32;
constexpr unsigned kAll = 0xffffffffu;
constexpr float kInf = __builtin_huge_valf();
constexpr float kLowest = -FLT_MAX;

#if !defined(RFT_EMULATOR)
// Starts `kernel` on `stream`; the error of the launch itself, if any.
template <class Args>
cudaError_t launch(void (*kernel)(Args), dim3 grid, int threads, cudaStream_t stream, Args args) {
  void* pointers[] = {&args};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, dim3(unsigned(threads)), pointers, 0, stream);
}
#endif

struct bf16 {
  uint16_t bits;
};

RFT_DEVICE float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
RFT_DEVICE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
RFT_DEVICE float to_float(float x) { return x; }
RFT_DEVICE float to_float(bf16 x) { return float_of(uint32_t(x.bits) << 16); }

// Eight neighbours in 16-byte loads.
RFT_DEVICE void load8(const bf16* p, float x[8]) {
  const uint4 w = *reinterpret_cast<const uint4*>(p);
  const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = float_of(words[i] << 16);
    x[2 * i + 1] = float_of(words[i] & 0xffff0000u);
  }
}
RFT_DEVICE void load8(const float* p, float x[8]) {
  const float4 lo = reinterpret_cast<const float4*>(p)[0], hi = reinterpret_cast<const float4*>(p)[1];
  x[0] = lo.x, x[1] = lo.y, x[2] = lo.z, x[3] = lo.w;
  x[4] = hi.x, x[5] = hi.y, x[6] = hi.z, x[7] = hi.w;
}

// Numbers (no NaN) as unsigned integers of the same order. Zero lies below all of them but a negative NaN's.
RFT_DEVICE uint32_t ordered(float x) {
  const uint32_t bits = bits_of(x);
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
RFT_DEVICE float from_ordered(uint32_t key) { return float_of(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu)); }

// 2^x for x <= 0, within 2 ulp; 0 below -126, NaN of NaN.
RFT_DEVICE float fast_exp2(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}

// Reductions over all lanes of a warp; every lane gets the result. Sums add in the fixed order of a butterfly.
RFT_DEVICE float warp_max(float x) {
#pragma unroll
  for (int d = kWarp / 2; d; d /= 2) x = fmaxf(x, __shfl_xor_sync(kAll, x, d));
  return x;
}
RFT_DEVICE uint64_t warp_max(uint64_t x) {
#pragma unroll
  for (int d = kWarp / 2; d; d /= 2) {
    const uint64_t y = __shfl_xor_sync(kAll, static_cast<unsigned long long>(x), d);
    x = y > x ? y : x;
  }
  return x;
}
template <class T>
RFT_DEVICE T warp_sum(T x) {
#pragma unroll
  for (int d = kWarp / 2; d; d /= 2) x += __shfl_xor_sync(kAll, x, d);
  return x;
}

}  // namespace cuda
}  // namespace rft
