// Functions of csrc that no kernel returns, as the host compiler sees them, for ctypes.
#include "../../../csrc/sampling.h"

extern "C" __attribute__((visibility("default"))) void scalar_weights(const float* d, int64_t n, double* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = double(rft::units(rft::weight(d[i])));
}
