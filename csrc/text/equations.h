// Which equations a text holds and whether they are right: rftfast/verify/equations.py, verdict for verdict.
#pragma once
#include <vector>

#include "expression.h"

namespace rft::text {

struct Span {
  uint32_t from, to;
};
enum class Truth : uint8_t { False, True, Undecided };
constexpr double TOLERANCE = 1e-3;
constexpr size_t MAX_WORK = 150000;  // characters of equations that are evaluated for one completion

// [ \t]*-?[0-9][0-9,]*(\.[0-9]+)?[ \t]*\\?%[ \t]*
template <class C>
bool is_percentage(View<C> t) {
  size_t i = 0;
  while (is_blank(t.at(i))) ++i;
  i += t.at(i) == '-';
  if (!is_digit(t.at(i))) return false;
  while (is_digit(t.at(i)) || t.at(i) == ',') ++i;
  if (t.at(i) == '.') {
    const size_t n = digits_at(t, i + 1, t.n);
    if (n == 0) return false;
    i += n + 1;
  }
  while (is_blank(t.at(i))) ++i;
  i += t.at(i) == '\\';
  if (t.at(i++) != '%') return false;
  while (is_blank(t.at(i))) ++i;
  return i == t.n;
}

// Every part of the chain within TOLERANCE of every other.
template <class C>
Truth check_strict(View<C> t) {
  if (t.n > 4 * MAX_CHARS) return Truth::False;
  const auto each_part = [&](auto&& f) {
    for (size_t from = 0;;) {
      const size_t to = t.find('=', from);
      if (!f(t.part(from, to))) return false;
      if (to == t.n) return true;
      from = to + 1;
    }
  };
  double low = INFINITY, high = -INFINITY;
  size_t parts = 0;
  bool undecided = false, percents = false;
  const bool all = each_part([&](View<C> part) {
    double v = 0;
    const Outcome outcome = evaluate(part, Dialect::School, v);
    parts += 1;
    if (outcome == Outcome::Undecided) {
      undecided = true;
      return true;
    }
    if (outcome != Outcome::Value || !std::isfinite(v)) return false;
    percents |= is_percentage(part);
    low = v < low ? v : low;
    high = v > high ? v : high;
    return true;
  });
  if (!all || parts < 2) return Truth::False;
  if (undecided) return Truth::Undecided;
  if (high - low < TOLERANCE) return Truth::True;
  if (!percents) return Truth::False;
  // "100 - 80 = 20%" has the percent sign as a unit.
  low = INFINITY;
  high = -INFINITY;
  each_part([&](View<C> part) {
    double v = 0;
    evaluate(part, Dialect::School, v);
    if (is_percentage(part)) v *= 100;
    low = v < low ? v : low;
    high = v > high ? v : high;
    return true;
  });
  return high - low < TOLERANCE ? Truth::True : Truth::False;
}

// A plain decimal as Python's float() reads it. Unreadable where float() certainly fails, Undecided for the rest.
template <class C>
Outcome plain_float(View<C> t, double& value) {
  for (size_t i = 0; i < t.n; ++i) {
    const uint32_t c = t.p[i];
    // float() reads figures and blanks of other scripts, exponents, underscores, inf and nan: Python's business.
    if (c >= 128 || is_letter(c) || c == '_' || (c < 32 && c != '\t')) return Outcome::Undecided;
    if (!is_digit(c) && c != '.' && c != '+' && c != '-' && !is_blank(c)) return Outcome::Unreadable;
  }
  while (t.n && is_blank(t.p[0])) t = t.part(1, t.n);
  while (t.n && is_blank(t.p[t.n - 1])) t.n -= 1;
  const bool negative = t.at(0) == '-';
  if (negative || t.at(0) == '+') t = t.part(1, t.n);
  size_t points = 0;
  for (size_t i = 0; i < t.n; ++i) {
    points += t.p[i] == '.';
    if (!is_digit(t.p[i]) && t.p[i] != '.') return Outcome::Unreadable;
  }
  if (points > 1 || t.n == points) return Outcome::Unreadable;
  // The rest is a number; leading zeros do not trouble float(), so they must not trouble the evaluator.
  size_t zeros = 0;
  while (zeros + 1 < t.n && t.p[zeros] == '0' && is_digit(t.p[zeros + 1])) ++zeros;
  if (t.n > MAX_CHARS) return Outcome::Undecided;
  const Outcome outcome = evaluate(t.part(zeros, t.n), Dialect::Python, value);
  if (negative) value = -value;
  return outcome;
}

// As the paper's released code has it: the first part evaluated as Python, the second read as a float.
template <class C>
Truth check_reference(View<C> t) {
  if (t.n > 4 * MAX_CHARS) return Truth::False;
  const size_t first = t.find('=', 0);
  if (first == t.n) return Truth::False;
  const View<C> left = t.part(0, first), right = t.part(first + 1, t.find('=', first + 1));
  if (left.n > MAX_CHARS) return Truth::False;
  bool rare = false, impossible = false;
  for (size_t i = 0; i < left.n; ++i) {
    const uint32_t c = left.p[i];
    if (c == '#') return Truth::Undecided;  // a comment may hold anything
    if (is_digit(c) || is_blank(c)) continue;
    switch (c) {
      case '+': case '-': case '*': case '/': case '%': case '(': case ')': case '.':
        break;
      case '&': case '|': case '^': case '~': case '<': case '_': case '\n': case '\r': case '\f':
        rare = true;
        break;
      default:
        (is_letter(c) ? rare : impossible) = true;
    }
  }
  if (impossible) return Truth::False;
  double a = 0, b = 0;
  const Outcome read = plain_float(right, b);
  if (read == Outcome::Unreadable) return Truth::False;
  if (rare) return Truth::Undecided;
  const Outcome value = evaluate(left, Dialect::Python, a);
  if (value == Outcome::Unreadable || value == Outcome::Undefined) return Truth::False;
  if (value == Outcome::Undecided || read == Outcome::Undecided) return Truth::Undecided;
  return std::fabs(a - b) < TOLERANCE ? Truth::True : Truth::False;
}

// Ordinary text -----------------------------------------------------------------------------------------------------

inline bool is_operation(uint32_t c) {
  return c == '+' || c == '*' || c == '/' || c == TIMES || c == DIVIDED || c == MIDDLE_DOT || c == 'x' || c == '^' ||
         is_minus(c);
}
inline bool in_stretch(uint32_t c) {
  if (is_digit(c) || is_blank(c) || is_operation(c)) return true;
  return c == '.' || c == ',' || c == ';' || c == '$' || c == '%' || c == '(' || c == ')' || c == '=' || is_currency(c);
}
template <class C>
bool has_operation(View<C> t) {
  for (size_t i = 0; i < t.n; ++i) {
    if (is_operation(t.p[i])) return true;
    if (t.p[i] == '%') {
      size_t j = i + 1;
      while (t.at(j) == ' ') ++j;
      if (is_digit(t.at(j))) return true;
    }
  }
  return false;
}

// Calculations in ordinary text, in order. False where only Python can tell.
template <class C>
bool find_bare(View<C> t, std::vector<Span>& found) {
  for (size_t at = 0; at < t.n;) {
    size_t equals = t.find('=', at);
    if (equals == t.n) return true;
    // The stretch around the equals sign.
    size_t start = equals, end = equals + 1;
    while (start > at && in_stretch(t.p[start - 1])) --start;
    while (end < t.n && in_stretch(t.p[end])) ++end;
    at = end;
    const bool line_start = start == 0 || t.p[start - 1] == '\n';
    if (line_start) {  // a bullet: "- ", "12. "
      size_t i = start;
      while (is_blank(t.at(i))) ++i;
      size_t sign = i;
      if (const size_t n = digits_at(t, i, 3); n == 1 || n == 2)
        sign = i + n + (t.at(i + n) == '.' || t.at(i + n) == ')');
      else
        sign = i + (t.at(i) == '*' || t.at(i) == '+' || is_minus(t.at(i)));
      const bool marked = sign > i && !is_digit(t.at(sign - 1));
      if (marked && is_blank(t.at(sign))) {
        while (is_blank(t.at(sign))) ++sign;
        start = sign;
      }
    }
    const auto among = [](uint32_t c, const char* set) {
      for (; *set; ++set)
        if (c == uint32_t(*set)) return true;
      return false;
    };
    const bool joined_left =
        !line_start && (!among(t.p[start], " \t.,;(") || among(t.p[start - 1], "_\\^{"));
    bool first = true;
    for (size_t from = start;;) {
      // One sentence: up to [.,;] before blanks or the end, ';', or a tab.
      size_t to = from, next = 0;
      bool last = false;
      for (;; ++to) {
        if (to == end) {
          last = true;
          break;
        }
        const uint32_t c = t.p[to];
        if (c == '.' || c == ',' || c == ';') {
          next = to + 1;
          while (next < end && is_blank(t.p[next])) ++next;
          if (next > to + 1 || next == end || c == ';') break;
        } else if (c == '\t') {
          next = to + 1;
          break;
        }
      }
      const auto stripped = [&](size_t a, size_t b) {
        while (a < b && is_blank(t.p[a])) ++a;
        while (b > a && is_blank(t.p[b - 1])) --b;
        return Span{uint32_t(a), uint32_t(b)};
      };
      Span s = stripped(from, to);
      const auto view = [&] { return t.part(s.from, s.to); };
      if (first && !line_start) {
        const size_t sign = view().find('=', 0);
        if (sign < view().n) {
          const View<C> left = view().part(0, sign);
          const bool joining =
              left.n == 0 || is_operation(left.p[0]) || left.p[0] == '%' || left.p[0] == ')';
          if (joined_left || joining || !has_operation(left)) s = stripped(s.from + sign + 1, s.to);
        }
      }
      first = false;
      const View<C> piece = view();
      bool keep = piece.find('=', 0) < piece.n && piece.n <= MAX_CHARS && has_operation(piece);
      if (keep && last && end < t.n && !is_blank(t.p[end - 1])) {
        if (t.p[end] >= 128) return false;  // a letter of another script?
        keep = !is_letter(t.p[end]);
      }
      for (size_t a = 0; keep;) {
        const size_t b = piece.find('=', a);
        double v = 0;
        keep = evaluate(piece.part(a, b), Dialect::School, v) != Outcome::Unreadable;
        if (b == piece.n) break;
        a = b + 1;
      }
      if (keep) found.push_back(s);
      if (last) break;
      from = next;
    }
  }
  return true;
}

}  // namespace rft::text
