// Sixteen lanes of float or int on any machine, by the compiler's vector extensions: one register with AVX-512, two
// with AVX2, four with SSE or NEON. Everything here is inlined into one translation unit per instruction set.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#define RFT_INLINE inline __attribute__((always_inline))

namespace rft {
namespace RFT_ISA {

constexpr int kLanes = 16;
typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

RFT_INLINE f32x16 splat(float x) { return f32x16{} + x; }
RFT_INLINE f32x16 load(const float* p) {
  f32x16 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
RFT_INLINE void store(float* p, f32x16 v) { std::memcpy(p, &v, sizeof(v)); }

// a * b + c, fused where the machine has it.
RFT_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  union U { f32x16 v; __m256 h[2]; } x{a}, y{b}, z{c};
  z.h[0] = _mm256_fmadd_ps(x.h[0], y.h[0], z.h[0]);
  z.h[1] = _mm256_fmadd_ps(x.h[1], y.h[1], z.h[1]);
  return z.v;
#else
  return a * b + c;
#endif
}

// Comparisons of vectors wider than a register are compiled one lane at a time; so they are done register by register.
#if defined(__AVX2__)
typedef float f32_register __attribute__((vector_size(32)));
#else
typedef float f32_register __attribute__((vector_size(16)));
#endif
constexpr int kRegisters = int(sizeof(f32x16) / sizeof(f32_register));

// b where either is NaN.
RFT_INLINE f32x16 max(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_max_ps((__m512)a, (__m512)b);
#else
  f32_register x[kRegisters], y[kRegisters];
  std::memcpy(x, &a, sizeof(a));
  std::memcpy(y, &b, sizeof(b));
  for (int i = 0; i < kRegisters; ++i) x[i] = x[i] > y[i] ? x[i] : y[i];
  std::memcpy(&a, x, sizeof(a));
  return a;
#endif
}
RFT_INLINE f32x16 min(f32x16 a, f32x16 b) { return -max(-a, -b); }

// The fixed tree 8-4-2-1, so that the order of additions is the same on every machine.
RFT_INLINE float reduce_add(f32x16 v) {
  float a[16], b[8];
  store(a, v);
  for (int i = 0; i < 8; ++i) b[i] = a[i] + a[i + 8];
  for (int i = 0; i < 4; ++i) b[i] += b[i + 4];
  return (b[0] + b[2]) + (b[1] + b[3]);
}
RFT_INLINE float reduce_max(f32x16 v) {
  f32_register x[kRegisters];
  std::memcpy(x, &v, sizeof(v));
  for (int i = 1; i < kRegisters; ++i) x[0] = x[i] > x[0] ? x[i] : x[0];
  float m = x[0][0];
  for (int i = 1; i < int(sizeof(f32_register) / 4); ++i) m = x[0][i] > m ? x[0][i] : m;
  return m;
}

RFT_INLINE bool any_greater(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0;
#else
  f32_register x[kRegisters], y[kRegisters];
  std::memcpy(x, &a, sizeof(a));
  std::memcpy(y, &b, sizeof(b));
#if defined(__AVX2__)
  return (_mm256_movemask_ps(_mm256_cmp_ps((__m256)x[0], (__m256)y[0], _CMP_GT_OQ)) |
          _mm256_movemask_ps(_mm256_cmp_ps((__m256)x[1], (__m256)y[1], _CMP_GT_OQ))) != 0;
#else
  auto m = x[0] > y[0];
  for (int i = 1; i < kRegisters; ++i) m |= x[i] > y[i];
  int32_t r = 0;
  for (int i = 0; i < int(sizeof(m) / 4); ++i) r |= m[i];
  return r != 0;
#endif
#endif
}

// bfloat16 <-> float, to nearest even (NaN stays NaN).
struct bf16 {
  uint16_t bits;
};
RFT_INLINE float to_float(float x) { return x; }
RFT_INLINE float to_float(bf16 x) {
  uint32_t u = uint32_t(x.bits) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
RFT_INLINE void from_float(float x, float& out) { out = x; }
RFT_INLINE void from_float(float x, bf16& out) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) {
    out.bits = uint16_t((u >> 16) | 0x40);
    return;
  }
  out.bits = uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
RFT_INLINE f32x16 load(const bf16* p) {
  u16x16 h;
  std::memcpy(&h, p, sizeof(h));
  u32x16 w = __builtin_convertvector(h, u32x16) << 16;
  f32x16 v;
  std::memcpy(&v, &w, sizeof(v));
  return v;
}
RFT_INLINE void store(bf16* p, f32x16 v) {
#if defined(__AVX512BF16__)
  __m256bh h = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(p, &h, sizeof(h));
#else
  u32x16 u;
  std::memcpy(&u, &v, sizeof(u));
  u32x16 r = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  i32x16 nan = (i32x16)((u & 0x7fffffffu) > 0x7f800000u);
  r = (u32x16)nan ? ((u >> 16) | 0x40u) : r;
  u16x16 h = __builtin_convertvector(r, u16x16);
  std::memcpy(p, &h, sizeof(h));
#endif
}

// 2^x, relative error under 2e-7; 0 below -127, and for -infinity. A degree-5 minimax polynomial on [-0.5, 0.5] with its
// constant set to 1, so that 2^0 is 1.
RFT_INLINE f32x16 exp2(f32x16 x) {
#if defined(__AVX512F__)
  x = max(x, splat(-150.0f));
  const __m512 n = _mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const f32x16 f = x - (f32x16)n;
#else
  // At -127 the exponent's bits come out as zero, and the fraction's too: the result is 0 without a comparison.
  x = min(max(x, splat(-127.0f)), splat(127.0f));
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const f32x16 t = x + magic;
  const f32x16 f = x - (t - magic);
#endif
  f32x16 p = splat(1.327647217e-3f);
  p = fma(p, f, splat(9.675541331e-3f));
  p = fma(p, f, splat(5.550713273e-2f));
  p = fma(p, f, splat(2.402211972e-1f));
  p = fma(p, f, splat(6.931469671e-1f));
  p = fma(p, f, splat(1.0f));
#if defined(__AVX512F__)
  return (f32x16)_mm512_scalef_ps((__m512)p, n);
#else
  i32x16 n, bits;
  std::memcpy(&n, &t, sizeof(n));
  std::memcpy(&bits, &p, sizeof(bits));
  bits += n << 23;  // the low bits of t hold the integer
  f32x16 r;
  std::memcpy(&r, &bits, sizeof(r));
  return r;
#endif
}

}  // namespace RFT_ISA
}  // namespace rft
