// How many rows and bytes each tile of the processor (Intel AMX) holds.
#pragma once
#include <cstdint>

namespace rft {

struct alignas(64) TileConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};  // of a row, 64 at most
  uint8_t rows[16] = {};    // 16 at most

  void set(int tile, int n_rows, int row_bytes) {
    rows[tile] = uint8_t(n_rows);
    bytes[tile] = uint16_t(row_bytes);
  }
};

}  // namespace rft
