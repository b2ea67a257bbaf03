// One pass over a completion: where its answer markers and its <<equations>> are (rftfast/verify/answers.py).
#pragma once
#include <array>
#include <cstring>
#include <vector>

#include "equations.h"
#include "number.h"

namespace rft::text {

enum Marker : uint8_t { HASHES = 1, LINE_A = 2, ANSWER_IS = 4, BOXED = 8 };
constexpr size_t MAX_MARKERS = 64;

struct Policy {
  bool first;        // the first marker counts, not the last
  uint8_t markers;   // of Marker
  enum Mode : uint8_t { Strict, Reference, Off } mode;
  bool bare;
};

// Ends of the markers met, the outermost MAX_MARKERS of them.
class Marks {
 public:
  bool open = false;  // a << was met that no >> ends
  explicit Marks(bool first) : first_(first) {}
  void add(size_t end, bool boxed) {
    if (first_ && count_ >= MAX_MARKERS) return;
    ends_[count_++ % MAX_MARKERS] = end << 1 | size_t(boxed);
  }
  // The number behind the outermost marker that has one.
  template <class C>
  Read read(View<C> t, Rational& out) const {
    const size_t n = count_ < MAX_MARKERS ? count_ : MAX_MARKERS;
    for (size_t i = 0; i < n; ++i) {
      const size_t mark = ends_[first_ ? i : (count_ - 1 - i) % MAX_MARKERS];
      size_t end = 0;
      const Read r = mark & 1 ? boxed_number(t, mark >> 1, out) : read_number(t, mark >> 1, out, end);
      if (r != Read::None) return r;
    }
    return Read::None;
  }

 private:
  bool first_;
  size_t count_ = 0;
  size_t ends_[MAX_MARKERS];
};

namespace detail {

// Characters at which something may begin (or, of the longer markers, their rarest character).
constexpr std::array<uint8_t, 128> hot_table() {
  std::array<uint8_t, 128> t{};
  for (char c : {'\0', '#', ':', 'w', '\\', '<'}) t[size_t(c)] = 1;
  return t;
}
inline constexpr std::array<uint8_t, 128> HOT = hot_table();

// A vector of the compiler's own (SSE2, NEON, …: what every machine of the kind has): 16 bytes of characters at once.
template <class C>
struct Lanes {
  typedef C type __attribute__((vector_size(16)));
  typedef uint64_t pair __attribute__((vector_size(16)));
};

template <class C>
size_t next_hot(View<C> t, size_t i) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  constexpr size_t N = 16 / sizeof(C), HALF = N / 2;
  constexpr int BITS = 8 * sizeof(C);
  while (t.n >= N && i < t.n) {
    // The last characters are read together with some before them, which are then masked.
    const size_t from = i + N <= t.n ? i : t.n - N, skip = i - from;
    typename Lanes<C>::type v;
    std::memcpy(&v, t.p + from, 16);
    const auto zero = typename Lanes<C>::type{};
    const auto hit = (typename Lanes<C>::pair)((v == zero) | (v == zero + C('#')) | (v == zero + C(':')) |
                                               (v == zero + C('w')) | (v == zero + C('\\')) | (v == zero + C('<')));
    uint64_t low = hit[0], high = hit[1];
    if (skip) {
      low = skip >= HALF ? 0 : low >> (skip * BITS) << (skip * BITS);
      if (skip > HALF) high = high >> ((skip - HALF) * BITS) << ((skip - HALF) * BITS);
    }
    if (low) return from + size_t(__builtin_ctzll(low)) / BITS;
    if (high) return from + HALF + size_t(__builtin_ctzll(high)) / BITS;
    i = from + N;
  }
#endif
  while (i < t.n && !(uint32_t(t.p[i]) < 128 && HOT[t.p[i]])) ++i;
  return i;
}

// The end of a "####…" run; marks every four of them, as a search from the left does.
template <class C>
size_t hashes(View<C> t, size_t i, Marks& marks, bool wanted) {
  size_t run = 0;
  while (t.at(i + run) == '#')
    if (++run % 4 == 0 && wanted) marks.add(i + run, false);
  return i + run;
}

// Whether a line that begins with "A:", "Answer:", "Final answer:" or "Final Answer:" has its colon at i. Before them may stand
// up to three '#' and a blank, as of a heading, and up to eight blanks and stars.
template <class C>
bool is_line_a(View<C> t, size_t i) {
  size_t s;
  if (i >= 1 && t.p[i - 1] == 'A')
    s = i - 1;
  else if (i >= 12 && (t.holds(i - 12, "Final Answer") || t.holds(i - 12, "Final answer")))
    s = i - 12;
  else if (i >= 6 && t.holds(i - 6, "Answer"))
    s = i - 6;
  else
    return false;
  int blanks = 0;
  for (; blanks < 9 && s > 0 && (is_blank(t.p[s - 1]) || t.p[s - 1] == '*'); ++blanks) --s;
  if (blanks <= 8 && (s == 0 || t.p[s - 1] == '\n')) return true;
  if (blanks == 0 || t.p[s] != ' ') return false;
  int heading = 0;
  for (; heading < 3 && s > 0 && t.p[s - 1] == '#'; ++heading) --s;
  return heading > 0 && (s == 0 || t.p[s - 1] == '\n');
}

// Whether "The (final |correct )answer is" has its w at i.
template <class C>
bool is_answer_is(View<C> t, size_t i) {
  if (i < 7 || !t.holds(i - 3, "answer is")) return false;
  size_t s = i - 3;
  if (s >= 6 && t.holds(s - 6, "final "))
    s -= 6;
  else if (s >= 8 && t.holds(s - 8, "correct "))
    s -= 8;
  return s >= 4 && t.holds(s - 3, "he ") && (t.p[s - 4] == 'T' || t.p[s - 4] == 't');
}

}  // namespace detail

// Finds the markers of `policy` up to the first NUL, the equations up to there too (in reference mode: everywhere).
// Returns where the text that counts for the answer ends.
template <class C>
size_t scan(View<C> t, const Policy& policy, Marks& marks, std::vector<Span>* equations) {
  using namespace detail;
  const bool past_nul = equations && policy.mode == Policy::Reference;
  size_t nul = t.n;
  size_t closed = 0;  // up to here, the equations have been read
  for (size_t i = 0; (i = next_hot(t, i)) < t.n;) {
    const bool counts = i < nul;
    switch (t.p[i]) {
      case '\0':
        if (counts) nul = i;
        if (!past_nul) return nul;
        i += 1;
        break;
      case '#': {
        // The run ends at a NUL at the latest, so one that begins before it lies before it.
        i = hashes(t, i, marks, counts && (policy.markers & HASHES));
        break;
      }
      case ':':
        if (counts && (policy.markers & LINE_A) && is_line_a(t, i)) marks.add(i + 1, false);
        i += 1;
        break;
      case 'w':
        if (counts && (policy.markers & ANSWER_IS) && is_answer_is(t, i)) marks.add(i + 6, false);
        i += 1;
        break;
      case '\\': {
        if (counts && (policy.markers & BOXED) && t.holds(i + 1, "boxed")) {
          const size_t brace = i + 6 + (t.at(i + 6) == ' ');
          if (t.at(brace) == '{') marks.add(brace + 1, true);
        }
        i += 1;
        break;
      }
      default:  // '<'
        if (equations && i >= closed && t.at(i + 1) == '<') {
          const size_t stop = past_nul ? t.n : SIZE_MAX;
          size_t to = i + 2;
          while (to < t.n && t.p[to] != '>' && (t.p[to] != 0 || stop != SIZE_MAX)) ++to;
          closed = to;
          if (t.at(to) == '>' && t.at(to + 1) == '>') {
            equations->push_back({uint32_t(i + 2), uint32_t(to)});
            closed = to + 2;
          } else {
            marks.open = true;
          }
          i += 2;
        } else {
          i += 1;
        }
    }
  }
  return nul;
}

}  // namespace rft::text
