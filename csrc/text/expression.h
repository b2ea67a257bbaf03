// One side of an equation, with the value that rftfast/verify/arithmetic.py gives it: whole numbers and doubles that
// behave as Python's do. What leaves 64 bits, or asks for a rare operation, is left to Python: Undecided.
#pragma once
#include <cmath>

#include "view.h"

namespace rft::text {

constexpr size_t MAX_CHARS = 1024;
constexpr int MAX_DEPTH = 200;
constexpr int MAX_BITS = 4096;

// Unreadable: no expression of the dialect. Undefined: division by zero, overflow, a root of a negative number.
enum class Outcome : uint8_t { Value, Unreadable, Undefined, Undecided };
enum class Dialect : uint8_t { School, Python };

namespace detail {

struct Number {
  bool is_int;
  union {
    int64_t i;
    double f;
  };
  double real() const { return is_int ? double(i) : f; }
};
inline Number integer(int64_t i) {
  Number n;
  n.is_int = true;
  n.i = i;
  return n;
}
inline Number real(double f) {
  Number n;
  n.is_int = false;
  n.f = f;
  return n;
}

enum Op : uint8_t { OPEN, ADD, SUB, MUL, DIV, FLOOR, MOD, NEG, POS, POW };
constexpr int STRENGTH[] = {0, 9, 9, 10, 10, 10, 10, 11, 11, 12};  // Python's order

constexpr int64_t EXACT = int64_t(1) << 53;  // whole numbers up to here are doubles
inline bool exact(int64_t i) { return i <= EXACT && i >= -EXACT; }

inline Outcome power(double a, double b, Number& out) {
  if (!std::isfinite(a) || !std::isfinite(b)) return Outcome::Undecided;
  if (b == 0) return out = real(1.0), Outcome::Value;
  if (a == 0) return b < 0 ? Outcome::Undefined : Outcome::Undecided;
  bool negate = false;
  if (a < 0) {
    if (std::floor(b) != b) return Outcome::Undefined;
    negate = std::fmod(std::fabs(b), 2.0) == 1.0;
    a = -a;
  }
  const double r = a == 1.0 ? 1.0 : std::pow(a, b);
  if (!std::isnormal(r)) return Outcome::Undecided;
  out = real(negate ? -r : r);
  return Outcome::Value;
}

inline Outcome power(int64_t a, int64_t b, Number& out) {
  if (b < 0) return exact(a) && exact(b) ? power(double(a), double(b), out) : Outcome::Undecided;
  int bits = 0;
  for (uint64_t m = a < 0 ? 0 - uint64_t(a) : uint64_t(a); m; m >>= 1) ++bits;
  if (b > 0 && bits > 1 && (bits - 1) > MAX_BITS / b) return Outcome::Undefined;
  if (bits <= 1) return out = integer(b == 0 ? 1 : a < 0 && b % 2 == 0 ? 1 : a), Outcome::Value;
  int64_t r = 1;
  for (int64_t i = 0; i < b; ++i)
    if (__builtin_mul_overflow(r, a, &r)) return Outcome::Undecided;
  out = integer(r);
  return Outcome::Value;
}

inline Outcome apply(Op op, Number a, Number b, Number& out) {
  if (a.is_int && b.is_int) {
    int64_t r = 0;
    switch (op) {
      case ADD:
        if (__builtin_add_overflow(a.i, b.i, &r)) return Outcome::Undecided;
        break;
      case SUB:
        if (__builtin_sub_overflow(a.i, b.i, &r)) return Outcome::Undecided;
        break;
      case MUL:
        if (__builtin_mul_overflow(a.i, b.i, &r)) return Outcome::Undecided;
        break;
      case POW:
        return power(a.i, b.i, out);
      case DIV:
        if (b.i == 0) return Outcome::Undefined;
        if (!exact(a.i) || !exact(b.i)) return Outcome::Undecided;
        return out = real(double(a.i) / double(b.i)), Outcome::Value;
      default:  // FLOOR, MOD: the remainder has the sign of the divisor
        if (b.i == 0) return Outcome::Undefined;
        if (b.i == -1) return op == MOD ? (out = integer(0), Outcome::Value) : apply(SUB, integer(0), a, out);
        const int64_t q = a.i / b.i, rest = a.i % b.i;
        const bool down = rest != 0 && (rest < 0) != (b.i < 0);
        r = op == MOD ? rest + (down ? b.i : 0) : q - down;
    }
    out = integer(r);
    return Outcome::Value;
  }
  const double x = a.real(), y = b.real();
  switch (op) {
    case ADD:
      out = real(x + y);
      return Outcome::Value;
    case SUB:
      out = real(x - y);
      return Outcome::Value;
    case MUL:
      out = real(x * y);
      return Outcome::Value;
    case DIV:
      if (y == 0) return Outcome::Undefined;
      out = real(x / y);
      return Outcome::Value;
    case POW:
      return power(x, y, out);
    default:
      return y == 0 ? Outcome::Undefined : Outcome::Undecided;
  }
}

}  // namespace detail

// The value of the whole text. The tokens and their grammar are those of the two dialects in arithmetic.py; the parts
// of `python` beyond figures, operators and blanks must have been ruled out before.
template <class C>
Outcome evaluate(View<C> t, Dialect dialect, double& value) {
  using namespace detail;
  if (t.n > MAX_CHARS) return Outcome::Unreadable;
  const bool school = dialect == Dialect::School;
  Number stack[MAX_CHARS];
  Op waiting[MAX_CHARS];
  size_t held = 0, open = 0;
  int depth = 0;
  bool due = true;                  // an operand comes next
  Outcome state = Outcome::Value;   // the first thing that went wrong in calculating; the reading goes on

  const auto settle = [&](int strength) {
    while (open && STRENGTH[waiting[open - 1]] >= strength) {
      const Op op = waiting[--open];
      if (op == NEG || op == POS) {
        Number& a = stack[held - 1];
        if (state == Outcome::Value && op == NEG) {
          if (!a.is_int)
            a.f = -a.f;
          else if (__builtin_sub_overflow(int64_t(0), a.i, &a.i))
            state = Outcome::Undecided;
        }
        continue;
      }
      held -= 1;
      if (state == Outcome::Value) state = apply(op, stack[held - 1], stack[held], stack[held - 1]);
    }
  };
  const auto operand_ahead = [&](size_t i) {
    while (t.at(i) == ' ') ++i;
    const uint32_t c = t.at(i);
    return is_digit(c) || c == '.' || c == '(' || c == '$';
  };

  size_t at = 0;
  while (at < t.n) {
    const uint32_t c = t.p[at];
    if (is_blank(c)) {
      at += 1;
      continue;
    }
    // A number, in school perhaps behind a currency sign.
    size_t from = at;
    if (school) {
      if (c == '$' || is_currency(c))
        from += 1;
      else if (c == '\\' && t.at(at + 1) == '$')
        from += 2;
    }
    const bool money = from != at;
    const size_t figures = digits_at(t, from, t.n);
    if (figures || money || c == '.') {
      size_t end = from + figures;
      bool whole = true;
      if (school && figures >= 1 && figures <= 3)
        while (t.at(end) == ',' && digits_at(t, end + 1, 4) == 3) end += 4;
      const size_t decimals = t.at(end) == '.' ? digits_at(t, end + 1, t.n) : 0;
      const size_t point = end;
      if (decimals) {
        whole = false;
        end += decimals + 1;
      } else if (t.at(end) == '.' && figures && end == from + figures && !money) {
        whole = false;
        end += 1;
      }
      if (end == from) return Outcome::Unreadable;
      if (!school && whole && c == '0')
        for (size_t i = from; i < end; ++i)
          if (t.p[i] != '0') return Outcome::Unreadable;  // 007
      if (!due) return Outcome::Unreadable;
      // Up to 18 figures; with decimals only where mantissa and power of ten are doubles, so that one division is exact.
      uint64_t m = 0;
      size_t counted = 0;
      for (size_t i = from; i < end && counted <= 18; ++i)
        if (is_digit(t.p[i])) {
          m = m * 10 + (t.p[i] - '0');
          counted += m != 0;
        }
      if (counted > 18 || (!whole && (m > uint64_t(EXACT) || decimals > 22))) {
        if (state == Outcome::Value) state = Outcome::Undecided;
        stack[held++] = integer(0);
      } else if (whole) {
        stack[held++] = integer(int64_t(m));
      } else {
        static constexpr double POWERS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                            1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
        stack[held++] = real(double(m) / POWERS[point < end ? decimals : 0]);
      }
      due = false;
      at = end;
      continue;
    }
    // A sign.
    size_t end = at + 1;
    Op op = OPEN;
    bool percent = false;
    if (c == '(') {
      if (!due) return Outcome::Unreadable;
      if (++depth > MAX_DEPTH) return Outcome::Unreadable;
      waiting[open++] = OPEN;
      at = end;
      continue;
    }
    if (c == ')') {
      if (due) return Outcome::Unreadable;
      settle(1);
      if (!open) return Outcome::Unreadable;
      open -= 1;
      depth -= 1;
      at = end;
      continue;
    }
    if (c == '+') {
      op = ADD;
    } else if (c == '-') {
      op = SUB;
    } else if (c == '*') {
      op = MUL;
      if (t.at(end) == '*') op = POW, end += 1;
    } else if (c == '/') {
      op = DIV;
      if (t.at(end) == '/') op = FLOOR, end += 1;
    } else if (c == '%') {
      op = MOD;
      percent = school && !operand_ahead(end);
    } else if (!school) {
      return Outcome::Unreadable;
    } else if (is_minus(c)) {
      op = SUB;
    } else if (c == TIMES || c == MIDDLE_DOT) {
      op = MUL;
    } else if (c == DIVIDED) {
      op = DIV;
    } else if (c == '^') {
      op = POW;
    } else if (c == 'x') {
      if (!operand_ahead(end)) return Outcome::Unreadable;
      op = MUL;
    } else if (t.holds(at, "\\times")) {
      op = MUL, end = at + 6;
    } else if (t.holds(at, "\\cdot")) {
      op = MUL, end = at + 5;
    } else if (t.holds(at, "\\div")) {
      op = DIV, end = at + 4;
    } else if (t.holds(at, "\\%")) {
      op = MOD, end = at + 2;
      percent = !operand_ahead(end);
    } else {
      return Outcome::Unreadable;
    }
    at = end;
    if (due) {
      if (op != ADD && op != SUB) return Outcome::Unreadable;
      waiting[open++] = op == SUB ? NEG : POS;
    } else if (percent) {
      if (state == Outcome::Value) state = apply(DIV, stack[held - 1], integer(100), stack[held - 1]);
    } else {
      // Powers bind from the right: 2**3**2 leaves the first ** waiting.
      settle(STRENGTH[op] + (op == POW));
      waiting[open++] = op;
      due = true;
    }
  }
  if (due || depth) return Outcome::Unreadable;
  settle(1);
  if (state == Outcome::Value) value = stack[0].real();
  return state;
}

}  // namespace rft::text
