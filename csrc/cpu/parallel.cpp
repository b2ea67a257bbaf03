#include "parallel.h"

namespace rft {
namespace {
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
using ThreadNum = int (*)();
GompParallel gomp_parallel = nullptr;
ThreadNum thread_num = nullptr;
int n_threads = 1;

struct Task {
  void (*body)(void*, int);
  void* context;
};
}  // namespace

void set_openmp(uintptr_t parallel, uintptr_t num) {
  gomp_parallel = reinterpret_cast<GompParallel>(parallel);
  thread_num = reinterpret_cast<ThreadNum>(num);
}
void set_threads(int n) { n_threads = n < 1 ? 1 : n; }
int threads() { return gomp_parallel ? n_threads : 1; }

void run_on_threads(void (*body)(void*, int), void* context) {
  if (threads() == 1) {
    body(context, 0);
    return;
  }
  Task task{body, context};
  gomp_parallel(
      [](void* p) {
        auto* t = static_cast<Task*>(p);
        t->body(t->context, thread_num());
      },
      &task, unsigned(n_threads), 0);
}

}  // namespace rft
