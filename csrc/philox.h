// The noise of a sample: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and
// Gumbel noise made from its words. Scalar, for host and device.
//
// The noise of token i at step t of a sample is word i % 4 of philox(counter = (i / 4, t, sample index, stream), key),
// turned into g = -log(E), E = -log1p(-v), v = (u + 1/2) / 2^32. Both tails are right to 2^-32: g runs from -3.13
// (v = 1 - 2^-33) to 22.874 (v = 2^-33).
//
// The same bits everywhere: the float32 arithmetic below is additions and multiplications that are each rounded to
// nearest, in this order, and nothing else: no fused multiply-add, no library function. rftfast/ops/philox.py holds the
// same steps in numpy. Whoever changes one of the two changes every sample.
//
// Functions are static: a copy compiled for AVX-512 must never be merged by the linker with one for an older machine.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define RFT_HD static __host__ __device__ __forceinline__
#else
#define RFT_HD static inline __attribute__((always_inline, unused))
#endif

namespace rft {

constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;  // multipliers
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;  // key increments
constexpr int kPhiloxRounds = 10;

// No word gives more noise than this.
constexpr float kGumbelMax = 22.8741f;

RFT_HD void philox4x32(const uint32_t counter[4], uint64_t key, uint32_t out[4]) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = uint64_t(kPhiloxM0) * c0, p1 = uint64_t(kPhiloxM1) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1);
    c3 = uint32_t(p0);
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

RFT_HD float add_rn(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
RFT_HD float mul_rn(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

// log(2^k (1 + f)) for sqrt(1/2) - 1 <= f <= sqrt(2) - 1 and |k| <= 64. log1p(f) = f - f^2/2 + f^3 P(f), P fitted
// to the smallest greatest error relative to f (6e-9 before rounding); ln 2 is split so that k * hi is exact.
RFT_HD float log_split(int k, float f) {
  const float f2 = mul_rn(f, f), kf = float(k);
  float p = -7.868663222e-02f;
  p = add_rn(mul_rn(p, f), 1.288073063e-01f);
  p = add_rn(mul_rn(p, f), -1.312469095e-01f);
  p = add_rn(mul_rn(p, f), 1.418111920e-01f);
  p = add_rn(mul_rn(p, f), -1.662500799e-01f);
  p = add_rn(mul_rn(p, f), 2.000230104e-01f);
  p = add_rn(mul_rn(p, f), -2.500079572e-01f);
  p = add_rn(mul_rn(p, f), 3.333331645e-01f);
  float r = mul_rn(mul_rn(p, f), f2);
  r = add_rn(r, mul_rn(kf, 1.428606820e-06f));
  r = add_rn(r, mul_rn(f2, -0.5f));
  r = add_rn(r, f);
  return add_rn(r, mul_rn(kf, 6.931457520e-01f));
}

// log(x) of a positive normal number.
RFT_HD float log_normal(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  const int32_t k = (bits - 0x3f3504f3) >> 23;  // so that x / 2^k lies in [sqrt(1/2), sqrt(2))
  bits -= int32_t(uint32_t(k) << 23);
  float m;
  std::memcpy(&m, &bits, 4);
  return log_split(k, add_rn(m, -1.0f));
}

// Gumbel noise of one random word; absolute or relative error under 4e-7, whichever is kinder.
RFT_HD float gumbel(uint32_t u) {
  // x = the distance of v from its nearer end, 0 or 1, so that neither end is lost to rounding.
  const bool upper = (u >> 31) != 0;
  const int32_t nearer = int32_t(upper ? ~u : u);
  const float x = mul_rn(add_rn(float(nearer), 0.5f), 2.3283064365386963e-10f);
  float e;  // -E
  if (upper)
    e = log_normal(x);
  else if (x > 0.292893229f)
    e = log_split(-1, add_rn(1.0f, mul_rn(x, -2.0f)));  // 1 - x = (1 + (1 - 2x)) / 2, and 1 - 2x is exact here
  else
    e = log_split(0, -x);
  return -log_normal(-e);
}

}  // namespace rft
