// Compiled once per instruction set with RFT_ISA set to its name.
#include "kernels.h"

#include "attention.h"
#include "elementwise.h"
#include "sampler.h"

#define RFT_STRING_(x) #x
#define RFT_STRING(x) RFT_STRING_(x)

namespace rft {
namespace RFT_ISA {

extern const KernelTable table;
const KernelTable table = {RFT_STRING(RFT_ISA), rms_norm, swiglu, rope_write_kv, copy_pages, attention,
                           sample, gumbel_row, weights_row};

}  // namespace RFT_ISA
}  // namespace rft
