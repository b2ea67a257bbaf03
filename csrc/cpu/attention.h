// Attention over a tree of KV pages.
//
// What a row computes is fixed, whatever the batch: for its pages in ascending order, sixteen scores; a running
// reference maximum that moves only when a score exceeds it by more than kSlack (so most pages rescale nothing);
// probabilities 2^(s - reference); their sum lane by lane; output += P V in key order. A shared page run and a private
// one go through the same instructions in the same order, so it makes no difference to a single bit how the pages are
// divided into segments: sharing on or off, chunked prefill or not, any batch.
//
// Work items are (tile of rows, kv head). In an item, the query heads of a group and the rows of a segment stand
// together as "row-heads". Here their products are done on the lanes of vectors, kBatch row-heads at a time, so that a page
// of keys read once serves kBatch dot products; attention_tiles.h does them on matrix tiles, where the machine has them.
#pragma once
#include <type_traits>
#include <vector>

#include "attention_tiles.h"
#include "kernels.h"
#include "online_softmax.h"
#include "parallel.h"
#include "vec.h"

namespace rft {
namespace RFT_ISA {

constexpr int kBatch = 8;  // row-heads that share a read of a page

// One operand pair (bf16) or element (float) of a query, broadcast against sixteen keys, or of the probabilities
// against sixteen output channels.
template <class T> struct Dot;

template <> struct Dot<float> {
  static constexpr int64_t w = 1;
  static RFT_INLINE f32x16 step(f32x16 acc, const float* lanes, const float* one) {
    return fma(load(lanes), splat(*one), acc);
  }
};

template <> struct Dot<bf16> {
  static constexpr int64_t w = 2;
  static RFT_INLINE f32x16 step(f32x16 acc, const bf16* lanes, const bf16* two) {
#if defined(__AVX512BF16__)
    int32_t pair;
    std::memcpy(&pair, two, 4);
    return (f32x16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_loadu_si512(lanes), (__m512bh)_mm512_set1_epi32(pair));
#else
    u32x16 u;
    std::memcpy(&u, lanes, sizeof(u));
    const u32x16 even = u << 16, odd = u & 0xffff0000u;
    f32x16 a, b;
    std::memcpy(&a, &even, sizeof(a));
    std::memcpy(&b, &odd, sizeof(b));
    acc = fma(a, splat(to_float(two[0])), acc);
    return fma(b, splat(to_float(two[1])), acc);
#endif
  }
};

// output[i] += P V over G pages, for N row-heads and DV * 16 channels held in registers meanwhile.
template <class T, int N, int DV, int G>
RFT_INLINE void attend_values(const T* const* values, const T (*p)[G][kPage], float* const* output, int64_t d) {
  constexpr int64_t w = Dot<T>::w;
  f32x16 acc[N][DV];
  for (int i = 0; i < N; ++i)
    for (int v = 0; v < DV; ++v) acc[i][v] = load(output[i] + v * kLanes);
  for (int g = 0; g < G; ++g)
    for (int64_t k = 0; k < kPage / w; ++k)
      for (int v = 0; v < DV; ++v)
        for (int i = 0; i < N; ++i)
          acc[i][v] = Dot<T>::step(acc[i][v], values[g] + (k * d + v * kLanes) * w, p[i][g] + k * w);
  for (int i = 0; i < N; ++i)
    for (int v = 0; v < DV; ++v) store(output[i] + v * kLanes, acc[i][v]);
}

// The same for N row-heads and any head dimension.
template <class T, int N, int G>
RFT_INLINE void attend_values_all(const T* const* values, const T (*p)[G][kPage], float* const* output, int64_t d) {
  constexpr int64_t w = Dot<T>::w;
  if (d == 64) {
    attend_values<T, N, 4, G>(values, p, output, d);
    return;
  }
  for (int64_t v = 0; v < d; v += kLanes) {
    const T* at[G];
    float* to[N];
    for (int g = 0; g < G; ++g) at[g] = values[g] + v * w;
    for (int i = 0; i < N; ++i) to[i] = output[i] + v;
    attend_values<T, N, 1, G>(at, p, to, d);
  }
}

// N row-heads x G neighbouring pages from `page` on. The pages' scores are computed together; everything that has an
// order (reference, sum, output) goes page by page.
template <class T, int N, int G>
RFT_INLINE void attend_block(const T* const* q, const int32_t* len, float* const* reference, float* const* sum,
                             float* const* output, const T* pool, int64_t page_stride, const int32_t* table,
                             int64_t page, int64_t d, float scale, bool ragged) {
  constexpr int64_t w = Dot<T>::w;
  const T *keys[G], *values[G];
  for (int g = 0; g < G; ++g) {
    keys[g] = pool + int64_t(table[page + g]) * page_stride;
    values[g] = keys[g] + kPage * d;
  }
  f32x16 s[N][G];
  for (int i = 0; i < N; ++i)
    for (int g = 0; g < G; ++g) s[i][g] = f32x16{};
  for (int64_t k = 0; k < d / w; ++k)
    for (int i = 0; i < N; ++i)
      for (int g = 0; g < G; ++g) s[i][g] = Dot<T>::step(s[i][g], keys[g] + k * kPage * w, q[i] + k * w);

  alignas(64) T p[N][G][kPage];
  unsigned moved[N], any = 0;
  f32x16 factors[N][G];
  for (int i = 0; i < N; ++i) {
    moved[i] = weigh<T, G>(s[i], len[i] - page * kPage, scale, ragged, reference[i], sum[i], p[i][0], kPage, factors[i]);
    any |= moved[i];
  }

  for (int i = 0; i < N; ++i)
    if (moved[i] & 1) scale_by(output[i], d, factors[i][0]);
  const bool later = any > 1;  // a reference moved after the block's first page: outputs must be rescaled in between
  if (!later) {
    constexpr int kTogether = N % 4 == 0 ? 4 : N;
    for (int i = 0; i < N; i += kTogether) attend_values_all<T, kTogether, G>(values, p + i, output + i, d);
    return;
  }
  for (int g = 0; g < G; ++g) {
    for (int i = 0; i < N; ++i) {
      if (g > 0 && moved[i] >> g & 1) scale_by(output[i], d, factors[i][g]);
      alignas(64) T one[1][1][kPage];
      std::memcpy(one, p[i][g], sizeof(one));
      attend_values_all<T, 1, 1>(values + g, one, output + i, d);
    }
  }
}

// N row-heads x pages [page0, page1). q[i]: [D] of the storage type; len[i]: keys that row-head i may see.
template <class T, int N>
RFT_INLINE void attend_pages(const T* const* q, const int32_t* len, float* const* reference, float* const* sum,
                             float* const* output, const T* pool, int64_t page_stride, const int32_t* table,
                             int64_t page0, int64_t page1, int64_t d, float scale) {
  constexpr int kGroup = N > 4 ? 2 : 4;  // as many pages as their scores fit the registers
  constexpr bool kPrivate = N <= 4;      // a row's own pages come from memory; shared ones stay in the cache
  int32_t shortest = len[0];
  for (int i = 1; i < N; ++i) shortest = len[i] < shortest ? len[i] : shortest;
  int64_t page = page0;
  const auto prefetch = [&](int64_t first) {
    for (int64_t next = first; next < first + kGroup && next < page1; ++next) {
      const char* at = reinterpret_cast<const char*>(pool + int64_t(table[next]) * page_stride);
      for (int64_t b = 0; b < int64_t(2 * kPage * sizeof(T)) * d; b += 64) __builtin_prefetch(at + b);
    }
  };
  for (; page + kGroup <= page1; page += kGroup) {
    if (kPrivate) prefetch(page + kGroup);
    attend_block<T, N, kGroup>(q, len, reference, sum, output, pool, page_stride, table, page, d, scale,
                               shortest < (page + kGroup) * kPage);
  }
  for (; page < page1; ++page)
    attend_block<T, N, 1>(q, len, reference, sum, output, pool, page_stride, table, page, d, scale,
                          shortest < (page + 1) * kPage);
}

// All `count` row-heads of a segment x pages [page0, page1) of `table`. q: [count,D]; seen[i]: keys that row-head i may see;
// it goes on to its own last page if that comes before page1.
template <class T>
void attend_on_lanes(const T* q, const int32_t* seen, int64_t count, AttentionState state, const T* pool,
                     int64_t page_stride, const int32_t* table, int64_t page0, int64_t page1, int64_t d, float scale) {
  for (int64_t first = 0; first < count; first += kBatch) {
    const int batch = int(count - first < kBatch ? count - first : kBatch);
    const T* q_of[kBatch];
    float *reference[kBatch], *sum[kBatch], *output[kBatch];
    int32_t longest = 0;
    for (int i = 0; i < batch; ++i) {
      const int64_t at = first + i;
      longest = seen[at] > longest ? seen[at] : longest;
      q_of[i] = q + at * d;
      reference[i] = state.reference + at;
      sum[i] = state.sum + at * kLanes;
      output[i] = state.output + at * d;
    }
    const int64_t own = (longest + kPage - 1) / kPage, end = own < page1 ? own : page1;
#define RFT_ATTEND(N)                                                                                                \
  attend_pages<T, N>(q_of + i, seen + first + i, reference + i, sum + i, output + i, pool, page_stride, table, page0, \
                     end, d, scale)
    int i = 0;
    if (batch == kBatch) {
      RFT_ATTEND(kBatch);
      continue;
    }
    for (; i + 4 <= batch; i += 4) RFT_ATTEND(4);
    if (batch - i == 3) RFT_ATTEND(3);
    else if (batch - i == 2) RFT_ATTEND(2);
    else if (batch - i == 1) RFT_ATTEND(1);
#undef RFT_ATTEND
  }
}

// What a thread needs for the n row-heads of an item, in memory that it keeps from one to the next.
template <class T>
struct Scratch {
  AttentionState state;
  T* q;           // [n,D]
  int32_t* seen;  // [n] keys that each may see

  static Scratch of_thread(int64_t n, int64_t d) {
    thread_local std::vector<f32x16> memory;  // grows to the largest item seen
    n = (n + kLanes - 1) / kLanes * kLanes;   // so that each part begins at a cache line
    const size_t size = size_t(n * (2 + kLanes + 2 * d) / kLanes);
    if (memory.size() < size) memory.resize(size);
    float* at = reinterpret_cast<float*>(memory.data());
    return {{at, at + 2 * n, at + 2 * n + n * kLanes},
            reinterpret_cast<T*>(at + n * (2 + kLanes + d)),
            reinterpret_cast<int32_t*>(at + n)};
  }
};

template <class T>
void attention_item(const AttentionArgs& a, const int32_t* tile, int64_t kv_head) {
  const int64_t d = a.head_dim, group = a.heads / a.kv_heads, row0 = tile[0];
  const int64_t page_stride = a.kv_heads * 2 * kPage * d;
  const T* pool = static_cast<const T*>(a.pool) + kv_head * 2 * kPage * d;
  const int64_t n = (tile[1] - row0) * group;
  const auto [state, q, seen] = Scratch<T>::of_thread(n, d);
  std::memset(state.sum, 0, sizeof(float) * n * kLanes);
  std::memset(state.output, 0, sizeof(float) * n * d);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = row0 + i / group, head = kv_head * group + i % group;
    state.reference[i] = kNoReference;
    seen[i] = a.lens[row];
    std::memcpy(q + i * d, static_cast<const T*>(a.q) + row * a.q_stride + head * d, sizeof(T) * d);
  }
  auto* attend = attend_on_lanes<T>;
#ifdef __AMX_BF16__
  if constexpr (std::is_same_v<T, bf16>)
    if (d % kTileChannels == 0) attend = attend_on_tiles;
#endif
  const float scale = a.scale * 1.44269504f;
  for (int64_t seg = tile[2]; seg < tile[3]; ++seg) {
    const int32_t* s = a.segments + seg * 4;
    const int64_t at = (s[0] - row0) * group, count = (s[1] - s[0]) * group;
    int64_t page1 = s[3];
    if (page1 < 0)
      for (int64_t row = s[0]; row < s[1]; ++row) {
        const int64_t own = (a.lens[row] + kPage - 1) / kPage;
        page1 = own > page1 ? own : page1;
      }
    attend(q + at * d, seen + at, count, {state.reference + at, state.sum + at * kLanes, state.output + at * d}, pool,
           page_stride, a.tables + int64_t(a.row_table[s[0]]) * a.table_stride, s[2], page1, d, scale);
  }
  T* out = static_cast<T*>(a.out);
  for (int64_t i = 0; i < n; ++i) {
    const float inverse = 1.0f / reduce_add(load(state.sum + i * kLanes));
    T* to = out + (row0 + i / group) * a.heads * d + (kv_head * group + i % group) * d;
    for (int64_t v = 0; v < d; v += kLanes) store(to + v, load(state.output + i * d + v) * inverse);
  }
}

template <class T>
void attention_t(const AttentionArgs& a) {
  parallel_for(a.n_tiles * a.kv_heads, [&](int64_t item) {
    attention_item<T>(a, a.tiles + item / a.kv_heads * 4, item % a.kv_heads);
  });
}

inline void attention(const AttentionArgs& a) {
  a.dtype == DType::bf16 ? attention_t<bf16>(a) : attention_t<float>(a);
}

}  // namespace RFT_ISA
}  // namespace rft
