// Compiled for a machine that has tiles; what asks for them is in dispatch.cpp, which runs on any.
#include "tiles.h"

#include <algorithm>
#include <cstring>

#include "parallel.h"
#include "tile_configuration.h"

#ifdef RFT_TILES
#include <immintrin.h>
#endif

namespace rft {

void pack_tiles(const uint16_t* weight, uint16_t* packed, int64_t outputs, int64_t channels) {
  const int64_t steps = channels / kTileChannels;
  parallel_for((outputs + kPanelOutputs - 1) / kPanelOutputs, [&](int64_t panel) {
    uint16_t* to = packed + panel * kPanelOutputs * channels;
    for (int64_t first = panel * kPanelOutputs; first < (panel + 1) * kPanelOutputs; first += 16)
      for (int64_t step = 0; step < steps; ++step)
        for (int pair = 0; pair < 16; ++pair)
          for (int64_t o = first; o < first + 16; ++o, to += 2)
            if (o < outputs)
              std::memcpy(to, weight + o * channels + step * kTileChannels + 2 * pair, 4);
            else
              std::memset(to, 0, 4);
  });
}

#ifdef RFT_TILES
namespace {

// Tiles 0 to 3 are sums (two by two), 4 and 5 rows of x, 6 and 7 weights.
TileConfiguration configuration(int rows_a, int rows_b) {
  TileConfiguration c;
  const int rows[8] = {rows_a, rows_a, rows_b, rows_b, rows_a, rows_b, 16, 16};
  for (int tile = 0; tile < 8; ++tile) c.set(tile, rows[tile], 64);
  return c;
}

struct Product {
  const uint16_t* x;
  int64_t x_stride;
  const uint16_t* packed;
  const uint16_t* bias;
  uint16_t* out;
  int64_t rows, outputs, channels;
};

// sums[rows][16] plus the bias, rounded to bfloat16, into columns [first, first + 16) of out, as far as they exist.
void store(const Product& p, const float* sums, int64_t row, int rows, int64_t first) {
  if (first >= p.outputs) return;
  const int64_t n = p.outputs - first < 16 ? p.outputs - first : 16;
  const __mmask16 columns = __mmask16((1u << n) - 1);
  __m512 bias = _mm512_setzero_ps();
  if (p.bias)
    bias = _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(columns, p.bias + first)), 16));
  for (int r = 0; r < rows; ++r) {
    const __m512 sum = _mm512_load_ps(sums + r * 16);
    const __m256bh rounded = _mm512_cvtneps_pbh(p.bias ? _mm512_add_ps(sum, bias) : sum);
    __m256i bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    _mm256_mask_storeu_epi16(p.out + (row + r) * p.outputs + first, columns, bits);
  }
}

// Rows [row0, row1) times one panel: the panel comes from memory once and stays in the cache.
void panel_product(const Product& p, int64_t panel, int64_t row0, int64_t row1) {
  const int64_t steps = p.channels / kTileChannels;
  const uint16_t* left = p.packed + panel * kPanelOutputs * p.channels;
  const uint16_t* right = left + 16 * p.channels;
  const size_t stride = size_t(p.x_stride) * sizeof(uint16_t);
  const TileConfiguration full = configuration(16, 16);
  alignas(64) float sums[4][256];
  int loaded = -1;  // rows the tiles are configured for
  for (int64_t row = row0; row < row1; row += 2 * kTileRows) {
    const int rows = int(row1 - row < 2 * kTileRows ? row1 - row : 2 * kTileRows);
    const int rows_a = rows < kTileRows ? rows : kTileRows, rows_b = rows - rows_a;
    if (loaded != rows) {
      if (rows == 2 * kTileRows) {
        _tile_loadconfig(&full);
      } else {
        const TileConfiguration last = configuration(rows_a, rows_b ? rows_b : 16);
        _tile_loadconfig(&last);
      }
      loaded = rows;
    }
    const uint16_t* a = p.x + row * p.x_stride;
    const uint16_t* b = a + kTileRows * p.x_stride;
    _tile_zero(0);
    _tile_zero(1);
    if (rows_b) {
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t step = 0; step < steps; ++step) {
        _tile_loadd(6, left + step * 512, 64);
        _tile_loadd(7, right + step * 512, 64);
        _tile_loadd(4, a + step * kTileChannels, stride);
        _tile_loadd(5, b + step * kTileChannels, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(2, sums[2], 64);
      _tile_stored(3, sums[3], 64);
    } else {
      for (int64_t step = 0; step < steps; ++step) {
        _tile_loadd(6, left + step * 512, 64);
        _tile_loadd(7, right + step * 512, 64);
        _tile_loadd(4, a + step * kTileChannels, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
      }
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    const int64_t first = panel * kPanelOutputs;
    store(p, sums[0], row, rows_a, first);
    store(p, sums[1], row, rows_a, first + 16);
    store(p, sums[2], row + kTileRows, rows_b, first);
    store(p, sums[3], row + kTileRows, rows_b, first + 16);
  }
  _tile_release();
}

}  // namespace

void tile_linear(const uint16_t* x, int64_t x_stride, const uint16_t* packed, const uint16_t* bias, uint16_t* out,
                 int64_t rows, int64_t outputs, int64_t channels) {
  const Product product{x, x_stride, packed, bias, out, rows, outputs, channels};
  if (rows == 0) return;
  const int64_t panels = (outputs + kPanelOutputs - 1) / kPanelOutputs;
  // Where there are few panels for many threads, the rows are shared out, too.
  constexpr int64_t kBlock = 2 * kTileRows;
  const int64_t blocks = (rows + kBlock - 1) / kBlock, wanted = (2 * threads() + panels - 1) / panels;
  const int64_t parts = threads() == 1 ? 1 : std::min(wanted, blocks);
  const int64_t each = (blocks + parts - 1) / parts * kBlock;  // rows of a part
  parallel_for(panels * parts, [&](int64_t item) {
    const int64_t first = item % parts * each, last = first + each < rows ? first + each : rows;
    if (first < last) panel_product(product, item / parts, first, last);
  });
}

#else

void tile_linear(const uint16_t*, int64_t, const uint16_t*, const uint16_t*, uint16_t*, int64_t, int64_t, int64_t) {}

#endif

}  // namespace rft
