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
#ifdef RFT_HAVE_amx
namespace amx { extern const KernelTable table; }
#endif

#ifdef RFT_HAVE_avx2
namespace {
bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
}  // namespace
#endif

const KernelTable* kernels(const char* name) {
  const KernelTable* can_run[5];
  int n = 0;
#ifdef RFT_HAVE_amx
  if (tiles_available()) can_run[n++] = &amx::table;
#endif
#ifdef RFT_HAVE_avx2
  if (has_avx512_bf16()) can_run[n++] = &avx512_bf16::table;
  if (has_avx512()) can_run[n++] = &avx512::table;
  if (has_avx2()) can_run[n++] = &avx2::table;
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
  if (!amx_bf16 || !amx_tile || !has_avx512_bf16()) return false;
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
