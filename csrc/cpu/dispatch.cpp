#include <cstring>

#include "kernels.h"

namespace rft {
namespace portable { extern const KernelTable table; }
#ifdef RFT_HAVE_avx2
namespace avx2 { extern const KernelTable table; }
namespace avx512 { extern const KernelTable table; }
namespace avx512_bf16 { extern const KernelTable table; }
#endif

const KernelTable* kernels(const char* name) {
  const KernelTable* can_run[4];
  int n = 0;
#ifdef RFT_HAVE_avx2
  __builtin_cpu_init();
  const bool has2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has512 = has2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has512 && __builtin_cpu_supports("avx512bf16")) can_run[n++] = &avx512_bf16::table;
  if (has512) can_run[n++] = &avx512::table;
  if (has2) can_run[n++] = &avx2::table;
#endif
  can_run[n++] = &portable::table;
  if (name == nullptr || *name == 0) return can_run[0];
  for (int i = 0; i < n; ++i)
    if (std::strcmp(can_run[i]->name, name) == 0) return can_run[i];
  return nullptr;
}

}  // namespace rft
