// The arithmetic of the sampler that CPU and GPU share, so that both draw the same token of the same logits: all of it
// is single roundings in a fixed order, or a bound that may be loose. See cpu/sampler.h for the sampler's definition.
#pragma once
#include <cmath>

#include "philox.h"

namespace rft {

constexpr float kLog2e = 1.44269504f;
constexpr float kGumbelMin = -3.1301f;  // no word gives less noise than this

// ---- the draw: which words cannot matter ----

// The largest word whose noise could reach `distance`, given a bound `slack` on all rounding: v >= exp(-g), and
// 2^f <= 1 + f between powers of two, so that the bits of a float do as a power function that errs upwards only.
RFT_HD uint32_t largest_word(float distance, float slack) {
  const float y = 32.0f - (distance - slack) * kLog2e + 1e-4f;
  if (!(y < 31.99f)) return 0xffffffffu;
  if (y < 0.0f) return 1;
  const int32_t bits = int32_t((y + 127.0f) * 8388608.0f);
  float power;
  std::memcpy(&power, &bits, 4);
  return uint32_t(power) + 1;
}

// As above for a token whose scaled logit is at most `high`, when it must reach the score `best`.
RFT_HD uint32_t largest_word_to_reach(float best, float high) {
  return largest_word(best - high, 2e-5f + 1e-6f * (std::fabs(best) + std::fabs(high)));
}

// ---- filters ----

// Top-p adds up weights in whole units of 2^-34 of the most likely token's, of which a double holds any sum over up to
// 2^19 tokens exactly: so a sum does not depend on the order in which it is taken, and the threshold not on the machine.
// A weight below half a unit, e^-24.3, counts as nothing: at worst V * 2^-35 of the mass, 4e-6 at 128 k tokens.
constexpr uint32_t kUnitBits = 34;
constexpr float kNoWeight = -25.0f;  // at this distance from the top, and further, a weight rounds to zero units

// exp(d) * 2^34 for d <= 0, relative error under 4e-6; fewer than half a unit below kNoWeight. The polynomial is that
// of cpu/vec.h's exp2; each step is rounded. cpu/sampler.h has the same steps for sixteen at a time.
constexpr float kWeight5 = 1.327647217e-3f, kWeight4 = 9.675541331e-3f, kWeight3 = 5.550713273e-2f,
                kWeight2 = 2.402211972e-1f, kWeight1 = 6.931469671e-1f, kWeight0 = 1.0f;
constexpr float kWeightLeast = -40.0f;      // in powers of two
constexpr float kRoundMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which its low bits then hold

RFT_HD float weight(float d) {
  const float scaled = mul_rn(d, kLog2e), y = scaled > kWeightLeast ? scaled : kWeightLeast;
  const float t = add_rn(y, kRoundMagic), f = add_rn(y, -add_rn(t, -kRoundMagic));
  float p = add_rn(mul_rn(kWeight5, f), kWeight4);
  p = add_rn(mul_rn(p, f), kWeight3);
  p = add_rn(mul_rn(p, f), kWeight2);
  p = add_rn(mul_rn(p, f), kWeight1);
  p = add_rn(mul_rn(p, f), kWeight0);
  uint32_t n, bits;
  std::memcpy(&n, &t, 4);
  std::memcpy(&bits, &p, 4);
  bits += (n + kUnitBits) << 23;
  std::memcpy(&p, &bits, 4);
  return p;
}

// A weight in whole units, to nearest even.
RFT_HD uint64_t units(float w) {
#if defined(__CUDA_ARCH__)
  return __float2ull_rn(w);
#else
  return uint64_t(std::llrint(w));
#endif
}

// Scaled logits below this need not be looked at to find the threshold of top-p: all such tokens of a row of `vocab`
// together weigh less than the 1 - p of `total` units that may be left out. Only work depends on it, no result.
RFT_HD float top_p_floor(float top, float top_p, double total, double vocab) {
  const float each = float(0.99 * (1.0 - double(top_p)) * total / vocab);  // units a token
  if (!(each >= 64.0f)) return top + kNoWeight;  // too few for the rounding to whole units not to count
  const float below = log_normal(each) - float(kUnitBits) * 0.693147181f - 0.02f;
  return top + (below > kNoWeight ? below : kNoWeight);
}

// The threshold of min-p.
RFT_HD float min_p_threshold(float top, float min_p) {
  return add_rn(top, log_normal(min_p > 1.17549435e-38f ? min_p : 1.17549435e-38f));
}

}  // namespace rft
