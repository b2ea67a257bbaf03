#pragma once
#include <pybind11/pybind11.h>

namespace rft::text {
void bind(pybind11::module_& m);
}
