// Copy-on-write of key/value pages. The list is worked through in its order (one copy's target may be the next one's
// source), yet without waiting for anyone: a word has the same place in every page, so the thread that owns this place
// does all the copies of it, and order within a thread is free.
#include "kernels.h"
#include "device.h"

namespace rft {
namespace cuda {
namespace {

constexpr int kPage = 16;     // tokens
constexpr int kThreads = 128;
constexpr int kAhead = 8;     // copies whose loads are under way at once
using Word = uint4;           // lies within one token's channels: head_dim is a multiple of what it holds

__global__ void __launch_bounds__(kThreads) copy_kernel(CopyPagesArgs a) {
  const int64_t token_words = a.head_dim * a.element_bytes / int64_t(sizeof(Word));
  const int64_t page_words = a.kv_heads * 2 * kPage * token_words;
  const int64_t word = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (word >= page_words) return;
  const int place = int(word / token_words % kPage);
  Word* const pool = static_cast<Word*>(a.pool) + word;
  for (int64_t first = 0; first < a.n; first += kAhead) {
    const int32_t* copies = a.copies + first * 3;
    int32_t source[kAhead];
    int count = 0;  // of copies here, before the list ends
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      source[i] = first + i < a.n ? copies[i * 3] : -1;
      if (count == i && source[i] >= 0) ++count;
    }
    bool chained = false;  // one reads what another one here writes
#pragma unroll
    for (int i = 1; i < kAhead; ++i)
#pragma unroll
      for (int j = 0; j < i; ++j) chained = chained || (i < count && source[i] == copies[j * 3 + 1]);
    if (chained) {
#pragma unroll 1
      for (int i = 0; i < count; ++i)
        if (place < copies[i * 3 + 2]) pool[copies[i * 3 + 1] * page_words] = pool[copies[i * 3] * page_words];
    } else {
      Word words[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        if (i < count && place < copies[i * 3 + 2]) words[i] = pool[source[i] * page_words];
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        if (i < count && place < copies[i * 3 + 2]) pool[copies[i * 3 + 1] * page_words] = words[i];
    }
    if (count < kAhead) return;
  }
}

}  // namespace

cudaError_t copy_pages(const CopyPagesArgs& a, cudaStream_t stream) {
  if (a.n == 0) return cudaSuccess;
  const int64_t words = a.kv_heads * 2 * kPage * a.head_dim * a.element_bytes / int64_t(sizeof(Word));
  return launch(&copy_kernel, dim3(unsigned((words + kThreads - 1) / kThreads)), kThreads, stream, a);
}

}  // namespace cuda
}  // namespace rft
