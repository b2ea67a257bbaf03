// What a drawn token means for its path, as far as a token's id tells: one thread a path.
#include "kernels.h"
#include "device.h"

namespace rft {
namespace cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) stops_kernel(CheckStopsArgs a) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.n) return;
  const int64_t token = a.token[i];
  if (token < 0) {
    a.flags[i] = kNoToken;
    return;
  }
  const int32_t drawn = a.drawn[i] + 1;
  a.drawn[i] = drawn;
  a.flags[i] = uint8_t(a.tables[int64_t(a.table[i]) * a.vocab + token] | (drawn >= a.limit[i] ? kLength : 0));
}

}  // namespace

cudaError_t check_stops(const CheckStopsArgs& a, cudaStream_t stream) {
  if (a.n == 0) return cudaSuccess;
  return launch(&stops_kernel, dim3(unsigned((a.n + kThreads - 1) / kThreads)), kThreads, stream, a);
}

}  // namespace cuda
}  // namespace rft
