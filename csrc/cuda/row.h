// One request's row of logits as the sampler's threads see it, and the draw from eight of its tokens.
//
// Units: an octet is 8 tokens, what a thread takes at a time (two Philox counters, one or two 16-byte loads); a group is
// 64 tokens, eight neighbouring lanes' octets.
#pragma once
#include "../sampling.h"
#include "device.h"

namespace rft {
namespace cuda {

constexpr int kOctet = 8;
constexpr int kGroupOctets = 8;
constexpr int kGroup = kOctet * kGroupOctets;

template <class T>
struct Row {
  const T* x;
  int32_t vocab;
  bool aligned;  // to 16 bytes

  RFT_DEVICE Row at(const void* logits, int64_t offset, int32_t vocab) {
    const T* x = static_cast<const T*>(logits) + offset;
    return {x, vocab, reinterpret_cast<uintptr_t>(x) % 16 == 0};
  }
};

// The logits of an octet; past the end of the row, -inf.
template <class T>
RFT_DEVICE void load_octet(const Row<T>& row, int32_t octet, float x[kOctet]) {
  const int32_t first = octet * kOctet;
  if (row.aligned && first + kOctet <= row.vocab) return load8(row.x + first, x);
#pragma unroll
  for (int j = 0; j < kOctet; ++j) x[j] = first + j < row.vocab ? to_float(row.x[first + j]) : -kInf;
}

RFT_DEVICE float max8(const float x[kOctet]) {
  return fmaxf(fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])), fmaxf(fmaxf(x[4], x[5]), fmaxf(x[6], x[7])));
}

// Score and token as one number: the higher is the better score or, among equals, the lower token. 0: none yet.
RFT_DEVICE uint64_t candidate(float score, int32_t token) {
  return uint64_t(ordered(add_rn(score, 0.0f))) << 32 | uint32_t(~token);  // + 0: -0 counts as 0
}
RFT_DEVICE float score_of(uint64_t candidate) { return from_ordered(uint32_t(candidate >> 32)); }
RFT_DEVICE int32_t token_of(uint64_t candidate) { return ~int32_t(uint32_t(candidate)); }

// What a request asks for, read from the device arrays when the kernel runs.
struct Request {
  uint64_t key;
  uint32_t step, sample, stream;
  float inv_t;  // infinity: greedy
  int32_t top_k;
  float top_p, min_p;

  // Whether scaled logits up to `top` make no draw: the temperature is 0, or so small that they overflow.
  __device__ bool greedy(float top) const { return !(inv_t < kInf) || !(fabsf(mul_rn(top, inv_t)) < kInf); }
  __device__ bool filtered(int32_t vocab) const {
    return inv_t < kInf && ((top_k > 0 && top_k < vocab) || top_p < 1.0f || min_p > 0.0f);
  }
};

// Draws among the tokens of an octet whose scaled logits reach `threshold` (kLowest: every finite one).
// `bound` is an ordered score, shared by the block, that the winner is known to reach: noise is computed only where it
// could lift a token that far. Which of the threads' updates a thread sees changes its work, never the result.
RFT_DEVICE void draw_octet(const float x[kOctet], int32_t octet, const Request& request, float threshold,
                           uint32_t* bound, uint64_t& best) {
  const float high = mul_rn(max8(x), request.inv_t);
  const float reach = from_ordered(*static_cast<volatile uint32_t*>(bound));
  if (!(high >= threshold) || add_rn(high, kGumbelMax) < reach) return;
  uint32_t words[kOctet];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t counter[4] = {uint32_t(2 * octet + half), request.step, request.sample, request.stream};
    philox4x32(counter, request.key, words + 4 * half);
  }
  const uint32_t largest = largest_word_to_reach(reach, high);
  uint32_t near = 0;
#pragma unroll
  for (int j = 0; j < kOctet; ++j) near |= uint32_t(words[j] <= largest) << j;
  const uint64_t before = best;
  while (near) {
    const int j = __ffs(int(near)) - 1;
    near &= near - 1;
    float logit = x[0];
    uint32_t word = words[0];
#pragma unroll
    for (int k = 1; k < kOctet; ++k) {  // registers cannot be indexed
      logit = k == j ? x[k] : logit;
      word = k == j ? words[k] : word;
    }
    const float s = mul_rn(logit, request.inv_t);
    if (!(s >= threshold)) continue;
    const uint64_t c = candidate(add_rn(s, gumbel(word)), octet * kOctet + j);
    best = c > best ? c : best;
  }
  if (best > before) atomicMax(bound, uint32_t(best >> 32));
}

// A score that a draw from a row or a part of it is sure to reach, if `top` is its largest scaled logit.
RFT_DEVICE uint32_t sure_bound(float top) { return ordered(add_rn(add_rn(top, kGumbelMin), 0.0f)); }

}  // namespace cuda
}  // namespace rft
