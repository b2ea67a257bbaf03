// Python bindings of the CUDA kernels. Arrays come as addresses with their shapes, and the stream as its handle: this
// module knows nothing of torch. The CUDA runtime is linked in, so importing needs neither a toolkit nor a driver.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "kernels.h"

namespace py = pybind11;
using namespace rft::cuda;

namespace {
template <class T>
T* ptr(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Runs `call(stream)` on a device. The runtime linked in here keeps its own idea of the current one.
template <class Call>
void on(int device, uintptr_t stream, const char* what, Call call) {
  check(cudaSetDevice(device), what);
  check(call(reinterpret_cast<cudaStream_t>(stream)), what);
}
}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA kernels of rftfast. Use them through rftfast.ops, which checks shapes and types.";
  m.attr("archs") = RFT_CUDA_ARCHS;
  m.attr("EOS") = kEos;
  m.attr("TEXT") = kText;
  m.attr("LENGTH") = kLength;
  m.attr("NO_TOKEN") = kNoToken;

  m.def("devices", [] {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    return py::make_tuple(error == cudaSuccess ? count : 0, std::string(error == cudaSuccess ? "" : cudaGetErrorString(error)));
  }, "How many devices there are, and why none if that is an error's fault.");
  m.def("sample_workspace", &sample_workspace, py::arg("n"), py::arg("vocab"));
  m.def("sample",
        [](int device, uintptr_t stream, uintptr_t logits, int64_t logits_stride, int64_t rows, int32_t vocab, int dtype,
           int64_t n, uintptr_t row, uintptr_t key, uintptr_t step, uintptr_t sample_index, uint32_t noise_stream,
           uintptr_t temperature, uintptr_t top_k, uintptr_t top_p, uintptr_t min_p, uintptr_t token,
           uintptr_t logprob, uintptr_t workspace) {
          on(device, stream, "sample", [&](cudaStream_t s) {
            return sample({ptr<void>(logits), logits_stride, rows, vocab, DType(dtype), n, ptr<int64_t>(row),
                           ptr<uint64_t>(key), ptr<uint32_t>(step), ptr<uint32_t>(sample_index), noise_stream,
                           ptr<float>(temperature), ptr<int32_t>(top_k), ptr<float>(top_p), ptr<float>(min_p),
                           ptr<int64_t>(token), ptr<float>(logprob), ptr<void>(workspace)},
                          s);
          });
        });
  m.def("gumbel", [](int device, uintptr_t stream, uint64_t key, uint32_t step, uint32_t sample_index,
                     uint32_t noise_stream, int64_t n, uintptr_t out) {
    on(device, stream, "gumbel",
       [&](cudaStream_t s) { return gumbel_row({key, step, sample_index, noise_stream, n, ptr<float>(out)}, s); });
  });
  m.def("copy_pages", [](int device, uintptr_t stream, uintptr_t pool, uintptr_t copies, int64_t n, int64_t kv_heads,
                         int64_t head_dim, int64_t element_bytes) {
    on(device, stream, "copy_pages", [&](cudaStream_t s) {
      return copy_pages({ptr<void>(pool), ptr<int32_t>(copies), n, kv_heads, head_dim, element_bytes}, s);
    });
  });
  m.def("check_stops", [](int device, uintptr_t stream, uintptr_t token, uintptr_t drawn, uintptr_t limit,
                          uintptr_t tables, uintptr_t table, uintptr_t flags, int64_t n, int64_t vocab) {
    on(device, stream, "check_stops", [&](cudaStream_t s) {
      return check_stops({ptr<int64_t>(token), ptr<int32_t>(drawn), ptr<int32_t>(limit), ptr<uint8_t>(tables),
                          ptr<int32_t>(table), ptr<uint8_t>(flags), n, vocab},
                         s);
    });
  });
}
