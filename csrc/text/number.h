// Final answers, read exactly as rftfast/verify/numbers.py reads them (the rules are stated there). Numbers of more
// than 18 figures, and values that are no ratio of two 64-bit integers, are left to Python: Undecided.
#pragma once
#include "view.h"

namespace rft::text {

enum class Read : uint8_t { None, Value, Undecided };
struct Rational {
  int64_t num = 0, den = 1;  // lowest terms, den > 0
  bool operator==(const Rational& o) const { return num == o.num && den == o.den; }
};

constexpr size_t MAX_FIGURES = 18;
using wide = __int128;

inline wide power_of_ten(int e) {
  wide p = 1;
  while (e-- > 0) p *= 10;
  return p;
}

// num/den in lowest terms; false where that does not fit. den > 0.
inline bool reduce(wide num, wide den, Rational& out) {
  if (den != 1) {
    wide a = num < 0 ? -num : num, b = den;
    while (b) {
      wide r = a % b;
      a = b;
      b = r;
    }
    num /= a;
    den /= a;
  }
  if (num > INT64_MAX || num < -INT64_MAX || den > INT64_MAX) return false;
  out = {int64_t(num), int64_t(den)};
  return true;
}

struct Whole {
  size_t end = 0, figures = 0;
  int64_t value = 0;
};

// A whole number, thousands commas and all; Undecided where it has too many figures.
template <class C>
Read whole(View<C> t, size_t at, Whole& w) {
  const size_t run = digits_at(t, at, MAX_FIGURES + 1);
  if (run == 0) return Read::None;
  if (run > MAX_FIGURES) return Read::Undecided;
  int64_t value = 0;
  for (size_t i = 0; i < run; ++i) value = value * 10 + (t.at(at + i) - '0');
  w = {at + run, run, value};
  if (run > 3) return Read::Value;
  // Groups of three, or of two before the last three: the longest stretch that ends with three figures counts.
  size_t figures = run, pos = at + run;
  while (t.at(pos) == ',') {
    const size_t group = digits_at(t, pos + 1, 4);
    if (group != 2 && group != 3) break;
    figures += group;
    if (figures > MAX_FIGURES) return Read::Undecided;
    for (size_t i = 1; i <= group; ++i) value = value * 10 + (t.at(pos + i) - '0');
    pos += group + 1;
    if (group == 3) w = {pos, figures, value};
  }
  return Read::Value;
}

// Whether what follows shows that the number was only the beginning of something else.
template <class C>
bool goes_on(View<C> t, size_t at) {
  const auto figure_or_open = [](uint32_t c) { return is_digit(c) || c == '('; };
  const uint32_t c = t.at(at), next = t.at(at + 1);
  if (is_digit(c) || c == '_' || c == '(' || c == '[' || c == '{' || c == '^') return true;
  if (c == '.' && is_digit(next)) return true;
  if ((c == ':' || c == ',') && is_digit(next == ' ' ? t.at(at + 2) : next)) return true;
  if (const size_t back = at + (c == ' '); t.at(back) == '\\') {
    for (const char* word :
         {"text", "mathrm", "mbox", "quad", "qquad", "%", ")", "]", ",", ";", "!", " ", "$", "\\"})
      if (t.holds(back + 1, word)) return false;
    return true;
  }
  for (const char* word : {"pi", "sqrt"})
    if (t.holds(at, word)) {
      const uint32_t after = t.at(at + (word[0] == 'p' ? 2 : 4));
      if (!(after - 'a' < 26)) return true;
    }
  if (is_letter(c) && !is_letter(next) && c != 'g' && c != 'm' && c != 'h' && c != 's' && c != 'l' && c != 'L')
    return true;
  // An operator, perhaps behind one space.
  const size_t op = at + (c == ' ');
  const uint32_t o = t.at(op);
  const auto after_space = [&](size_t i) { return t.at(i) == ' ' ? t.at(i + 1) : t.at(i); };
  if (o == '+' || o == '^' || o == TIMES || o == DIVIDED) return true;
  if (o == '*') {
    if (figure_or_open(after_space(t.at(op + 1) == '*' ? op + 2 : op + 1))) return true;
    if (is_letter(t.at(op + 1))) return true;
    return c == ' ' && t.at(op + 1) == ' ' && is_letter(t.at(op + 2));
  }
  if (is_minus(o) || o == 'x') return figure_or_open(after_space(op + 1));
  if (o == '/') {
    const size_t i = op + 1 + (t.at(op + 1) == ' ');
    return figure_or_open(t.at(i)) || (is_letter(t.at(i)) && !is_letter(t.at(i + 1)));
  }
  return false;
}

// [+-] and one to four figures; the value, and the end or 0 if there is none.
template <class C>
size_t exponent_at(View<C> t, size_t at, int& value) {
  const bool sign = t.at(at) == '+' || t.at(at) == '-';
  const size_t from = at + sign, n = digits_at(t, from, 5);
  if (n == 0 || n > 4) return 0;
  value = 0;
  for (size_t i = 0; i < n; ++i) value = value * 10 + int(t.at(from + i) - '0');
  if (t.at(at) == '-') value = -value;
  return from + n;
}

// e3, x 10^3, \times 10^{-3}, … at `at`; the end, or `at` if there is none.
template <class C>
size_t scale_at(View<C> t, size_t at, int& exponent) {
  if (t.at(at) == 'e' || t.at(at) == 'E') {
    const size_t end = exponent_at(t, at + 1, exponent);
    return end ? end : at;
  }
  size_t i = at + (t.at(at) == ' ');
  if (t.at(i) == 'x' || t.at(i) == '*' || t.at(i) == TIMES)
    i += 1;
  else if (t.holds(i, "\\times"))
    i += 6;
  else if (t.holds(i, "\\cdot"))
    i += 5;
  else
    return at;
  i += t.at(i) == ' ';
  if (!t.holds(i, "10")) return at;
  i += 2;
  if (t.at(i) == '^')
    i += 1;
  else if (t.holds(i, "**"))
    i += 2;
  else
    return at;
  const bool braces = t.at(i) == '{';
  int value = 0;
  const size_t end = exponent_at(t, i + braces, value);
  if (!end || (braces && t.at(end) != '}')) return at;
  exponent = value;
  return end + braces;
}

// The number with which the text goes on at `at`, and where it ends.
template <class C>
Read read_number(View<C> t, size_t at, Rational& out, size_t& end) {
  for (int i = 0; i < 16; ++i) {
    const uint32_t c = t.at(at), next = t.at(at + 1);
    if (c == END) break;
    if (is_space(c) || c == ':' || c == '=' || c == '~' || c == '*' || c == '_')
      at += 1;
    else if (c == '\\' && (next == '(' || next == '['))
      at += 2;
    else if (c == '$' && next != END && (next == '\\' || is_space(next)))
      at += 1;
    else
      break;
  }
  bool negative = is_minus(t.at(at));
  at += negative || t.at(at) == '+';
  at += t.at(at) == ' ';
  if (t.holds(at, "US$"))
    at += 3;
  else if (t.holds(at, "\\$"))
    at += 2;
  else
    at += t.at(at) == '$' || is_currency(t.at(at));
  at += t.at(at) == ' ';
  if (is_minus(t.at(at))) {
    negative = !negative;
    at += 1;
  }

  wide num = 0, den = 1;
  if (t.at(at) == '\\') {
    Whole a, b;
    size_t i = at + 1;
    i += t.at(i) == 'd' || t.at(i) == 't';
    if (!t.holds(i, "frac")) return Read::None;
    i += 4;
    i += t.at(i) == ' ';
    if (t.at(i) != '{') return Read::None;
    i += 1;
    i += t.at(i) == ' ';
    if (t.at(i) == '-') {
      negative = !negative;
      i += 1;
    }
    if (Read r = whole(t, i, a); r != Read::Value) return r;
    i = a.end + (t.at(a.end) == ' ');
    if (!t.holds(i, "}{")) return Read::None;
    i += 2;
    i += t.at(i) == ' ';
    if (Read r = whole(t, i, b); r != Read::Value) return r;
    i = b.end + (t.at(b.end) == ' ');
    if (t.at(i) != '}' || b.value == 0) return Read::None;
    num = a.value;
    den = b.value;
    end = i + 1;
  } else {
    Whole a, b, c;
    const Read first = whole(t, at, a);
    if (first == Read::Undecided) return first;
    if (first == Read::Value) {
      if (t.at(a.end) == ' ') {  // 3 1/2
        const Read second = whole(t, a.end + 1, b);
        if (second == Read::Undecided) return second;
        if (second == Read::Value && t.at(b.end) == '/') {
          const Read third = whole(t, b.end + 1, c);
          if (third == Read::Undecided) return third;
          if (third == Read::Value) {
            if (c.value == 0) return Read::None;
            num = wide(a.value) * c.value + b.value;
            den = c.value;
            end = c.end;
          }
        }
      }
      if (c.end == 0) {  // 1/2; a quotient that goes on (1/2.5) is no answer
        size_t i = a.end + (t.at(a.end) == ' ');
        if (t.at(i) == '/') {
          i += 1;
          i += t.at(i) == ' ';
          const Read second = whole(t, i, b);
          if (second == Read::Undecided) return second;
          if (second == Read::Value) {
            if (b.value == 0 || is_digit(t.at(b.end)) || (t.at(b.end) == '.' && is_digit(t.at(b.end + 1))))
              return Read::None;
            num = a.value;
            den = b.value;
            end = c.end = b.end;
          }
        }
      }
    } else {
      a.end = at;
      if (t.at(at) != '.' || !is_digit(t.at(at + 1))) return Read::None;
    }
    if (c.end == 0) {  // a decimal
      num = a.value;
      end = a.end;
      int exponent = 0;
      if (t.at(end) == '.' && is_digit(t.at(end + 1))) {
        const size_t decimals = digits_at(t, end + 1, MAX_FIGURES + 1);
        if (a.figures + decimals > MAX_FIGURES) return Read::Undecided;
        for (size_t i = 1; i <= decimals; ++i) num = num * 10 + (t.at(end + i) - '0');
        den = power_of_ten(int(decimals));
        end += decimals + 1;
      }
      end = scale_at(t, end, exponent);
      if (exponent > 400 || exponent < -400) return Read::None;
      if (exponent > 18 || exponent < -18) return goes_on(t, end) ? Read::None : Read::Undecided;
      if (exponent > 0) num *= power_of_ten(exponent);
      if (exponent < 0) den *= power_of_ten(-exponent);
    }
  }
  if (goes_on(t, end)) return Read::None;
  return reduce(negative ? -num : num, den, out) ? Read::Value : Read::Undecided;
}

// The number that the text is, with nothing but units, punctuation and blanks around it.
template <class C>
Read parse_number(View<C> t, Rational& out) {
  if (t.n > 1600) return Read::None;
  while (t.n && is_space(t.p[0])) t = t.part(1, t.n);
  while (t.n && is_space(t.p[t.n - 1])) t.n -= 1;
  size_t end = 0;
  const Read read = read_number(t, 0, out, end);
  if (read == Read::None) return read;
  if (read == Read::Undecided) return read;
  if (t.n - end > 60) return Read::None;
  for (size_t i = end; i < t.n; ++i)
    if (is_digit(t.p[i]) || t.p[i] == '\n' || t.p[i] == '=') return Read::None;
  return Read::Value;
}

// The number in the braces that open just before `start`.
template <class C>
Read boxed_number(View<C> t, size_t start, Rational& out) {
  constexpr size_t LONGEST = 400;
  const size_t last = t.n - start < LONGEST ? t.n : start + LONGEST;
  size_t depth = 1, close = start;
  for (;; ++close) {
    if (close == last) return Read::None;
    if (t.p[close] == '{') depth += 1;
    if (t.p[close] == '}' && --depth == 0) break;
  }
  uint32_t inside[LONGEST];
  size_t n = 0;
  for (size_t i = start; i < close; ++i) {
    if (t.holds(i, "{,}") && i + 2 < close) {
      i += 2;
      continue;
    }
    const uint32_t next = i + 1 < close ? t.at(i + 1) : END;
    if (t.p[i] == '\\' && (next == ',' || next == '!' || next == ';' || next == ':' || next == ' ')) {
      i += 1;
      continue;
    }
    inside[n++] = t.p[i];
  }
  return parse_number(View<uint32_t>{inside, n}, out);
}

}  // namespace rft::text
