// Characters of a Python string where they lie: one, two or four bytes each, indexed by character as in Python.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rft::text {

constexpr uint32_t END = 0xFFFFFFFFu;  // what stands behind the last character; equal to none

template <class C>
struct View {
  const C* p;
  size_t n;

  uint32_t at(size_t i) const { return i < n ? uint32_t(p[i]) : END; }
  View part(size_t from, size_t to) const { return {p + from, to - from}; }

  bool holds(size_t i, const char* word) const {
    for (; *word; ++word, ++i)
      if (at(i) != uint32_t(static_cast<unsigned char>(*word))) return false;
    return true;
  }
  size_t find(uint32_t c, size_t from) const {
    while (from < n && p[from] != c) ++from;
    return from;
  }
};

inline bool is_digit(uint32_t c) { return c - '0' < 10; }
inline bool is_letter(uint32_t c) { return (c | 32) - 'a' < 26; }
inline bool is_blank(uint32_t c) { return c == ' ' || c == '\t'; }

// Python's str.isspace, which is also what \s of its regular expressions matches.
inline bool is_space(uint32_t c) {
  if (c < 128) return c == ' ' || c - 9 < 5 || c - 0x1c < 4;
  return c == 0x85 || c == 0xa0 || c == 0x1680 || c - 0x2000 < 11 || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}
constexpr uint32_t MINUS_SIGN = 0x2212, EN_DASH = 0x2013, TIMES = 0xd7, DIVIDED = 0xf7, MIDDLE_DOT = 0xb7;
inline bool is_minus(uint32_t c) { return c == '-' || c == MINUS_SIGN || c == EN_DASH; }
inline bool is_currency(uint32_t c) { return c == 0x20ac || c == 0xa3 || c == 0xa5 || c == 0x20b9; }  // € £ ¥ ₹

template <class C>
size_t digits_at(View<C> t, size_t at, size_t most) {
  size_t n = 0;
  while (n < most && is_digit(t.at(at + n))) ++n;
  return n;
}

}  // namespace rft::text
