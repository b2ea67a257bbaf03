// Attention's two products on matrix tiles (Intel AMX), for bfloat16 and head dimensions that are a multiple of 32.
//
// As the pages lie in the pool they are tiles already: 32 channels of a page's keys are [16 pairs][16 keys][2], 16 channels
// of its values [8 pairs of keys][16 channels][2]. A tile of queries holds up to 16 row-heads; what each of them computes
// depends neither on their number nor on the others.
//
// Everything that has an order goes page by page, as on lanes: a page's 16 keys are one step of the value product, half of
// what a tile could take, so that it makes no difference where a run of shared pages ends.
#pragma once
#ifdef __AMX_BF16__
#include "kernels.h"
#include "online_softmax.h"
#include "tile_configuration.h"
#include "vec.h"

namespace rft {
namespace RFT_ISA {

constexpr int64_t kTileHeads = 16;    // row-heads of a tile
constexpr int64_t kTileChannels = 32; // of a tile of queries or keys
constexpr int kTilePages = 4;         // pages whose scores are computed together

// Tiles 0 to 3 are sums, 4 probabilities, 5 values, 6 queries, 7 keys.
RFT_INLINE void configure_tiles(int heads) {
  TileConfiguration c;
  for (int sum = 0; sum < 4; ++sum) c.set(sum, heads, 64);
  c.set(4, heads, kPage * 2);
  c.set(5, kPage / 2, 64);
  c.set(6, heads, 64);
  c.set(7, kPage, 64);
  _tile_loadconfig(&c);
}

// s[G][16][16]: the scores of up to 16 row-heads q[*,D] for the keys of G pages.
template <int G>
RFT_INLINE void tile_scores(const bf16* q, const bf16* const* keys, int64_t d, float (*s)[kTileHeads * kPage]) {
  _tile_zero(0);
  if (G > 1) _tile_zero(1);
  if (G > 2) _tile_zero(2);
  if (G > 3) _tile_zero(3);
  for (int64_t c = 0; c < d; c += kTileChannels) {
    _tile_loadd(6, q + c, d * 2);
    _tile_loadd(7, keys[0] + c * kPage, 64);
    _tile_dpbf16ps(0, 6, 7);
    if (G > 1) {
      _tile_loadd(7, keys[1] + c * kPage, 64);
      _tile_dpbf16ps(1, 6, 7);
    }
    if (G > 2) {
      _tile_loadd(7, keys[2] + c * kPage, 64);
      _tile_dpbf16ps(2, 6, 7);
    }
    if (G > 3) {
      _tile_loadd(7, keys[3] + c * kPage, 64);
      _tile_dpbf16ps(3, 6, 7);
    }
  }
  _tile_stored(0, s[0], 64);
  if (G > 1) _tile_stored(1, s[1], 64);
  if (G > 2) _tile_stored(2, s[2], 64);
  if (G > 3) _tile_stored(3, s[3], 64);
}

// output[*,D] += p[pages][16][16] times the values of that many pages, for up to 16 row-heads.
RFT_INLINE void tile_values(const bf16 (*p)[kTileHeads * kPage], const bf16* const* values, int pages, float* output,
                            int64_t d) {
  const int64_t bytes = d * 4;  // of a row of output, and of a pair of keys' values
  int64_t v = 0;
  for (; v + 64 <= d; v += 64) {
    float* to = output + v;
    _tile_loadd(0, to, bytes);
    _tile_loadd(1, to + 16, bytes);
    _tile_loadd(2, to + 32, bytes);
    _tile_loadd(3, to + 48, bytes);
    for (int g = 0; g < pages; ++g) {
      const bf16* from = values[g] + v * 2;
      _tile_loadd(4, p[g], kPage * 2);
      _tile_loadd(5, from, bytes);
      _tile_dpbf16ps(0, 4, 5);
      _tile_loadd(5, from + 32, bytes);
      _tile_dpbf16ps(1, 4, 5);
      _tile_loadd(5, from + 64, bytes);
      _tile_dpbf16ps(2, 4, 5);
      _tile_loadd(5, from + 96, bytes);
      _tile_dpbf16ps(3, 4, 5);
    }
    _tile_stored(0, to, bytes);
    _tile_stored(1, to + 16, bytes);
    _tile_stored(2, to + 32, bytes);
    _tile_stored(3, to + 48, bytes);
  }
  for (; v < d; v += 16) {
    _tile_loadd(0, output + v, bytes);
    for (int g = 0; g < pages; ++g) {
      _tile_loadd(4, p[g], kPage * 2);
      _tile_loadd(5, values[g] + v * 2, bytes);
      _tile_dpbf16ps(0, 4, 5);
    }
    _tile_stored(0, output + v, bytes);
  }
}

// Up to 16 row-heads x G neighbouring pages from `page` on. q: [heads,D]; seen[i]: keys that row-head i may see, some of them
// less than all of these pages' if `kRagged`.
template <int G, bool kRagged>
RFT_INLINE void attend_tile(const bf16* q, const int32_t* seen, int heads, AttentionState state, const bf16* const* keys,
                            int64_t page, int64_t d, float scale) {
  alignas(64) float s[G][kTileHeads * kPage];
  alignas(64) bf16 p[G][kTileHeads * kPage];
  f32x16 factors[kTileHeads][G];
  unsigned moved[kTileHeads], any = 0;
  const bf16* values[G];
  for (int g = 0; g < G; ++g) values[g] = keys[g] + kPage * d;

  tile_scores<G>(q, keys, d, s);
  for (int i = 0; i < heads; ++i) {
    f32x16 scores[G];
    for (int g = 0; g < G; ++g) scores[g] = load(s[g] + i * kPage);
    moved[i] = weigh<bf16, G>(scores, seen[i] - page * kPage, scale, kRagged, state.reference + i,
                              state.sum + i * kLanes, p[0] + i * kPage, kTileHeads * kPage, factors[i]);
    any |= moved[i];
  }
  const auto rescale = [&](int g) {
    for (int i = 0; i < heads; ++i)
      if (moved[i] >> g & 1) scale_by(state.output + i * d, d, factors[i][g]);
  };
  if (any & 1) rescale(0);
  if (any <= 1) {
    tile_values(p, values, G, state.output, d);
    return;
  }
  for (int g = 0; g < G; ++g) {  // a reference moved after the first page: outputs must be rescaled in between
    if (g > 0) rescale(g);
    tile_values(p + g, values + g, 1, state.output, d);
  }
}

template <bool kRagged>
inline void attend_tile(const bf16* q, const int32_t* seen, int heads, AttentionState state, const bf16* const* keys,
                        int pages, int64_t page, int64_t d, float scale) {
  switch (pages) {
    case 1: return attend_tile<1, kRagged>(q, seen, heads, state, keys, page, d, scale);
    case 2: return attend_tile<2, kRagged>(q, seen, heads, state, keys, page, d, scale);
    case 3: return attend_tile<3, kRagged>(q, seen, heads, state, keys, page, d, scale);
    default: return attend_tile<4, kRagged>(q, seen, heads, state, keys, page, d, scale);
  }
}

// All `count` row-heads of a segment x pages [page0, page1) of `table`. q: [count,D]; seen: [count]; a row-head goes on to
// its own last page if that comes before page1.
inline void attend_on_tiles(const bf16* q, const int32_t* seen, int64_t count, AttentionState state, const bf16* pool,
                            int64_t page_stride, const int32_t* table, int64_t page0, int64_t page1, int64_t d,
                            float scale) {
  int configured = 0;
  for (int64_t page = page0; page < page1; page += kTilePages) {
    const int pages = int(page1 - page < kTilePages ? page1 - page : kTilePages);
    const bf16* keys[kTilePages];
    for (int g = 0; g < pages; ++g) keys[g] = pool + int64_t(table[page + g]) * page_stride;
    if (count <= kTileHeads)  // a row's own pages come from memory; shared ones stay in the cache
      for (int64_t next = page + kTilePages; next < page + 2 * kTilePages && next < page1; ++next) {
        const char* at = reinterpret_cast<const char*>(pool + int64_t(table[next]) * page_stride);
        for (int64_t b = 0; b < int64_t(2 * kPage * sizeof(bf16)) * d; b += 64) __builtin_prefetch(at + b);
      }
    for (int64_t first = 0; first < count; first += kTileHeads) {
      const int heads = int(count - first < kTileHeads ? count - first : kTileHeads);
      int32_t shortest = seen[first], longest = seen[first];
      for (int i = 1; i < heads; ++i) {
        shortest = seen[first + i] < shortest ? seen[first + i] : shortest;
        longest = seen[first + i] > longest ? seen[first + i] : longest;
      }
      if (longest <= page * kPage) continue;
      if (configured != heads) configure_tiles(configured = heads);
      const AttentionState at{state.reference + first, state.sum + first * kLanes, state.output + first * d};
      const auto attend = shortest < (page + pages) * kPage ? attend_tile<true> : attend_tile<false>;
      attend(q + first * d, seen + first, heads, at, keys, pages, page, d, scale);
    }
  }
  _tile_release();
}

}  // namespace RFT_ISA
}  // namespace rft
#endif
