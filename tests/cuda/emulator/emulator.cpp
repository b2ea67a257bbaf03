// The coroutines behind cuda_runtime.h: a stack for each thread of a block, and who runs next.
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_runtime.h"

namespace emulator {

dim3 thread_index, block_index, block_size, grid_size;
uint64_t seed = 0;

namespace {

constexpr size_t kStack = 64 << 10;
enum class State { fresh, ready, at_block, at_warp, done };

struct Thread {
  jmp_buf where;
  State state;
};

std::vector<Thread> threads;
std::vector<std::unique_ptr<char[]>> stacks;
std::vector<unsigned char> slots;
std::vector<int> order;
const std::function<void()>* body;
jmp_buf scheduler;
ucontext_t scheduler_context, fresh_context;
int running;

void entry() {
  (*body)();
  threads[size_t(running)].state = State::done;
  _longjmp(scheduler, 1);
}

// Runs thread t until it waits or ends. Only its first start goes through makecontext, which calls the system.
void resume(int t) {
  Thread& thread = threads[size_t(t)];
  running = t;
  thread_index = dim3(unsigned(t));
  if (_setjmp(scheduler)) return;
  if (thread.state != State::fresh) _longjmp(thread.where, 1);
  thread.state = State::ready;
  getcontext(&fresh_context);
  fresh_context.uc_stack.ss_sp = stacks[size_t(t)].get();
  fresh_context.uc_stack.ss_size = kStack;
  fresh_context.uc_link = nullptr;
  makecontext(&fresh_context, entry, 0);
  swapcontext(&scheduler_context, &fresh_context);
}

void wait(State state) {
  Thread& thread = threads[size_t(running)];
  thread.state = state;
  if (!_setjmp(thread.where)) _longjmp(scheduler, 1);
}

// Whether all of [first, last) have come to `state`; if so, they may go on.
bool release(int first, int last, State state) {
  for (int t = first; t < last; ++t)
    if (threads[size_t(t)].state != state) return false;
  for (int t = first; t < last; ++t) threads[size_t(t)].state = State::ready;
  return true;
}

void run_block(int count, std::mt19937_64& random) {
  for (Thread& t : threads) t.state = State::fresh;
  std::shuffle(order.begin(), order.end(), random);
  for (;;) {
    bool went = false;
    int done = 0;
    for (int t : order) {
      const State state = threads[size_t(t)].state;
      if (state == State::fresh || state == State::ready) {
        resume(t);
        went = true;
      }
      done += threads[size_t(t)].state == State::done;
    }
    if (done == count) return;
    for (int first = 0; first < count; first += 32) went |= release(first, std::min(first + 32, count), State::at_warp);
    went |= release(0, count, State::at_block);
    if (!went) {
      std::fprintf(stderr, "emulator: deadlock in block (%u, %u): not all threads reach a barrier\n", block_index.x,
                   block_index.y);
      std::abort();
    }
  }
}

}  // namespace

void run_grid(dim3 grid, int count, const std::function<void()>& kernel) {
  std::mt19937_64 random(seed);
  grid_size = grid;
  block_size = dim3(unsigned(count));
  threads.resize(size_t(count));
  slots.resize(size_t(count + 31) / 32 * 32 * 16);
  while (stacks.size() < size_t(count)) stacks.emplace_back(new char[kStack]);
  order.resize(size_t(count));
  std::iota(order.begin(), order.end(), 0);
  body = &kernel;
  std::vector<uint64_t> blocks(uint64_t(grid.x) * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), random);
  for (uint64_t b : blocks) {
    block_index = dim3(unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y));
    run_block(count, random);
  }
}

void wait_for_block() { wait(State::at_block); }
void wait_for_warp() { wait(State::at_warp); }
unsigned char* warp_slot(int lane) { return &slots[size_t(running / 32 * 32 + lane) * 16]; }

}  // namespace emulator

extern "C" __attribute__((visibility("default"))) void set_seed(uint64_t seed) { emulator::seed = seed; }
