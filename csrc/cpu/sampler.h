// The fused sampler: one token and its log-probability for each request.
//
// Definition. For a request with logits x[V] (finite or -inf) and temperature T:
//   logprob = x[token] - log(sum(exp(x))): of the model's own distribution, whatever T and the filters are.
//   T = 0: token = argmax x, the lowest id among equals.
//   T > 0: s = x * (1/T) in float32. Kept are the tokens with s >= a threshold, the highest of
//     top-k   the k-th largest s;
//     top-p   the lowest s of the smallest set of highest values whose share, of what top-k keeps, reaches top_p;
//     min-p   max(s) + log(min_p);
//   shares are counted in whole units of 2^-34 of the most likely token's weight (../sampling.h);
//   equals of the threshold are kept too. token = argmax over the kept of s + g (float32), the lowest id among equals,
//   g = the Gumbel noise of philox.h: a draw from softmax(s) over the kept (Gumbel 1954; Maddison et al.,
//   "A* sampling", 2014). A temperature so small that the largest s overflows counts as 0.
// A row that holds NaN or +inf, or nothing but -inf, gives token -1 and logprob NaN.
//
// Everything is a pure function of the row and the request. Noise, scores, thresholds and the token have the same bits at
// every instruction set and on the GPU (../sampling.h); the sum for logprob runs in a fixed order and differs only in
// the rounding of exp.
//
// Work. The row is read from memory once, for the maximum of each block of 64 tokens; the other passes find it in cache
// and skip, by those maxima, what provably cannot matter:
//   sums of exp(x - max): a block wholly below max - (log V + 17) is left out. All such tokens together weigh less than
//     V exp(-(log V + 17)) = 4e-8 of the sum, which is at least 1.
//   the draw: noise is at most kGumbelMax, so a block whose largest s + kGumbelMax is below the best score so far needs
//     no random number; in any other block, only words small enough to make up the distance need a logarithm.
//   top-k: the k-th largest block maximum is a lower bound of the threshold, so few values are left to select from.
//   top-p: tokens that weigh less than (1 - p) Z / V each may all be left out, so the threshold lies above them.
#pragma once
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "../sampling.h"
#include "kernels.h"
#include "parallel.h"
#include "vec.h"

namespace rft {
namespace RFT_ISA {

constexpr int kBlock = 64;  // tokens: one vector of sixteen Philox counters
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();

// ---- Philox, sixteen counters at a time ----

// Done in vectors of the machine's own width: wider ones the compiler spills, and compares one lane at a time.
#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX2__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;
#endif
constexpr int kParts = int(sizeof(u32x16)) / kRegisterBytes;
typedef uint64_t u64_register __attribute__((vector_size(kRegisterBytes)));
typedef uint32_t u32_register __attribute__((vector_size(kRegisterBytes)));

// Products of the low halves with a constant; the high halves of `a` may hold anything.
RFT_INLINE u64_register mul_low_halves(u64_register a, uint32_t constant) {
#if defined(__AVX512F__)
  return (u64_register)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(constant));
#elif defined(__AVX2__)
  return (u64_register)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(constant));
#elif defined(__SSE2__)
  return (u64_register)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(constant));
#else
  return (a & 0xffffffffu) * uint64_t(constant);
#endif
}

// words[j][i] = word j of philox(counter = (counter0[i], step, sample, stream), key).
RFT_INLINE void philox_x16(u32x16 counter0, uint32_t step, uint32_t sample, uint32_t stream, uint64_t key,
                           u32x16 words[4]) {
  u64_register wide[kParts], merged[4][kParts];
  std::memcpy(wide, &counter0, sizeof(wide));
  for (int part = 0; part < kParts; ++part) {
    // Even and odd counters apart, each word in the low half of 64 bits: a product then is one instruction and its
    // halves are the next words, with rubbish left in high halves that nothing reads.
    u64_register out[2][4];
    for (int half = 0; half < 2; ++half) {
      u64_register c0 = half ? wide[part] >> 32 : wide[part];
      u64_register c1 = u64_register{} + step, c2 = u64_register{} + sample, c3 = u64_register{} + stream;
      uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
      for (int round = 0; round < kPhiloxRounds; ++round) {
        const u64_register p0 = mul_low_halves(c0, kPhiloxM0), p1 = mul_low_halves(c2, kPhiloxM1);
        c0 = (p1 >> 32) ^ c1 ^ k0;
        c2 = (p0 >> 32) ^ c3 ^ k1;
        c1 = p1;
        c3 = p0;
        k0 += kPhiloxW0;
        k1 += kPhiloxW1;
      }
      out[half][0] = c0;
      out[half][1] = c1;
      out[half][2] = c2;
      out[half][3] = c3;
    }
    for (int j = 0; j < 4; ++j) merged[j][part] = (out[0][j] & 0xffffffffu) | (out[1][j] << 32);
  }
  std::memcpy(words, merged, sizeof(merged));
}

// Whether any of 64 words is at most `limit`.
RFT_INLINE bool any_not_above(const u32x16 words[4], uint32_t limit) {
#if defined(__AVX512F__)
  const u32x16 w01 = (u32x16)_mm512_min_epu32((__m512i)words[0], (__m512i)words[1]);
  const u32x16 w23 = (u32x16)_mm512_min_epu32((__m512i)words[2], (__m512i)words[3]);
  const __m512i least = _mm512_min_epu32((__m512i)w01, (__m512i)w23);
  return _mm512_cmple_epu32_mask(least, _mm512_set1_epi32(int32_t(limit))) != 0;
#else
  u32_register parts[4 * kParts], near = {};
  std::memcpy(parts, words, sizeof(parts));
  for (const u32_register& part : parts) near |= (u32_register)(part <= limit);
  uint64_t halves[sizeof(near) / 8], any = 0;
  std::memcpy(halves, &near, sizeof(near));
  for (uint64_t h : halves) any |= h;
  return any != 0;
#endif
}

inline float gumbel_of(int64_t token, uint64_t key, uint32_t step, uint32_t sample, uint32_t stream) {
  const uint32_t counter[4] = {uint32_t(token / 4), step, sample, stream};
  uint32_t words[4];
  philox4x32(counter, key, words);
  return gumbel(words[token % 4]);
}

inline void gumbel_row(uint64_t key, uint32_t step, uint32_t sample, uint32_t stream, int64_t n, float* out) {
  const u32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int64_t first = 0; first < n; first += kBlock) {
    u32x16 words[4];
    philox_x16(lanes + uint32_t(first / 4), step, sample, stream, key, words);
    const int64_t count = std::min<int64_t>(kBlock, n - first);
    for (int64_t i = 0; i < count; ++i) out[first + i] = gumbel(words[i % 4][i / 4]);
  }
}

// ---- a row and its blocks ----

// Room for one row's work; one a thread, kept between calls.
struct SamplerScratch {
  float* memory = nullptr;
  int64_t vocab = -1;
  float* block_max = nullptr;  // [blocks]
  float* values = nullptr;     // [V + 64]
  float* weights = nullptr;    // [V + 64]
  ~SamplerScratch() { std::free(memory); }

  bool fit(int64_t v) {
    if (v <= vocab) return true;
    std::free(memory);
    const int64_t blocks = (v + kBlock - 1) / kBlock, wide = (blocks + 1) * kBlock;
    memory = static_cast<float*>(std::malloc(sizeof(float) * size_t(blocks + 2 * wide)));
    vocab = memory ? v : -1;
    block_max = memory;
    values = memory + blocks;
    weights = values + wide;
    return memory != nullptr;
  }
};

template <class T>
struct Row {
  const T* x;
  int64_t vocab, blocks;
  const float* block_max;
  float max;

  // The 64 logits of a block; past the end of the row, -inf.
  RFT_INLINE void load_block(int64_t b, f32x16 v[4]) const {
    const T* p = x + b * kBlock;
    if ((b + 1) * kBlock <= vocab) {
      for (int j = 0; j < 4; ++j) v[j] = load(p + j * kLanes);
      return;
    }
    float padded[kBlock];
    for (int64_t i = 0; i < kBlock; ++i) padded[i] = b * kBlock + i < vocab ? to_float(p[i]) : -kInf;
    for (int j = 0; j < 4; ++j) v[j] = load(padded + j * kLanes);
  }
};

// Fills block_max and the row's maximum; false if the row holds NaN.
template <class T>
inline bool find_maxima(Row<T>& row, float* block_max) {
  i32x16 nan = {};  // negative where NaN was seen: the bits of |x| are then above those of infinity
  f32x16 top = splat(-kInf);
  for (int64_t b = 0; b < row.blocks; ++b) {
    f32x16 v[4];
    row.load_block(b, v);
    for (int j = 0; j < 4; ++j) nan |= 0x7f800000 - ((i32x16)v[j] & 0x7fffffff);
    const f32x16 m = max(max(v[0], v[1]), max(v[2], v[3]));
    block_max[b] = reduce_max(m);
    top = max(top, m);
  }
  row.block_max = block_max;
  row.max = reduce_max(top);
  int32_t any = 0;
  for (int i = 0; i < kLanes; ++i) any |= nan[i];
  return any >= 0;
}

template <class T>
inline int64_t first_maximum(const Row<T>& row) {
  int64_t b = 0;
  while (row.block_max[b] != row.max) ++b;
  int64_t i = b * kBlock;
  while (to_float(row.x[i]) != row.max) ++i;
  return i;
}

// sum over the vocabulary of exp((x - max) * inv_t): float within 1024 tokens, double across.
template <class T>
inline double sum_exp(const Row<T>& row, float inv_t) {
  const float floor = row.max - (std::log(float(row.vocab)) + 17.0f) / inv_t;
  const f32x16 top = splat(row.max), scale = splat(inv_t * kLog2e);
  double total = 0;
  for (int64_t first = 0; first < row.blocks; first += 16) {
    const int64_t last = std::min(first + 16, row.blocks);
    f32x16 sum[4] = {};
    for (int64_t b = first; b < last; ++b) {
      if (row.block_max[b] < floor) continue;
      f32x16 v[4];
      row.load_block(b, v);
      for (int j = 0; j < 4; ++j) sum[j] += exp2((v[j] - top) * scale);
    }
    total += double(reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3])));
  }
  return total;
}

// ---- filters ----

// rft::weight (../sampling.h) of sixteen, to the bit.
RFT_INLINE f32x16 weight(f32x16 d) {
  const f32x16 y = max(d * kLog2e, splat(kWeightLeast));
  const f32x16 t = y + kRoundMagic, f = y - (t - kRoundMagic);
  f32x16 p = kWeight5 * f + kWeight4;
  p = p * f + kWeight3;
  p = p * f + kWeight2;
  p = p * f + kWeight1;
  p = p * f + kWeight0;
  u32x16 n, bits;
  std::memcpy(&n, &t, sizeof(n));
  std::memcpy(&bits, &p, sizeof(bits));
  bits += (n + kUnitBits) << 23;
  std::memcpy(&p, &bits, sizeof(p));
  return p;
}

// rft::units of sixteen weights, as floats: below 2^23 by adding 2^23, where a float has no bits left for the rest; from
// there on a float is whole.
RFT_INLINE f32x16 units(f32x16 w) {
  const f32x16 low = min(w, splat(8388608.0f));
  return ((low + 8388608.0f) - 8388608.0f) + (w - low);
}

inline void weights_row(const float* d, int64_t n, double* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    float lanes[kLanes] = {};
    const int64_t count = std::min<int64_t>(kLanes, n - i);
    std::memcpy(lanes, d + i, size_t(count) * sizeof(float));
    store(lanes, units(weight(load(lanes))));
    for (int64_t j = 0; j < count; ++j) out[i + j] = double(lanes[j]);
  }
}

// The weights of all tokens together, in units: exact, whatever the order. Floats add up whole units exactly to 2^24, so
// lanes of them do while they provably stay below; only blocks near the top go into the double at once.
template <class T>
inline double sum_units(const Row<T>& row, float inv_t, float top) {
  constexpr float kRoom = 16777216.0f;
  f32x16 lanes = {};
  float taken = 0;  // what a lane may hold by now
  double total = 0;
  const auto flush = [&](const f32x16& v) {
    for (int i = 0; i < kLanes; ++i) total += double(v[i]);
  };
  for (int64_t b = 0; b < row.blocks; ++b) {
    const float nearest = row.block_max[b] * inv_t - top;
    if (nearest < kNoWeight) continue;
    f32x16 v[4];
    row.load_block(b, v);
    for (int j = 0; j < 4; ++j) v[j] = units(weight(v[j] * inv_t - top));
    const float most = 4.1f * rft::weight(nearest) + 4.0f;  // a lane of this block, with room for rounding
    if (most > kRoom) {
      for (int j = 0; j < 4; ++j) flush(v[j]);
      continue;
    }
    if (taken + most > kRoom) {
      flush(lanes);
      lanes = f32x16{};
      taken = 0;
    }
    taken += most;
    lanes += (v[0] + v[1]) + (v[2] + v[3]);
  }
  flush(lanes);
  return total;
}

// All finite scaled logits >= floor, in order of id, into `values`; returns how many. Writes whole vectors: `values`
// has room for one more.
template <class T>
inline int64_t gather(const Row<T>& row, float inv_t, float floor, float* values) {
  floor = std::max(floor, kLowest);
  const f32x16 scale = splat(inv_t);
  int64_t n = 0;
  for (int64_t b = 0; b < row.blocks; ++b) {
    if (!(row.block_max[b] * inv_t >= floor)) continue;
    f32x16 v[4];
    row.load_block(b, v);
    for (int j = 0; j < 4; ++j) {
      const f32x16 s = v[j] * scale;
#if defined(__AVX512F__)
      const __mmask16 keep = _mm512_cmp_ps_mask((__m512)s, _mm512_set1_ps(floor), _CMP_GE_OQ);
      store(values + n, (f32x16)_mm512_maskz_compress_ps(keep, (__m512)s));
      n += __builtin_popcount(keep);
#else
      for (int i = 0; i < kLanes; ++i) {
        values[n] = s[i];
        n += s[i] >= floor;
      }
#endif
    }
  }
  return n;
}

// The largest t for which the weights of all values >= t, in whole units, sum to `target` or more; the least value if
// none does. Reorders and overwrites. Histograms over a range that narrows to the bin in which the sum crosses the
// target: time grows with n alone, whatever the distribution. values are finite, n >= 1.
inline float weighted_threshold(float* values, float* weights, int64_t n, double target) {
  constexpr int kBins = 256;
  double above = 0;  // weight of the values higher than those still looked at
  for (;;) {
    float lo = values[0], hi = values[0];
    for (int64_t i = 1; i < n; ++i) {
      lo = values[i] < lo ? values[i] : lo;
      hi = values[i] > hi ? values[i] : hi;
    }
    if (!(hi > lo)) return lo;
    // In double no distance of two floats is lost and none overflows. Highest values in bin 0; every step of the
    // computation is monotone, so bins are ranges of values.
    const double from = hi, scale = (kBins - 0.1) / (from - double(lo));
    const auto bin = [&](float v) { return int((from - double(v)) * scale); };
    double bins[kBins] = {};
    for (int64_t i = 0; i < n; ++i) bins[bin(values[i])] += weights[i];
    int pick = 0;
    while (pick < kBins - 1 && above + bins[pick] < target) above += bins[pick++];
    int64_t kept = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float v = values[i], w = weights[i];
      values[kept] = v;
      weights[kept] = w;
      kept += bin(v) == pick;
    }
    n = kept;
  }
}

struct Descending {  // a type of this namespace, so that std::nth_element is compiled once per instruction set
  bool operator()(float a, float b) const { return a > b; }
};

// The threshold on scaled logits of all filters together.
template <class T>
inline float threshold(const Row<T>& row, float inv_t, int32_t top_k, float top_p, float min_p,
                       SamplerScratch& scratch) {
  const float top = row.max * inv_t;
  float result = kLowest;
  float *values = scratch.values, *weights = scratch.weights;
  int64_t n = -1;  // values gathered
  if (top_k > 0 && top_k < row.vocab) {
    float floor = kLowest;
    if (top_k <= row.blocks) {
      std::memcpy(weights, row.block_max, sizeof(float) * size_t(row.blocks));
      std::nth_element(weights, weights + (top_k - 1), weights + row.blocks, Descending{});
      floor = weights[top_k - 1] * inv_t;
    }
    n = gather(row, inv_t, floor, values);
    if (n >= top_k) {
      if (n <= 1024) {
        std::nth_element(values, values + (top_k - 1), values + n, Descending{});
        result = values[top_k - 1];
      } else {
        for (int64_t i = 0; i < n; ++i) weights[i] = 1.0f;
        result = weighted_threshold(values, weights, n, top_k);
        n = gather(row, inv_t, result, values);
      }
      int64_t kept = 0;
      for (int64_t i = 0; i < n; ++i) {
        const float v = values[i];
        values[kept] = v;
        kept += v >= result;
      }
      n = kept;
    }
  }
  if (top_p < 1.0f) {
    double total = -1;
    if (n < 0) {
      total = sum_units(row, inv_t, top);
      n = gather(row, inv_t, top_p_floor(top, top_p, total, double(row.vocab)), values);
    }
    for (int64_t i = 0; i < n; i += kLanes) store(weights + i, units(weight(load(values + i) - top)));
    if (total < 0) {  // the values are all that top-k kept: their own sum is the whole
      total = 0;
      for (int64_t i = 0; i < n; ++i) total += weights[i];
    }
    result = std::max(result, weighted_threshold(values, weights, n, double(top_p) * total));
  }
  if (min_p > 0.0f) result = std::max(result, min_p_threshold(top, min_p));
  return std::min(result, top);
}

// ---- the draw ----

template <class T>
inline int64_t draw(const Row<T>& row, float inv_t, float threshold, int64_t argmax, uint64_t key, uint32_t step,
                    uint32_t sample, uint32_t stream) {
  const u32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  int64_t best_token = argmax;
  float best = row.max * inv_t + gumbel_of(argmax, key, step, sample, stream);
  for (int64_t b = 0; b < row.blocks; ++b) {
    const float high = row.block_max[b] * inv_t;
    if (high < threshold || high + kGumbelMax < best) continue;
    u32x16 words[4];
    philox_x16(lanes + uint32_t(b * (kBlock / 4)), step, sample, stream, key, words);
    const uint32_t largest = largest_word_to_reach(best, high);
    if (!any_not_above(words, largest)) continue;
    for (int i = 0; i < kBlock; ++i) {
      const int64_t token = b * kBlock + i;
      if (words[i % 4][i / 4] > largest || token >= row.vocab) continue;
      const float s = to_float(row.x[token]) * inv_t;
      if (s < threshold) continue;
      const float score = s + gumbel(words[i % 4][i / 4]);
      if (score > best || (score == best && token < best_token)) {
        best = score;
        best_token = token;
      }
    }
  }
  return best_token;
}

template <class T>
inline void sample_one(const SampleArgs& a, int64_t i, SamplerScratch& scratch) {
  a.token[i] = -1;
  a.logprob[i] = std::numeric_limits<float>::quiet_NaN();
  if (!scratch.fit(a.vocab)) return;
  Row<T> row;
  row.x = static_cast<const T*>(a.logits) + a.row[i] * a.logits_stride;
  row.vocab = a.vocab;
  row.blocks = (a.vocab + kBlock - 1) / kBlock;
  if (!find_maxima(row, scratch.block_max) || !(std::fabs(row.max) < kInf)) return;
  const double log_sum = std::log(sum_exp(row, 1.0f));
  const int64_t argmax = first_maximum(row);
  int64_t token = argmax;
  const float inv_t = a.temperature[i] > 0 ? 1.0f / a.temperature[i] : kInf;
  if (inv_t < kInf && std::fabs(row.max * inv_t) < kInf) {
    const float limit = threshold(row, inv_t, a.top_k[i], a.top_p[i], a.min_p[i], scratch);
    token = draw(row, inv_t, limit, argmax, a.key[i], a.step[i], a.sample[i], a.stream);
  }
  a.token[i] = token;
  a.logprob[i] = float(double(to_float(row.x[token])) - double(row.max) - log_sum);
}

inline void sample(const SampleArgs& args) {
  parallel_for(args.n, [&](int64_t i) {
    static thread_local SamplerScratch scratch;
    if (args.dtype == DType::bf16)
      sample_one<bf16>(args, i, scratch);
    else
      sample_one<float>(args, i, scratch);
  });
}

}  // namespace RFT_ISA
}  // namespace rft
