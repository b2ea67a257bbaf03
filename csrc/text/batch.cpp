#include "batch.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <system_error>
#include <thread>

namespace rft::text {
namespace {

// The gold's number: behind its marker, or alone. None is an input error, which Python words.
Read gold_number(const Text& gold, const Policy& policy, Rational& out) {
  return gold.visit([&](auto t) {
    Marks marks(policy.first);
    const size_t end = scan(t, policy, marks, nullptr);
    const Read r = marks.read(t.part(0, end), out);
    return r == Read::None ? parse_number(t, out) : r;
  });
}

template <class C>
Code judge(View<C> t, const std::vector<Span>& equations, size_t from, Policy::Mode mode) {
  if (mode == Policy::Off) return CORRECT;
  size_t work = 0;
  for (size_t i = from; i < equations.size(); ++i) {
    const View<C> e = t.part(equations[i].from, equations[i].to);
    work += std::min(e.n, 4 * MAX_CHARS);  // a longer one is false unread
    if (work > MAX_WORK) return TIMEOUT;
    const Truth truth = mode == Policy::Reference ? check_reference(e) : check_strict(e);
    if (truth == Truth::Undecided) return UNDECIDED;
    if (truth == Truth::False) return WRONG_EQUATION;
  }
  return CORRECT;
}

template <class C>
void append_key(View<C> t, const std::vector<Span>& equations, size_t from, std::vector<uint8_t>& keys) {
  size_t most = 0;
  for (size_t i = from; i < equations.size(); ++i) most += equations[i].to - equations[i].from + 1;
  const size_t old = keys.size();
  keys.resize(old + most * sizeof(C));
  uint8_t* out = keys.data() + old;
  const auto put = [&](C c) {
    std::memcpy(out, &c, sizeof(C));
    out += sizeof(C);
  };
  for (size_t i = from; i < equations.size(); ++i) {
    if (i > from) put(C('|'));
    for (size_t at = equations[i].from; at < equations[i].to; ++at)
      if (t.p[at] != ' ') put(t.p[at]);
  }
  keys.resize(size_t(out - keys.data()));
}

template <class C>
Code verdict(View<C> t, const Policy& policy, Read gold, const Rational& expected, bool truncated, Item& item,
             std::vector<Span>& equations) {
  if (t.n >= UINT32_MAX) return UNDECIDED;
  Marks marks(policy.first);
  const size_t from = equations.size();
  const size_t end = scan(t, policy, marks, &equations);
  const Read read = marks.read(t.part(0, end), item.answer);
  if (read == Read::Undecided) return UNDECIDED;
  item.has_answer = read == Read::Value;
  // As in Python, ordinary text is searched up to the NUL except in reference mode.
  const View<C> whole = policy.mode == Policy::Reference ? t : t.part(0, end);
  bool in_text = false;
  if (equations.size() == from && policy.bare) {
    in_text = true;
    if (whole.n <= MAX_WORK && !find_bare(whole, equations)) return UNDECIDED;
  }
  if (!item.has_answer) return gold == Read::Value ? (truncated ? TRUNCATED : NO_ANSWER) : UNDECIDED;
  if (gold != Read::Value) return UNDECIDED;
  if (!(item.answer == expected)) return WRONG_ANSWER;
  if (in_text && t.n > MAX_WORK) return TIMEOUT;
  if (policy.mode == Policy::Strict && marks.open) return WRONG_EQUATION;
  return judge(t, equations, from, in_text && policy.mode != Policy::Off ? Policy::Strict : policy.mode);
}

}  // namespace

void Batch::run_chunk(size_t index) {
  Chunk& chunk = chunks[index];
  const size_t from = index * CHUNK, to = std::min(from + CHUNK, texts.size());
  chunk.equations.reserve(4 * (to - from));
  uint32_t known = UINT32_MAX;
  Read gold = Read::None;
  Rational expected;
  for (size_t i = from; i < to; ++i) {
    if (gold_of[i] != known) {
      known = gold_of[i];
      gold = gold_number(golds[known], policy, expected);
    }
    Item& item = items[i];
    const size_t first = chunk.equations.size(), key = chunk.keys.size();
    const bool cut_off = !truncated.empty() && truncated[i];
    codes[i] = texts[i].visit([&](auto t) {
      const Code code = verdict(t, policy, gold, expected, cut_off, item, chunk.equations);
      if (with_keys && code != UNDECIDED) append_key(t, chunk.equations, first, chunk.keys);
      return code;
    });
    if (codes[i] == UNDECIDED || chunk.keys.size() > UINT32_MAX || chunk.equations.size() > UINT32_MAX) {
      codes[i] = UNDECIDED;
      chunk.equations.resize(first);
      chunk.keys.resize(key);
    }
    item.first_equation = uint32_t(first);
    item.n_equations = uint32_t(chunk.equations.size() - first);
    item.key_from = uint32_t(key);
    item.key_bytes = uint32_t(chunk.keys.size() - key);
  }
}

void Batch::run(int threads) {
  const size_t n = texts.size();
  codes.assign(n, UNDECIDED);
  items.assign(n, Item{});
  chunks.assign((n + CHUNK - 1) / CHUNK, Chunk{});
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t c; (c = next.fetch_add(1, std::memory_order_relaxed)) < chunks.size();) {
      try {
        run_chunk(c);
      } catch (const std::bad_alloc&) {  // Python has a better word for it, or a way round it
        chunks[c] = Chunk{};
        const size_t from = c * CHUNK, to = std::min(from + CHUNK, n);
        std::fill(codes.begin() + from, codes.begin() + to, uint8_t(UNDECIDED));
      }
    }
  };
  // A thread costs what judging a few dozen completions does: helpers come only where there is work for them.
  std::vector<std::thread> helpers;
  const size_t wanted = std::min(size_t(std::max(threads, 1)), chunks.size());
  for (size_t i = 1; i < wanted; ++i) {
    try {
      helpers.emplace_back(work);
    } catch (const std::system_error&) {  // no more threads to be had
      break;
    }
  }
  work();
  for (auto& helper : helpers) helper.join();
}

}  // namespace rft::text
