// Softmax of attention, page by page: what the kernels on lanes and on tiles have in common.
#pragma once
#include "kernels.h"
#include "vec.h"

namespace rft {
namespace RFT_ISA {

constexpr float kSlack = 8.0f;            // in powers of two
constexpr float kMasked = -2.0e30f;       // score of a key beyond the row's end
constexpr float kNoReference = -1.0e30f;  // before the first page; below any real score, above kMasked

// Running state of the row-heads of an item: reference, lane sums, unnormalised output.
struct AttentionState {
  float* reference;  // [n]
  float* sum;        // [n,16]
  float* output;     // [n,D]
};

RFT_INLINE void scale_by(float* x, int64_t n, f32x16 factor) {
  for (int64_t v = 0; v < n; v += kLanes) store(x + v, load(x + v) * factor);
}

// The probabilities of one row-head for G neighbouring pages, `p_stride` apart in p, from their scores s[G]. With `ragged`
// keys beyond the first `seen` count for nothing. Moves its reference and its lane sums on. Bit g of the result is set if
// page g moved the reference: then outputs so far are to be multiplied by factors[g].
template <class T, int G>
RFT_INLINE unsigned weigh(const f32x16* s, int64_t seen, float scale, bool ragged, float* reference, float* sum, T* p,
                          int64_t p_stride, f32x16* factors) {
  static const float kLaneIndex[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const f32x16 scales = splat(scale);
  unsigned moved = 0;
  float top = *reference;
  f32x16 total = load(sum);
  for (int g = 0; g < G; ++g) {
    const f32x16 end = splat(float(seen - g * kPage));  // keys of the page that the row may see, if positive
    const auto masked = [&](f32x16 x) { return ragged ? load(kLaneIndex) < end ? x : splat(kMasked) : x; };
    f32x16 above = masked(fma(s[g], scales, splat(-top)));  // the score above the reference
    if (__builtin_expect(any_greater(above, splat(kSlack)), 0)) {
      const float higher = reduce_max(masked(s[g] * scales));
      factors[g] = exp2(splat(top - higher));
      top = higher;
      total *= factors[g];
      moved |= 1u << g;
      above = masked(fma(s[g], scales, splat(-top)));
    }
    const f32x16 e = exp2(above);
    total += e;
    store(p + g * p_stride, e);
  }
  *reference = top;
  store(sum, total);
  return moved;
}

}  // namespace RFT_ISA
}  // namespace rft
