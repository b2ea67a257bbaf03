// Matrix products on tiles (Intel AMX), bfloat16 in, float32 sums, bfloat16 out.
#pragma once
#include <cstdint>

namespace rft {

constexpr int kTileRows = 16;       // rows of a tile
constexpr int kTileChannels = 32;   // channels of a tile: 64 bytes
constexpr int kPanelOutputs = 32;   // outputs of a panel: two tiles

// Whether the processor has tiles for bfloat16 and the system grants this process their use, which is asked for here.
bool tiles_available();

// weight[O,C] -> packed: panels of 32 outputs (the last filled up with zeros), of each the tiles of its two halves, of
// each half C / 32 tiles of 16 pairs of channels x 16 outputs. packed holds ceil(O / 32) * 32 * C values. C % 32 == 0.
void pack_tiles(const uint16_t* weight, uint16_t* packed, int64_t outputs, int64_t channels);

// out[R,O] = x[R,C] times weight[O,C] transposed, plus bias[O] if it is not null. x has rows of `x_stride` values.
// Every value is the sum of its own products in one order, so it does not depend on R, nor on the other rows.
void tile_linear(const uint16_t* x, int64_t x_stride, const uint16_t* packed, const uint16_t* bias, uint16_t* out,
                 int64_t rows, int64_t outputs, int64_t channels);

}  // namespace rft
