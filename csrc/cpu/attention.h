// Attention over a tree of KV pages.
//
// What a row computes is fixed, whatever the batch: for its pages in ascending order, sixteen scores; a running
// reference maximum that moves only when a score exceeds it by more than kSlack (so most pages rescale nothing);
// probabilities 2^(s - reference); their sum lane by lane; output += P V in key order. A shared page run and a private
// one go through the same instructions in the same order, so it makes no difference to a single bit how the pages are
// divided into segments: sharing on or off, chunked prefill or not, any batch.
//
// Work items are (tile of rows, kv head). In an item, the query heads of a group and the rows of a segment stand
// together as "row-heads", taken kBatch at a time, so that a page of keys read once serves kBatch dot products.
#pragma once
#include "kernels.h"
#include "parallel.h"
#include "vec.h"

namespace rft {
namespace RFT_ISA {

constexpr int kBatch = 8;               // row-heads that share a read of a page
constexpr float kSlack = 8.0f;          // in powers of two
constexpr float kMasked = -1.0e30f;     // score of a key beyond the row's end
constexpr float kNoReference = -1.0e9f;  // before the first page; below any real score, above kMasked

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

// Running state of the row-heads of an item: reference, lane sums, unnormalised output.
struct AttentionState {
  float* reference;  // [n]
  float* sum;        // [n,16]
  float* output;     // [n,D]
};

template <class T, int N, int DV>
RFT_INLINE void attend_values(const T* values, const T (*p)[kPage], float* const* output, int64_t d) {
  constexpr int64_t w = Dot<T>::w;
  f32x16 acc[N][DV];
  for (int i = 0; i < N; ++i)
    for (int v = 0; v < DV; ++v) acc[i][v] = load(output[i] + v * kLanes);
  for (int64_t k = 0; k < kPage / w; ++k)
    for (int v = 0; v < DV; ++v)
      for (int i = 0; i < N; ++i)
        acc[i][v] = Dot<T>::step(acc[i][v], values + (k * d + v * kLanes) * w, p[i] + k * w);
  for (int i = 0; i < N; ++i)
    for (int v = 0; v < DV; ++v) store(output[i] + v * kLanes, acc[i][v]);
}

// N row-heads x pages [page0, page1). q[i]: [D] of the storage type; len[i]: keys that row-head i may see.
template <class T, int N>
RFT_INLINE void attend_pages(const T* const* q, const int32_t* len, float* const* reference, float* const* sum,
                             float* const* output, const T* pool, int64_t page_stride, const int32_t* table,
                             int64_t page0, int64_t page1, int64_t d, float scale) {
  constexpr int64_t w = Dot<T>::w;
  static const float kLaneIndex[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const f32x16 lane = load(kLaneIndex);
  int32_t shortest = len[0];
  for (int i = 1; i < N; ++i) shortest = len[i] < shortest ? len[i] : shortest;
  for (int64_t page = page0; page < page1; ++page) {
    const T* keys = pool + int64_t(table[page]) * page_stride;
    const T* values = keys + kPage * d;
    if (page + 1 < page1) {
      const char* next = reinterpret_cast<const char*>(pool + int64_t(table[page + 1]) * page_stride);
      for (int64_t b = 0; b < int64_t(2 * kPage * sizeof(T)) * d; b += 256) __builtin_prefetch(next + b);
    }
    f32x16 s[N];
    for (int i = 0; i < N; ++i) s[i] = f32x16{};
    for (int64_t k = 0; k < d / w; ++k)
      for (int i = 0; i < N; ++i) s[i] = Dot<T>::step(s[i], keys + k * kPage * w, q[i] + k * w);
    alignas(64) T p[N][kPage];
    const bool ragged = int64_t(shortest) < (page + 1) * kPage;
    for (int i = 0; i < N; ++i) {
      f32x16 score = s[i] * scale;
      if (ragged) score = lane < splat(float(len[i] - page * kPage)) ? score : splat(kMasked);
      if (any_greater(score, splat(*reference[i] + kSlack))) {
        const float top = reduce_max(score);
        const f32x16 factor = exp2(splat(*reference[i] - top));
        *reference[i] = top;
        store(sum[i], load(sum[i]) * factor);
        for (int64_t v = 0; v < d; v += kLanes) store(output[i] + v, load(output[i] + v) * factor);
      }
      const f32x16 e = exp2(score - *reference[i]);
      store(sum[i], load(sum[i]) + e);
      store(p[i], e);
    }
    if (d == 64) {
      for (int i = 0; i < N; i += 4) {
        if (i + 4 <= N) attend_values<T, 4, 4>(values, p + i, output + i, d);
        else
          for (int j = i; j < N; ++j) attend_values<T, 1, 4>(values, p + j, output + j, d);
      }
    } else {
      for (int i = 0; i < N; ++i)
        for (int64_t v = 0; v < d; v += kLanes) {
          float* at = output[i] + v;
          attend_values<T, 1, 1>(values + v * w, p + i, &at, d);
        }
    }
  }
}

template <class T>
void attention_item(const AttentionArgs& a, const int32_t* tile, int64_t kv_head, AttentionState state) {
  const int64_t d = a.head_dim, group = a.heads / a.kv_heads, row0 = tile[0];
  const int64_t page_stride = a.kv_heads * 2 * kPage * d;
  const T* pool = static_cast<const T*>(a.pool) + kv_head * 2 * kPage * d;
  const int64_t n = (tile[1] - row0) * group;
  for (int64_t i = 0; i < n; ++i) state.reference[i] = kNoReference;
  std::memset(state.sum, 0, sizeof(float) * n * kLanes);
  std::memset(state.output, 0, sizeof(float) * n * d);
  const float scale = a.scale * 1.44269504f;

  for (int64_t seg = tile[2]; seg < tile[3]; ++seg) {
    const int32_t* s = a.segments + seg * 4;
    const int64_t count = (s[1] - s[0]) * group;
    const int32_t* table = a.tables + int64_t(a.row_table[s[0]]) * a.table_stride;
    for (int64_t first = 0; first < count; first += kBatch) {
      const int batch = int(count - first < kBatch ? count - first : kBatch);
      const T* q[kBatch];
      int32_t len[kBatch];
      float *reference[kBatch], *sum[kBatch], *output[kBatch];
      int32_t longest = 0;
      for (int i = 0; i < batch; ++i) {
        const int64_t row = s[0] + (first + i) / group, head = kv_head * group + (first + i) % group;
        const int64_t at = (row - row0) * group + (first + i) % group;
        q[i] = static_cast<const T*>(a.q) + row * a.q_stride + head * d;
        len[i] = a.lens[row];
        longest = len[i] > longest ? len[i] : longest;
        reference[i] = state.reference + at;
        sum[i] = state.sum + at * kLanes;
        output[i] = state.output + at * d;
      }
      int64_t page1 = (longest + kPage - 1) / kPage;
      if (s[3] >= 0 && s[3] < page1) page1 = s[3];
#define RFT_ATTEND(N)                                                                                           \
  attend_pages<T, N>(q + i, len + i, reference + i, sum + i, output + i, pool, page_stride, table, s[2], page1, d, \
                     scale)
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
  T* out = static_cast<T*>(a.out);
  for (int64_t i = 0; i < n; ++i) {
    const float inverse = 1.0f / reduce_add(load(state.sum + i * kLanes));
    T* to = out + (row0 + i / group) * a.heads * d + (kv_head * group + i % group) * d;
    for (int64_t v = 0; v < d; v += kLanes) store(to + v, load(state.output + i * d + v) * inverse);
  }
}

template <class T>
void attention_t(const AttentionArgs& a) {
  int64_t most = 0;
  for (int64_t t = 0; t < a.n_tiles; ++t) {
    const int64_t rows = a.tiles[t * 4 + 1] - a.tiles[t * 4];
    most = rows > most ? rows : most;
  }
  const int64_t n = most * (a.heads / a.kv_heads), per_row = 1 + kLanes + a.head_dim;
  parallel_for(a.n_tiles * a.kv_heads, [&](int64_t item) {
    thread_local float* scratch = nullptr;  // grows to the largest tile seen, lives as long as its thread
    thread_local int64_t capacity = 0;
    if (capacity < n * per_row) {
      delete[] scratch;
      scratch = new float[capacity = n * per_row];
    }
    AttentionState state{scratch, scratch + n, scratch + n * (1 + kLanes)};
    attention_item<T>(a, a.tiles + item / a.kv_heads * 4, item % a.kv_heads, state);
  });
}

inline void attention(const AttentionArgs& a) {
  a.dtype == DType::bf16 ? attention_t<bf16>(a) : attention_t<float>(a);
}

}  // namespace RFT_ISA
}  // namespace rft
