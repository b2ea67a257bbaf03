// Verdicts on many completions, off the GIL: rftfast/verify/verifier.py for what can be decided here exactly.
#pragma once
#include <memory>
#include <vector>

#include "scan.h"

namespace rft::text {

// A Python string as its buffer lies in memory; whoever fills it keeps the string alive.
struct Text {
  const void* data;
  size_t length;  // characters
  uint8_t kind;   // bytes of one character: 1, 2, 4

  template <class F>
  auto visit(F&& f) const {
    if (kind == 1) return f(View<uint8_t>{static_cast<const uint8_t*>(data), length});
    if (kind == 2) return f(View<uint16_t>{static_cast<const uint16_t*>(data), length});
    return f(View<uint32_t>{static_cast<const uint32_t*>(data), length});
  }
};

// In the order of rftfast.data.records.VERDICTS; UNDECIDED is left to Python.
enum Code : uint8_t { CORRECT, WRONG_ANSWER, WRONG_EQUATION, NO_ANSWER, TRUNCATED, TIMEOUT, UNDECIDED = 255 };

struct Item {
  Rational answer;
  uint32_t first_equation, n_equations;  // in its chunk's `equations`
  uint32_t key_from, key_bytes;          // in its chunk's `keys`
  bool has_answer;
};

// Consecutive completions that one thread judged. Spans are counted in characters, keys in bytes of the text's kind.
struct Chunk {
  std::vector<Span> equations;
  std::vector<uint8_t> keys;
};

struct Batch {
  static constexpr size_t CHUNK = 512;
  Policy policy;
  bool with_keys;
  std::vector<Text> texts, golds;   // golds: the distinct ones, in order of appearance
  std::vector<uint32_t> gold_of;    // for each text, which gold
  std::vector<uint8_t> truncated;   // for each text, or empty
  std::vector<uint8_t> codes;
  std::vector<Item> items;
  std::vector<Chunk> chunks;

  void run(int threads);

 private:
  void run_chunk(size_t chunk);
};

}  // namespace rft::text
