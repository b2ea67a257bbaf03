// The CUDA operations, as cpu/kernels.h lists those of the CPU. Every pointer is to device memory; each call only puts
// work on `stream`, allocates nothing and waits for nothing, so all of them can stand inside a CUDA graph. What differs
// from step to step (parameters, counters, lists) is read from device memory when the kernel runs.
// Shape letters: N requests, V vocabulary, P pages, K key/value heads, D head dimension.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace rft {
namespace cuda {

enum class DType : int { f32 = 0, bf16 = 1 };

// Draws one token for each of n requests: the definition is in ../cpu/sampler.h, the work in sampler.cu.
struct SampleArgs {
  const void* logits;  // [rows, V], dtype, row stride logits_stride (elements)
  int64_t logits_stride, rows;
  int32_t vocab;
  DType dtype;
  int64_t n;
  const int64_t* row;        // [n] which row of logits; outside [0, rows): no request, token -1
  const uint64_t* key;       // [n] Philox key
  const uint32_t* step;      // [n] t
  const uint32_t* sample;    // [n] sample index
  uint32_t stream;           // of the noise
  const float* temperature;  // [n], 0 = greedy
  const int32_t* top_k;      // [n], 0 = off
  const float* top_p;        // [n], 1 = off
  const float* min_p;        // [n], 0 = off
  int64_t* token;            // out [n]
  float* logprob;            // out [n]
  void* workspace;           // sample_workspace(n, vocab) bytes, 16-byte aligned; holds nothing between calls
};
size_t sample_workspace(int64_t n, int32_t vocab);
cudaError_t sample(const SampleArgs& args, cudaStream_t stream);

// out[n] = Gumbel noise of the vocabulary entries [0, n), for tests.
struct GumbelArgs {
  uint64_t key;
  uint32_t step, sample, stream;
  int64_t n;
  float* out;
};
cudaError_t gumbel_row(const GumbelArgs& args, cudaStream_t stream);

// Copies the first c[2] places of page c[0] to page c[1], for n triples c in order; c[0] < 0 ends the list before. Pages
// of a layer: [P][K][2][16][D] (layout "rows"), D * element_bytes a multiple of 16.
struct CopyPagesArgs {
  void* pool;             // 16-byte aligned
  const int32_t* copies;  // [n, 3]
  int64_t n, kv_heads, head_dim, element_bytes;
};
cudaError_t copy_pages(const CopyPagesArgs& args, cudaStream_t stream);

// Counts each path's newly drawn token and says what its id means. flags[i] = tables[table[i], token[i]] (kEos and
// kText as the tables have them), with kLength once drawn[i], counted up here, has come to limit[i]; kNoToken alone, and
// nothing counted, where token[i] < 0.
constexpr uint8_t kEos = 1, kText = 2, kLength = 4, kNoToken = 8;
struct CheckStopsArgs {
  const int64_t* token;   // [n]
  int32_t* drawn;         // [n] tokens drawn before this one; the sampler's t
  const int32_t* limit;   // [n]
  const uint8_t* tables;  // [*, V]
  const int32_t* table;   // [n]
  uint8_t* flags;         // out [n]
  int64_t n, vocab;
};
cudaError_t check_stops(const CheckStopsArgs& args, cudaStream_t stream);

}  // namespace cuda
}  // namespace rft
