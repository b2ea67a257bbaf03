// Work shared among the threads of torch's own OpenMP pool. This library links no OpenMP: a second pool on the same
// cores would spin against torch's. Python hands over the addresses of GOMP_parallel and omp_get_thread_num found in
// the runtime torch has loaded; without them everything runs on the calling thread.
#pragma once
#include <atomic>
#include <cstdint>

namespace rft {

void set_openmp(uintptr_t gomp_parallel, uintptr_t omp_get_thread_num);
void set_threads(int n);
int threads();

// Runs body(context, thread number) once on each thread.
void run_on_threads(void (*body)(void*, int), void* context);

// Calls f(i) for i in [0, n), each i once, handed out one by one. f must not throw.
template <class F>
void parallel_for(int64_t n, const F& f) {
  if (n <= 1 || threads() == 1) {
    for (int64_t i = 0; i < n; ++i) f(i);
    return;
  }
  struct Context {
    std::atomic<int64_t> next;
    int64_t n;
    const F* f;
  } context{{0}, n, &f};
  run_on_threads(
      [](void* p, int) {
        auto* c = static_cast<Context*>(p);
        for (int64_t i; (i = c->next.fetch_add(1, std::memory_order_relaxed)) < c->n;) (*c->f)(i);
      },
      &context);
}

}  // namespace rft
