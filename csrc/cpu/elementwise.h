// RMSNorm with residual, SwiGLU, rope with the write into the KV pool. Rows are independent, each summed in one fixed
// order: a row's result does not depend on the batch.
#pragma once
#include "kernels.h"
#include "parallel.h"
#include "vec.h"

namespace rft {
namespace RFT_ISA {

constexpr int64_t kRowsPerItem = 8;  // rows a thread takes at a time

template <class T>
RFT_INLINE void rms_norm_row(float* x, const T* delta, const T* weight, T* out, int64_t n, float eps) {
  f32x16 sum{};
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    f32x16 v = load(x + c);
    if (delta) {
      v += load(delta + c);
      store(x + c, v);
    }
    sum = fma(v, v, sum);
  }
  float rest = 0.0f;
  for (; c < n; ++c) {
    if (delta) x[c] += to_float(delta[c]);
    rest += x[c] * x[c];
  }
  const float scale = 1.0f / std::sqrt((reduce_add(sum) + rest) / float(n) + eps);
  for (c = 0; c + kLanes <= n; c += kLanes) store(out + c, load(x + c) * scale * load(weight + c));
  for (; c < n; ++c) from_float(x[c] * scale * to_float(weight[c]), out[c]);
}

template <class T>
void rms_norm_t(const RmsNormArgs& a) {
  const int64_t n = a.channels;
  parallel_for((a.rows + kRowsPerItem - 1) / kRowsPerItem, [&](int64_t item) {
    const int64_t end = (item + 1) * kRowsPerItem < a.rows ? (item + 1) * kRowsPerItem : a.rows;
    for (int64_t r = item * kRowsPerItem; r < end; ++r)
      rms_norm_row<T>(a.x + r * n, a.delta ? static_cast<const T*>(a.delta) + r * n : nullptr,
                      static_cast<const T*>(a.weight), static_cast<T*>(a.out) + r * n, n, a.eps);
  });
}

inline void rms_norm(const RmsNormArgs& a) { a.dtype == DType::bf16 ? rms_norm_t<bf16>(a) : rms_norm_t<float>(a); }

template <class T>
void swiglu_t(const SwigluArgs& a) {
  const int64_t n = a.channels;
  const float log2e = 1.44269504f;
  parallel_for((a.rows + kRowsPerItem - 1) / kRowsPerItem, [&](int64_t item) {
    const int64_t end = (item + 1) * kRowsPerItem < a.rows ? (item + 1) * kRowsPerItem : a.rows;
    for (int64_t r = item * kRowsPerItem; r < end; ++r) {
      const T* gate = static_cast<const T*>(a.gate_up) + r * 2 * n;
      const T* up = gate + n;
      T* out = static_cast<T*>(a.out) + r * n;
      int64_t c = 0;
      for (; c + kLanes <= n; c += kLanes) {
        f32x16 g = load(gate + c);
        store(out + c, g / (exp2(g * -log2e) + 1.0f) * load(up + c));
      }
      for (; c < n; ++c) {
        float g = to_float(gate[c]);
        from_float(g / (std::exp2(g * -log2e) + 1.0f) * to_float(up[c]), out[c]);
      }
    }
  });
}

inline void swiglu(const SwigluArgs& a) { a.dtype == DType::bf16 ? swiglu_t<bf16>(a) : swiglu_t<float>(a); }

// Normalises (if asked) and rotates one head. Rotation pairs (d, d + D/2), as Hugging Face stores it. out may be x.
template <class T>
RFT_INLINE void norm_rope_head(const T* x, const T* norm, const float* cos, const float* sin, int64_t d, float eps,
                               T* out) {
  const int64_t half = d / 2;
  float scale = 1.0f;
  if (norm) {
    float sum = 0.0f;
    for (int64_t i = 0; i < d; ++i) sum += to_float(x[i]) * to_float(x[i]);
    scale = 1.0f / std::sqrt(sum / float(d) + eps);
  }
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    f32x16 lo = load(x + i), hi = load(x + i + half);
    if (norm) {
      lo = lo * scale * load(norm + i);
      hi = hi * scale * load(norm + i + half);
    }
    const f32x16 c = load(cos + i), s = load(sin + i);
    store(out + i, lo * c - hi * s);
    store(out + i + half, hi * c + lo * s);
  }
  for (; i < half; ++i) {
    float lo = to_float(x[i]), hi = to_float(x[i + half]);
    if (norm) {
      lo = lo * scale * to_float(norm[i]);
      hi = hi * scale * to_float(norm[i + half]);
    }
    from_float(lo * cos[i] - hi * sin[i], out[i]);
    from_float(hi * cos[i] + lo * sin[i], out[i + half]);
  }
}

// Where a key [D] goes in its page [D/w][16][w], and a value [D] in its page [16/w][D][w].
RFT_INLINE void write_key(const float* k, float* page, int64_t place, int64_t d) {
  for (int64_t i = 0; i < d; ++i) page[i * kPage + place] = k[i];
}
RFT_INLINE void write_key(const bf16* k, bf16* page, int64_t place, int64_t d) {
  for (int64_t i = 0; i < d / 2; ++i) std::memcpy(page + (i * kPage + place) * 2, k + i * 2, 4);
}
RFT_INLINE void write_value(const float* v, float* page, int64_t place, int64_t d) {
  std::memcpy(page + place * d, v, d * sizeof(float));
}
// Two neighbouring tokens share each word, and another thread may be writing the other one: only own halves are touched.
RFT_INLINE void write_value(const bf16* v, bf16* page, int64_t place, int64_t d) {
  bf16* to = page + place / 2 * d * 2;
  int64_t i = 0;
#if defined(__AVX512BW__)
  const __mmask32 own = place % 2 ? 0xaaaaaaaau : 0x55555555u;
  for (; i + kLanes <= d; i += kLanes) {
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(v + i)));
    _mm512_mask_storeu_epi16(to + i * 2, own, place % 2 ? _mm512_slli_epi32(words, 16) : words);
  }
#endif
  for (; i < d; ++i) to[i * 2 + place % 2] = v[i];
}

constexpr int64_t kMaxHeadDim = 512;

template <class T>
void rope_write_kv_t(const RopeWriteArgs& a) {
  const int64_t d = a.head_dim, head_elems = 2 * kPage * d;
  parallel_for((a.rows + kRowsPerItem - 1) / kRowsPerItem, [&](int64_t item) {
    const int64_t end = (item + 1) * kRowsPerItem < a.rows ? (item + 1) * kRowsPerItem : a.rows;
    T scratch[kMaxHeadDim];
    for (int64_t r = item * kRowsPerItem; r < end; ++r) {
      T* row = static_cast<T*>(a.qkv) + r * a.qkv_stride;
      const float* cos = a.cos + int64_t(a.positions[r]) * (d / 2);
      const float* sin = a.sin + int64_t(a.positions[r]) * (d / 2);
      for (int64_t h = 0; h < a.heads; ++h)
        norm_rope_head<T>(row + h * d, static_cast<const T*>(a.q_norm), cos, sin, d, a.eps, row + h * d);
      const int64_t page = a.slots[r] / kPage, place = a.slots[r] % kPage;
      for (int64_t h = 0; h < a.kv_heads; ++h) {
        T* keys = static_cast<T*>(a.pool) + (page * a.kv_heads + h) * head_elems;
        norm_rope_head<T>(row + (a.heads + h) * d, static_cast<const T*>(a.k_norm), cos, sin, d, a.eps, scratch);
        write_key(scratch, keys, place, d);
        write_value(row + (a.heads + a.kv_heads + h) * d, keys + kPage * d, place, d);
      }
    }
  });
}

inline void rope_write_kv(const RopeWriteArgs& a) {
  a.dtype == DType::bf16 ? rope_write_kv_t<bf16>(a) : rope_write_kv_t<float>(a);
}

// Copies in the order given (one's target may be the next one's source), heads in parallel.
template <class T>
void copy_pages_t(const CopyPagesArgs& a) {
  constexpr int64_t w = sizeof(T) == 2 ? 2 : 1;
  const int64_t d = a.head_dim, head_elems = 2 * kPage * d;
  parallel_for(a.kv_heads, [&](int64_t h) {
    for (int64_t i = 0; i < a.n; ++i) {
      const int32_t* c = a.copies + i * 3;
      if (c[0] < 0) break;
      const T* from = static_cast<const T*>(a.pool) + (c[0] * a.kv_heads + h) * head_elems;
      T* to = static_cast<T*>(a.pool) + (c[1] * a.kv_heads + h) * head_elems;
      const int64_t places = c[2];
      for (int64_t k = 0; k < d / w; ++k) std::memcpy(to + k * kPage * w, from + k * kPage * w, places * w * sizeof(T));
      from += kPage * d;
      to += kPage * d;
      std::memcpy(to, from, places / w * w * d * sizeof(T));
      if (places % w)
        for (int64_t k = 0; k < d; ++k) to[(places / w * d + k) * w] = from[(places / w * d + k) * w];
    }
  });
}

inline void copy_pages(const CopyPagesArgs& a) {
  a.dtype == DType::bf16 ? copy_pages_t<bf16>(a) : copy_pages_t<float>(a);
}

}  // namespace RFT_ISA
}  // namespace rft
