#include <cstring>

#include "kernels.h"
#include "tiles.h"

#ifdef RFT_TILES
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

#ifdef RFT_TILES
namespace {
bool ask_for_tiles() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool amx_bf16 = d >> 22 & 1, amx_tile = d >> 24 & 1;
  if (!amx_bf16 || !amx_tile || kernels("avx512_bf16") == nullptr) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // Linux's ARCH_REQ_XCOMP_PERM, for the whole process
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
}  // namespace

bool tiles_available() {
  static const bool available = ask_for_tiles();
  return available;
}
#else
bool tiles_available() { return false; }
#endif

}  // namespace rft
