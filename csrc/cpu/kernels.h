// The table of CPU kernels. One instance per instruction set, filled in by kernels_isa.cpp.
// Pointers are to contiguous row-major arrays unless a stride is given; strides are in elements.
// Shape letters: R rows (tokens of a step), C channels, H query heads, K key/value heads, D head dimension,
// P pages, V vocabulary.
#pragma once
#include <cstdint>

namespace rft {

enum class DType : int { f32 = 0, bf16 = 1 };
constexpr int kPage = 16;  // tokens a page

// x[R,C] (float, residual stream) += delta[R,C] if given; out[R,C] = x * rsqrt(mean(x^2) + eps) * weight.
struct RmsNormArgs {
  float* x;
  const void* delta;   // dtype, or null
  const void* weight;  // dtype [C]
  void* out;           // dtype [R,C]
  int64_t rows, channels;
  float eps;
  DType dtype;
};

// out[R,C] = silu(gate) * up with gate_up[R,2C] = [gate | up].
struct SwigluArgs {
  const void* gate_up;
  void* out;
  int64_t rows, channels;
  DType dtype;
};

// qkv[R,(H+2K)*D]: normalises (if q_norm is given) and rotates q in place; normalises and rotates k and writes it and v
// to their places in the pool. Pool of one layer: [P][K][2][16*D], keys [D/w][16][w], values [16/w][D][w],
// w = 2 for bf16 (the operand order of the bf16 dot-product instruction), 1 for float.
struct RopeWriteArgs {
  void* qkv;
  int64_t qkv_stride;
  const float* cos;          // [positions, D/2]
  const float* sin;          // [positions, D/2]
  const int32_t* positions;  // [R]
  const int64_t* slots;      // [R] page * 16 + place in page
  void* pool;
  const void* q_norm;  // dtype [D] or null
  const void* k_norm;
  int64_t rows, heads, kv_heads, head_dim;
  float eps;
  DType dtype;
};

// Copies the first c[2] places of page c[0] of one layer to page c[1], for n triples c in order; c[0] < 0 ends the list.
struct CopyPagesArgs {
  void* pool;
  const int32_t* copies;  // [n, 3]
  int64_t n, kv_heads, head_dim;
  DType dtype;
};

// Attention of R query rows over paged keys. The work is a list of tiles (runs of up to 32 rows) and of segments
// (rows [row0,row1) of a tile x pages [page0,page1) that all of them share); a tile's segments come in ascending page
// order for every row. A row sees keys [0, lens[row]).
struct AttentionArgs {
  const void* q;  // [R, H, D], row stride q_stride
  int64_t q_stride;
  void* out;  // [R, H*D]
  const void* pool;
  const int32_t* tables;    // [T, table_stride] page ids
  const int32_t* row_table; // [R] row of `tables`
  const int32_t* lens;      // [R]
  const int32_t* tiles;     // [n_tiles, 4]: row0, row1, segment0, segment1
  const int32_t* segments;  // [n_segments, 4]: row0, row1, page0, page1 (page1 < 0: to the end)
  int64_t table_stride, n_tiles, heads, kv_heads, head_dim;
  float scale;
  DType dtype;
};

// Draws one token for each of n requests; see sampler.h for the definition.
struct SampleArgs {
  const void* logits;  // [*, V], dtype, row stride logits_stride
  int64_t logits_stride, vocab;
  DType dtype;
  int64_t n;
  const int64_t* row;           // [n] which row of logits
  const uint64_t* key;          // [n] Philox key
  const uint32_t* step;         // [n] t
  const uint32_t* sample;       // [n] sample index
  uint32_t stream;
  const float* temperature;     // [n], 0 = greedy
  const int32_t* top_k;         // [n], 0 = off
  const float* top_p;           // [n], 1 = off
  const float* min_p;           // [n], 0 = off
  int64_t* token;               // out [n]
  float* logprob;               // out [n]
};

struct KernelTable {
  const char* name;
  void (*rms_norm)(const RmsNormArgs&);
  void (*swiglu)(const SwigluArgs&);
  void (*rope_write_kv)(const RopeWriteArgs&);
  void (*copy_pages)(const CopyPagesArgs&);
  void (*attention)(const AttentionArgs&);
  void (*sample)(const SampleArgs&);
  // out[n] = Gumbel noise of the vocabulary entries [0, n) for (key, step, sample, stream).
  void (*gumbel)(uint64_t key, uint32_t step, uint32_t sample, uint32_t stream, int64_t n, float* out);
  // out[n] = the weights, in whole units, that top-p gives to scaled logits at distances d[n] <= 0 from the top.
  void (*weights)(const float* d, int64_t n, double* out);
};

// The best table this machine runs, or the one named; null if it is unknown or cannot run here.
const KernelTable* kernels(const char* name);

}  // namespace rft
