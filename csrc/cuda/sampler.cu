// The fused sampler on the GPU. The definition is that of ../cpu/sampler.h, and the token has the same bits; the
// log-probability differs in the last ones (another exp, another order of additions).
//
// Work. A row is cut into slices of 8,192 tokens whatever the batch is, one block each; so a result does not depend on
// what else is in the batch, and few rows still fill the chip. A block reads its slice once and from it
//   - the maximum, then the sum of exp(x - maximum), both from registers;
//   - without filters, the draw: only tokens that could still win get noise (row.h). Blocks of one row run in order of
//     their slices where there are many rows, and each tells the next how high the best score is so far;
//   - with filters, the maximum of each group of 64 tokens.
// The block that ends last for its row puts the parts together in the order of the slices. With filters it also finds
// the threshold (threshold.h) and draws, going again, in L2, only to groups whose maximum says that they matter.
//
// Memory: 2 or 4 bytes a token read once, 16 bytes a slice and, with filters, 4 bytes a group written.
#include "kernels.h"
#include "threshold.h"

namespace rft {
namespace cuda {
namespace {

constexpr int kOctets = 4;  // a thread's in a slice
constexpr int kSliceOctets = kThreads * kOctets;
constexpr int kSlice = kSliceOctets * kOctet;

// What a slice says of itself.
struct Part {
  float max;  // at least kLowest
  float sum;  // of exp(x - max); NaN if the slice holds NaN or +infinity
  uint64_t best;  // candidate: of the draw; in a greedy slice, of the maximum
};

struct Workspace {
  uint32_t* ended;     // [N] slices done; zero at the start
  uint32_t* bound;     // [N] ordered score that the winner is known to reach; zero at the start
  Part* parts;         // [N, slices]
  float* group_maxima; // [N, groups]
  int32_t slices, groups;
  size_t bytes;

  __host__ __device__ Workspace(void* base, int64_t n, int32_t vocab) {
    slices = (vocab + kSlice - 1) / kSlice;
    groups = (vocab + kGroup - 1) / kGroup;
    const size_t counters = (2 * sizeof(uint32_t) * size_t(n) + 15) / 16 * 16;
    char* p = static_cast<char*>(base);
    ended = reinterpret_cast<uint32_t*>(p);
    bound = ended + n;
    parts = reinterpret_cast<Part*>(p + counters);
    group_maxima = reinterpret_cast<float*>(parts + n * slices);
    bytes = counters + size_t(n) * (sizeof(Part) * size_t(slices) + sizeof(float) * size_t(groups));
  }
};

struct Shared {
  Request request;
  Search search;
  float maxima[kWarps];
  float sums[kWarps];
  uint64_t bests[kWarps];
  uint32_t bound;
  bool last;
  // Of the whole row:
  float row_max;
  double log_sum;  // of exp(x - row_max)
  uint64_t best;
};

// The best candidate of the block's threads; every thread gets it.
__device__ uint64_t block_best(Shared& shared, uint64_t best) {
  best = warp_max(best);
  if (threadIdx.x % kWarp == 0) shared.bests[threadIdx.x / kWarp] = best;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) best = shared.bests[w] > best ? shared.bests[w] : best;
  return best;
}

__device__ Request request_of(const SampleArgs& a, int64_t i) {
  const float temperature = a.temperature[i];
  const float inv_t = temperature > 0 ? 1.0f / temperature : kInf;
  return {a.key[i], a.step[i], a.sample[i], a.stream, inv_t, a.top_k[i], a.top_p[i], a.min_p[i]};
}

// Reads a slice once; leaves the request in `shared` and, with filters, the maxima of the slice's groups.
template <class T>
__device__ Part read_slice(Shared& shared, const SampleArgs& a, int64_t i, const Row<T>& row, int32_t slice,
                           float* group_maxima, uint32_t* row_bound) {
  const int thread = int(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int32_t first = slice * kSliceOctets + thread;
  float x[kOctets][kOctet];
  if (row.aligned && (slice + 1) * kSlice <= row.vocab) {
#pragma unroll
    for (int q = 0; q < kOctets; ++q) load8(row.x + int64_t(first + q * kThreads) * kOctet, x[q]);
  } else {
#pragma unroll
    for (int q = 0; q < kOctets; ++q) load_octet(row, first + q * kThreads, x[q]);
  }
  uint32_t known = 0;
  if (thread == 0) {
    shared.request = request_of(a, i);
    known = *static_cast<volatile uint32_t*>(row_bound);
  }
  float max = kLowest;
#pragma unroll
  for (int q = 0; q < kOctets; ++q) max = fmaxf(max, max8(x[q]));
  max = warp_max(max);
  if (lane == 0) shared.maxima[warp] = max;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) max = fmaxf(max, shared.maxima[w]);

  float sum = 0;
#pragma unroll
  for (int q = 0; q < kOctets; ++q) {
    float part = 0;
#pragma unroll
    for (int j = 0; j < kOctet; ++j) part += fast_exp2((x[q][j] - max) * kLog2e);
    sum += part;
  }
  sum = warp_sum(sum);
  if (lane == 0) shared.sums[warp] = sum;

  const Request& request = shared.request;
  uint64_t best = 0;
  if (request.filtered(row.vocab)) {
#pragma unroll
    for (int q = 0; q < kOctets; ++q) {
      float top = max8(x[q]);
#pragma unroll
      for (int d = kGroupOctets / 2; d; d /= 2) top = fmaxf(top, __shfl_xor_sync(kAll, top, d));
      const int32_t octet = first + q * kThreads;
      if (lane % kGroupOctets == 0 && octet * kOctet < row.vocab) group_maxima[octet / kGroupOctets] = top;
    }
  }
  if (request.greedy(max)) {
#pragma unroll
    for (int q = kOctets - 1; q >= 0; --q)
#pragma unroll
      for (int j = kOctet - 1; j >= 0; --j)
        if (x[q][j] == max) best = candidate(-kInf, (first + q * kThreads) * kOctet + j);  // the lowest last
  } else if (!request.filtered(row.vocab)) {
    if (thread == 0) {
      const uint32_t sure = sure_bound(mul_rn(max, request.inv_t));
      shared.bound = known > sure ? known : sure;
    }
    __syncthreads();
#pragma unroll 1
    for (int q = 0; q < kOctets; ++q) {
      float again[kOctet];  // from L1: what follows is too long to be unrolled, and registers cannot be indexed
      load_octet(row, first + q * kThreads, again);
      draw_octet(again, first + q * kThreads, request, kLowest, &shared.bound, best);
    }
  }
  best = block_best(shared, best);
  sum = shared.sums[0];
  for (int w = 1; w < kWarps; ++w) sum += shared.sums[w];
  return {max, sum, best};
}

// Puts the slices' parts together: row_max, log_sum and best in `shared`. False if the row is no distribution.
__device__ bool join(Shared& shared, const Part* parts, int32_t slices, const Request& request) {
  if (threadIdx.x < kWarp) {
    const int lane = int(threadIdx.x);
    float max = kLowest;
    for (int32_t j = lane; j < slices; j += kWarp) max = fmaxf(max, __ldcg(&parts[j].max));
    max = warp_max(max);
    const bool greedy = request.greedy(max);
    double sum = 0;
    uint64_t best = 0;
    for (int32_t j = lane; j < slices; j += kWarp) {
      const float part_max = __ldcg(&parts[j].max);
      sum += double(__ldcg(&parts[j].sum)) * exp(double(part_max) - double(max));
      const uint64_t c = __ldcg(reinterpret_cast<const unsigned long long*>(&parts[j].best));
      // A greedy row's token is a slice's maximum; a slice that is greedy in a row that is not has nothing to draw.
      if ((!greedy || part_max == max) && c > best) best = c;
    }
    sum = warp_sum(sum);
    best = warp_max(best);
    if (lane == 0) {
      shared.row_max = max;
      shared.log_sum = log(sum);  // NaN or -infinity if the row is no distribution
      shared.best = best;
    }
  }
  __syncthreads();
  return fabs(shared.log_sum) < double(kInf);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4) sample_kernel(SampleArgs a) {
  __shared__ Shared shared;
  const int64_t i = blockIdx.x, r = a.row[i];
  const int32_t slice = int32_t(blockIdx.y);
  if (r < 0 || r >= a.rows) {
    if (slice == 0 && threadIdx.x == 0) {
      a.token[i] = -1;
      a.logprob[i] = float_of(0x7fc00000u);
    }
    return;
  }
  const Workspace workspace(a.workspace, a.n, a.vocab);
  const auto row = Row<T>::at(a.logits, r * a.logits_stride, a.vocab);
  Part* parts = workspace.parts + i * workspace.slices;
  float* group_maxima = workspace.group_maxima + i * workspace.groups;

  const Part part = read_slice(shared, a, i, row, slice, group_maxima, workspace.bound + i);
  const Request& request = shared.request;
  if (threadIdx.x == 0) {
    parts[slice] = part;
    if (!request.greedy(part.max) && part.best) atomicMax(workspace.bound + i, uint32_t(part.best >> 32));
    __threadfence();  // what the block wrote comes before its mark
    shared.last = atomicAdd(workspace.ended + i, 1u) == uint32_t(workspace.slices - 1);
    __threadfence();  // and what the others wrote before theirs, before what is read from here on
  }
  __syncthreads();
  if (!shared.last) return;

  uint64_t best = 0;
  if (join(shared, parts, workspace.slices, request)) {
    best = shared.best;
    if (request.filtered(a.vocab) && !request.greedy(shared.row_max)) {
      const Groups groups = {group_maxima, workspace.groups};
      const float threshold = find_threshold(shared.search, row, groups, request, shared.row_max);
      __syncthreads();
      if (threadIdx.x == 0) shared.bound = sure_bound(mul_rn(shared.row_max, request.inv_t));
      __syncthreads();
      best = 0;
      visit<1>(row, groups, request.inv_t, threshold, [&](const float x[kOctet], int32_t octet) {
        draw_octet(x, octet, request, threshold, &shared.bound, best);
      });
      best = block_best(shared, best);
    }
  }
  if (threadIdx.x == 0) {
    const int32_t token = best ? token_of(best) : -1;
    a.token[i] = token;
    a.logprob[i] = token < 0 ? float_of(0x7fc00000u)
                             : float(double(to_float(row.x[token])) - double(shared.row_max) - shared.log_sum);
  }
}

__global__ void gumbel_kernel(GumbelArgs a) {
  const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * 4;
  const uint32_t counter[4] = {uint32_t(first / 4), a.step, a.sample, a.stream};
  uint32_t words[4];
  philox4x32(counter, a.key, words);
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if (first + j < a.n) a.out[first + j] = gumbel(words[j]);
}

}  // namespace

size_t sample_workspace(int64_t n, int32_t vocab) { return Workspace(nullptr, n, vocab).bytes; }

cudaError_t sample(const SampleArgs& a, cudaStream_t stream) {
  if (a.n == 0) return cudaSuccess;
  const Workspace workspace(a.workspace, a.n, a.vocab);
  const cudaError_t error = cudaMemsetAsync(a.workspace, 0, 2 * sizeof(uint32_t) * size_t(a.n), stream);
  if (error != cudaSuccess) return error;
  // Requests vary fastest: where there are many, the first slices of all rows come first (see the top).
  const dim3 grid(unsigned(a.n), unsigned(workspace.slices));
  return launch(a.dtype == DType::bf16 ? &sample_kernel<bf16> : &sample_kernel<float>, grid, kThreads, stream, a);
}

cudaError_t gumbel_row(const GumbelArgs& a, cudaStream_t stream) {
  if (a.n == 0) return cudaSuccess;
  return launch(&gumbel_kernel, dim3(unsigned((a.n + 4 * kThreads - 1) / (4 * kThreads))), kThreads, stream, a);
}

}  // namespace cuda
}  // namespace rft
