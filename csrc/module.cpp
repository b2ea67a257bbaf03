// Python bindings. Arrays come as addresses with their shapes: this module knows nothing of torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/tiles.h"
#include "text/bind.h"

namespace py = pybind11;
using namespace rft;

namespace {
const KernelTable* selected = kernels(nullptr);

template <class T>
T* ptr(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const char* name : {"amx", "avx512_bf16", "avx512", "avx2", "portable"})
    if (kernels(name)) names.emplace_back(name);
  return names;
}

void set_isa(const std::string& name) {
  const KernelTable* t = kernels(name.c_str());
  if (!t) throw std::invalid_argument("instruction set '" + name + "' is unknown or this machine lacks it");
  selected = t;
}
}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "CPU kernels of rftfast. Use them through rftfast.ops, which checks shapes and types.";
  m.def("isa_names", &isa_names, "Instruction sets that run here, best first.");
  m.def("isa", [] { return std::string(selected->name); }, "The instruction set in use.");
  m.def("set_isa", &set_isa, py::arg("name"), "Choose an instruction set (for tests and comparisons).");
  m.def("set_openmp", &set_openmp, py::arg("gomp_parallel"), py::arg("omp_get_thread_num"));
  m.def("set_threads", &set_threads, py::arg("n"));
  m.def("threads", &threads);

  m.def("rms_norm", [](uintptr_t x, uintptr_t delta, uintptr_t weight, uintptr_t out, int64_t rows, int64_t channels,
                       float eps, int dtype) {
    py::gil_scoped_release release;
    selected->rms_norm({ptr<float>(x), ptr<void>(delta), ptr<void>(weight), ptr<void>(out), rows, channels, eps,
                        DType(dtype)});
  });
  m.def("swiglu", [](uintptr_t gate_up, uintptr_t out, int64_t rows, int64_t channels, int dtype) {
    py::gil_scoped_release release;
    selected->swiglu({ptr<void>(gate_up), ptr<void>(out), rows, channels, DType(dtype)});
  });
  m.def("rope_write_kv",
        [](uintptr_t qkv, int64_t qkv_stride, uintptr_t cos, uintptr_t sin, uintptr_t positions, uintptr_t slots,
           uintptr_t pool, uintptr_t q_norm, uintptr_t k_norm, int64_t rows, int64_t heads, int64_t kv_heads,
           int64_t head_dim, float eps, int dtype) {
          py::gil_scoped_release release;
          selected->rope_write_kv({ptr<void>(qkv), qkv_stride, ptr<float>(cos), ptr<float>(sin),
                                   ptr<int32_t>(positions), ptr<int64_t>(slots), ptr<void>(pool), ptr<void>(q_norm),
                                   ptr<void>(k_norm), rows, heads, kv_heads, head_dim, eps, DType(dtype)});
        });
  m.def("copy_pages", [](uintptr_t pool, uintptr_t copies, int64_t n, int64_t kv_heads, int64_t head_dim, int dtype) {
    py::gil_scoped_release release;
    selected->copy_pages({ptr<void>(pool), ptr<int32_t>(copies), n, kv_heads, head_dim, DType(dtype)});
  });
  m.def("attention",
        [](uintptr_t q, int64_t q_stride, uintptr_t out, uintptr_t pool, uintptr_t tables, uintptr_t row_table,
           uintptr_t lens, uintptr_t tiles, uintptr_t segments, int64_t table_stride, int64_t n_tiles, int64_t heads,
           int64_t kv_heads, int64_t head_dim, float scale, int dtype) {
          py::gil_scoped_release release;
          selected->attention({ptr<void>(q), q_stride, ptr<void>(out), ptr<void>(pool), ptr<int32_t>(tables),
                               ptr<int32_t>(row_table), ptr<int32_t>(lens), ptr<int32_t>(tiles),
                               ptr<int32_t>(segments), table_stride, n_tiles, heads, kv_heads, head_dim, scale,
                               DType(dtype)});
        });
  m.def("sample",
        [](uintptr_t logits, int64_t logits_stride, int64_t vocab, int dtype, int64_t n, uintptr_t row, uintptr_t key,
           uintptr_t step, uintptr_t sample, uint32_t stream, uintptr_t temperature, uintptr_t top_k, uintptr_t top_p,
           uintptr_t min_p, uintptr_t token, uintptr_t logprob) {
          py::gil_scoped_release release;
          selected->sample({ptr<void>(logits), logits_stride, vocab, DType(dtype), n, ptr<int64_t>(row),
                            ptr<uint64_t>(key), ptr<uint32_t>(step), ptr<uint32_t>(sample), stream,
                            ptr<float>(temperature), ptr<int32_t>(top_k), ptr<float>(top_p), ptr<float>(min_p),
                            ptr<int64_t>(token), ptr<float>(logprob)});
        });
  m.def("gumbel", [](uint64_t key, uint32_t step, uint32_t sample, uint32_t stream, int64_t n, uintptr_t out) {
    py::gil_scoped_release release;
    selected->gumbel(key, step, sample, stream, n, ptr<float>(out));
  });
  m.def("weights", [](uintptr_t d, int64_t n, uintptr_t out) {
    py::gil_scoped_release release;
    selected->weights(ptr<float>(d), n, ptr<double>(out));
  });
  m.def("tiles_available", &tiles_available, "Whether matrix products can run on tiles (AMX) here.");
  m.def("pack_tiles", [](uintptr_t weight, uintptr_t packed, int64_t outputs, int64_t channels) {
    py::gil_scoped_release release;
    pack_tiles(ptr<uint16_t>(weight), ptr<uint16_t>(packed), outputs, channels);
  });
  m.def("tile_linear", [](uintptr_t x, int64_t x_stride, uintptr_t packed, uintptr_t bias, uintptr_t out, int64_t rows,
                          int64_t outputs, int64_t channels) {
    if (!tiles_available()) throw std::runtime_error("this machine has no tiles");
    py::gil_scoped_release release;
    tile_linear(ptr<uint16_t>(x), x_stride, ptr<uint16_t>(packed), ptr<uint16_t>(bias), ptr<uint16_t>(out), rows, outputs,
                channels);
  });
  text::bind(m);
}
