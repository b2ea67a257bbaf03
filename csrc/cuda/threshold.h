// The threshold of top-k, top-p and min-p together, found by one block without sorting.
//
// A threshold is the highest logit at which a running total over the tokens from the highest down (their number for
// top-k, their weight for top-p) reaches a target. Logits are taken as ordered integers; a histogram of 256 bins over
// the range they can lie in shows in which bin the total crosses the target; the range narrows to that bin, until it
// is one number: at most two passes for bfloat16 and four for float32. Counts and weights are integers (../sampling.h),
// so neither the order of the atomic additions nor the machine changes the outcome.
//
// A pass visits only groups of 64 tokens whose maximum reaches a bound below which no threshold can lie: for top-k the
// k-th largest of the group maxima, for top-p the weight that all tokens may have without counting.
#pragma once
#include "row.h"

namespace rft {
namespace cuda {

constexpr int kThreads = 256;  // of a block; also the bins of a histogram
constexpr int kWarps = kThreads / kWarp;
static_assert(kThreads == 256, "one thread a bin");

struct Search {  // shared memory
  uint32_t low[kThreads], high[kThreads];  // the bins' totals, 64 bits in two words
  uint64_t warp_totals[kWarps];
  uint64_t above;  // total of the bins above the chosen one
  int32_t chosen;
};

// The whole row's group maxima, as the block that ends the row finds them.
struct Groups {
  const float* maxima;  // [count]
  int32_t count;
};

// Calls f(x[8], octet) for the octets of all groups that hold a scaled logit >= floor. Whole warps take four groups at
// a time; kAhead such loads are under way at once.
template <int kAhead, class T, class F>
RFT_DEVICE void visit(const Row<T>& row, const Groups& groups, float inv_t, float floor, F f) {
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  for (int32_t first = warp * kWarp; first < groups.count; first += kThreads) {
    const float top = first + lane < groups.count ? __ldcg(groups.maxima + first + lane) : -kInf;
    uint32_t pending = __ballot_sync(kAll, mul_rn(top, inv_t) >= floor);
    while (pending) {
      int32_t octet[kAhead];
      float x[kAhead][kOctet];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        octet[a] = -1;
#pragma unroll
        for (int q = 0; q < kWarp / kGroupOctets; ++q) {
          if (pending && lane / kGroupOctets == q)
            octet[a] = (first + __ffs(int(pending)) - 1) * kGroupOctets + lane % kGroupOctets;
          pending &= pending - 1;  // 0 stays 0
        }
        if (octet[a] >= 0) load_octet(row, octet[a], x[a]);
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a)
        if (octet[a] >= 0) f(x[a], octet[a]);
    }
  }
}

// A logit of type T as an ordered integer of as many bits, and back.
RFT_DEVICE uint32_t key_of(float x, float) { return ordered(add_rn(x, 0.0f)); }
RFT_DEVICE uint32_t key_of(float x, bf16) { return key_of(x, 0.0f) >> 16; }
RFT_DEVICE float of_key(uint32_t key, float) { return from_ordered(key); }
RFT_DEVICE float of_key(uint32_t key, bf16) { return from_ordered(key << 16 | (key >> 15 ? 0u : 0xffffu)); }

RFT_DEVICE void add_to_bin(Search& search, uint32_t bin, uint64_t amount) {
  const uint32_t low = uint32_t(amount), old = atomicAdd(&search.low[bin], low);
  const uint32_t high = uint32_t(amount >> 32) + uint32_t(old + low < old);
  if (high) atomicAdd(&search.high[bin], high);
}

// Sum over the block's threads up to and including this one.
RFT_DEVICE uint64_t running_total(Search& search, uint64_t mine) {
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  unsigned long long sum = mine;
#pragma unroll
  for (int d = 1; d < kWarp; d *= 2) {
    const unsigned long long below = __shfl_up_sync(kAll, sum, d);
    if (lane >= d) sum += below;
  }
  if (lane == kWarp - 1) search.warp_totals[warp] = sum;
  __syncthreads();
  for (int w = 0; w < warp; ++w) sum += search.warp_totals[w];
  return sum;
}

// The highest value at which the total of `each`'s amounts, taken from the highest down, reaches `target`: false if it
// never does. each(add) calls add(x, amount) for values that lie within [lo, hi]; hi is among them.
template <class T, class Each>
RFT_DEVICE bool crossing(Search& search, float lo, float hi, double target, Each each, float* value) {
  const int thread = int(threadIdx.x);
  const uint32_t highest = key_of(hi, T{});
  uint32_t base = 0;  // of the range still looked at, downwards from `highest`; `bits` its width
  int bits = kWarp - __clz(int(highest - key_of(lo, T{})));
  uint64_t above = 0;
  do {
    const int shift = bits > 8 ? bits - 8 : 0;
    __syncthreads();  // the last round's results have been read
    search.low[thread] = search.high[thread] = 0;
    if (thread == 0) search.chosen = -1;
    __syncthreads();
    each([&](float x, uint64_t amount) {
      const uint32_t down = highest - key_of(x, T{}) - base;
      if (bits == kWarp || down >> bits == 0) add_to_bin(search, down >> shift, amount);
    });
    __syncthreads();
    const uint64_t mine = search.low[thread] | uint64_t(search.high[thread]) << 32;
    const uint64_t sum = above + running_total(search, mine);
    if (double(sum) >= target && (thread == 0 || double(sum - mine) < target)) {
      search.chosen = thread;
      search.above = sum - mine;
    }
    __syncthreads();
    if (search.chosen < 0) return false;
    base += uint32_t(search.chosen) << shift;
    above = search.above;
    bits = shift;
  } while (bits > 0);
  *value = of_key(highest - base, T{});
  return true;
}

// What all tokens with a scaled logit >= floor weigh together, in units; every thread gets it.
template <class T>
RFT_DEVICE uint64_t total_units(Search& search, const Row<T>& row, const Groups& groups, const Request& request,
                                float floor, float top) {
  uint64_t mine = 0;
  visit<2>(row, groups, request.inv_t, floor, [&](const float x[kOctet], int32_t) {
#pragma unroll
    for (int j = 0; j < kOctet; ++j) {
      const float s = mul_rn(x[j], request.inv_t);
      if (s >= floor) mine += units(weight(add_rn(s, -top)));
    }
  });
  const uint64_t sum = running_total(search, mine);
  if (threadIdx.x == kThreads - 1) search.above = sum;
  __syncthreads();
  return search.above;
}

// A logit that no token with a scaled logit >= floor lies below.
RFT_DEVICE float lowest_logit(float floor, float inv_t) {
  if (floor == kLowest || inv_t < 1e-30f) return kLowest;
  const float x = floor / inv_t;
  return fmaxf(x - fabsf(x) * 1e-6f - 1e-37f, kLowest);
}

// The threshold on scaled logits of all of a request's filters. Every thread of the block calls it and gets it.
template <class T>
RFT_DEVICE float find_threshold(Search& search, const Row<T>& row, const Groups& groups, const Request& request,
                                float row_max) {
  const float top = mul_rn(row_max, request.inv_t);
  float result = kLowest;
  // Three searches of one kind: the k-th largest group maximum, below which the k-th largest token cannot lie; the k-th
  // largest token; the token at which the share reaches top_p.
  for (int search_for = request.top_k > 0 && request.top_k < row.vocab ? 0 : 2; search_for < 3; ++search_for) {
    const bool by_weight = search_for == 2;
    double target = request.top_k;
    float floor = result;
    if (by_weight) {
      if (!(request.top_p < 1.0f)) break;
      const double total = double(total_units(search, row, groups, request, fmaxf(result, add_rn(top, kNoWeight)), top));
      target = double(request.top_p) * total;
      floor = fmaxf(result, top_p_floor(top, request.top_p, total, double(row.vocab)));
    }
    const auto values = [&](auto add) {
      if (search_for == 0) {
        for (int32_t g = int32_t(threadIdx.x); g < groups.count; g += kThreads) {
          const float x = __ldcg(groups.maxima + g);
          if (mul_rn(x, request.inv_t) >= floor) add(x, uint64_t(1));
        }
        return;
      }
      visit<2>(row, groups, request.inv_t, floor, [&](const float x[kOctet], int32_t) {
#pragma unroll
        for (int j = 0; j < kOctet; ++j) {
          const float s = mul_rn(x[j], request.inv_t);
          if (s >= floor) add(x[j], by_weight ? units(weight(add_rn(s, -top))) : uint64_t(1));
        }
      });
    };
    float value;
    if (crossing<T>(search, lowest_logit(floor, request.inv_t), row_max, target, values, &value))
      result = fmaxf(result, mul_rn(value, request.inv_t));
  }
  if (request.min_p > 0.0f) result = fmaxf(result, min_p_threshold(top, request.min_p));
  return fminf(result, top);
}

}  // namespace cuda
}  // namespace rft
