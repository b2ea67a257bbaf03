// Python's side of the batch verifier: strings in, arrays of verdicts out, objects only when asked for.
#include "bind.h"

#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "batch.h"

namespace py = pybind11;

namespace rft::text {
namespace {

Text text_of(PyObject* o, const char* what, size_t index) {
  if (!PyUnicode_Check(o))
    throw py::type_error(std::string(what) + " " + std::to_string(index) + " is " + Py_TYPE(o)->tp_name + ", not str");
#if PY_VERSION_HEX < 0x030c0000
  if (PyUnicode_READY(o) != 0) throw py::error_already_set();
#endif
  return {PyUnicode_DATA(o), size_t(PyUnicode_GET_LENGTH(o)), uint8_t(PyUnicode_KIND(o))};
}

py::object own(PyObject* o) {
  if (!o) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(o);
}

// rftfast.verify.numbers.canonical
std::string canonical(const Rational& r) {
  std::string out = std::to_string(r.num);
  if (r.den == 1) return out;
  constexpr int64_t SCALE = 1000000000000;
  if (SCALE % r.den != 0) return out + "/" + std::to_string(r.den);
  const int64_t size = r.num < 0 ? -r.num : r.num;
  std::string tail = std::to_string(size % r.den * (SCALE / r.den));
  tail.insert(0, 12 - tail.size(), '0');
  tail.erase(tail.find_last_not_of('0') + 1);
  return (r.num < 0 ? "-" : "") + std::to_string(size / r.den) + "." + tail;
}

// No garbage collection while many records without cycles are made: it would find nothing, again and again.
class NoCollection {
 public:
  NoCollection() : was_on_(PyGC_Disable()) {}
  ~NoCollection() {
    if (was_on_) PyGC_Enable();
  }
  NoCollection(const NoCollection&) = delete;
  NoCollection& operator=(const NoCollection&) = delete;

 private:
  int was_on_;
};

// A batch with the strings it reads.
class Checked {
 public:
  Checked(py::sequence completions, py::sequence golds, py::object truncated, bool first, uint8_t markers, int mode,
          bool bare, bool with_keys, int threads)
      : completions_(completions), golds_(golds) {
    const size_t n = completions_.size();
    if (golds_.size() != n) throw std::invalid_argument("one gold for each completion");
    if (mode < 0 || mode > 2) throw std::invalid_argument("mode");
    batch_.policy = {first, markers, Policy::Mode(mode), bare};
    batch_.with_keys = with_keys;
    batch_.texts.reserve(n);
    batch_.gold_of.reserve(n);
    PyObject* known = nullptr;
    for (size_t i = 0; i < n; ++i) {
      batch_.texts.push_back(text_of(PyTuple_GET_ITEM(completions_.ptr(), i), "completion", i));
      PyObject* gold = PyTuple_GET_ITEM(golds_.ptr(), i);
      if (gold != known) {
        batch_.golds.push_back(text_of(gold, "gold", i));
        known = gold;
      }
      batch_.gold_of.push_back(uint32_t(batch_.golds.size() - 1));
    }
    if (!truncated.is_none()) {
      const py::tuple flags(truncated);
      if (flags.size() != n) throw std::invalid_argument("one truncated flag for each completion");
      for (const auto& flag : flags) {
        const int on = PyObject_IsTrue(flag.ptr());
        if (on < 0) throw py::error_already_set();
        batch_.truncated.push_back(uint8_t(on));
      }
    }
    py::gil_scoped_release release;
    batch_.run(threads);
  }

  py::bytes codes() const { return {reinterpret_cast<const char*>(batch_.codes.data()), batch_.codes.size()}; }

  py::list undecided() const {
    py::list out;
    for (size_t i = 0; i < batch_.codes.size(); ++i)
      if (batch_.codes[i] == UNDECIDED) out.append(i);
    return out;
  }

  // (answer or None, equations) of a decided completion.
  py::tuple details(size_t i) const {
    if (i >= batch_.items.size()) throw py::index_error();
    return py::make_tuple(answer(i), equations(i));
  }

  // A list of records of type `cls`, made as its constructor makes them; None where the verdict is left to Python.
  py::list verdicts(py::type cls, py::tuple names) const {
    const NoCollection pause;
    const size_t n = batch_.items.size();
    auto* type = reinterpret_cast<PyTypeObject*>(cls.ptr());
    const py::tuple nothing(0);
    const py::str verdict("verdict"), answer_name("answer"), equations_name("equations");
    py::list out(n);
    // Neighbours are samples of one question and mostly agree.
    py::object shown = py::none();
    Rational last;
    bool made = false;
    for (size_t i = 0; i < n; ++i) {
      if (batch_.codes[i] == UNDECIDED) {
        out[i] = py::none();
        continue;
      }
      const Item& item = batch_.items[i];
      if (item.has_answer && !(made && item.answer == last)) {
        shown = py::str(canonical(item.answer));
        last = item.answer;
        made = true;
      }
      py::object record = own(type->tp_new(type, nothing.ptr(), nullptr));
      // Past the frozen record's own __setattr__, as its constructor goes.
      const auto set = [&](const py::str& name, PyObject* value) {
        if (PyObject_GenericSetAttr(record.ptr(), name.ptr(), value) != 0) throw py::error_already_set();
      };
      set(verdict, PyTuple_GET_ITEM(names.ptr(), batch_.codes[i]));
      set(answer_name, item.has_answer ? shown.ptr() : Py_None);
      set(equations_name, equations(i).ptr());
      PyList_SET_ITEM(out.ptr(), i, record.release().ptr());
    }
    return out;
  }

  // The reference key of each completion; None where it is left to Python.
  py::list keys() const {
    if (!batch_.with_keys) throw std::invalid_argument("the batch was judged without keys");
    const size_t n = batch_.items.size();
    py::list out(n);
    for (size_t i = 0; i < n; ++i) {
      if (batch_.codes[i] == UNDECIDED) {
        out[i] = py::none();
        continue;
      }
      const Item& item = batch_.items[i];
      const uint8_t kind = batch_.texts[i].kind;
      const auto& keys = batch_.chunks[i / Batch::CHUNK].keys;
      py::object key =
          own(PyUnicode_FromKindAndData(kind, keys.data() + item.key_from, Py_ssize_t(item.key_bytes / kind)));
      PyList_SET_ITEM(out.ptr(), i, key.release().ptr());
    }
    return out;
  }

 private:
  py::object answer(size_t i) const {
    const Item& item = batch_.items[i];
    return item.has_answer ? py::object(py::str(canonical(item.answer))) : py::none();
  }
  py::tuple equations(size_t i) const {
    const Item& item = batch_.items[i];
    const Span* spans = batch_.chunks[i / Batch::CHUNK].equations.data() + item.first_equation;
    py::tuple out(item.n_equations);
    PyObject* text = PyTuple_GET_ITEM(completions_.ptr(), i);
    for (size_t e = 0; e < item.n_equations; ++e) {
      py::object part = own(PyUnicode_Substring(text, spans[e].from, spans[e].to));
      PyTuple_SET_ITEM(out.ptr(), e, part.release().ptr());
    }
    return out;
  }

  py::tuple completions_, golds_;
  Batch batch_;
};

}  // namespace

void bind(py::module_& m) {
  py::class_<Checked>(m, "Checked", "A judged batch of completions. Use it through rftfast.verify.native.")
      .def(py::init<py::sequence, py::sequence, py::object, bool, uint8_t, int, bool, bool, int>(),
           py::arg("completions"), py::arg("golds"), py::arg("truncated"), py::arg("first"), py::arg("markers"),
           py::arg("mode"), py::arg("bare"), py::arg("keys"), py::arg("threads"))
      .def("codes", &Checked::codes)
      .def("undecided", &Checked::undecided)
      .def("details", &Checked::details, py::arg("index"))
      .def("verdicts", &Checked::verdicts, py::arg("cls"), py::arg("names"))
      .def("keys", &Checked::keys);
}

}  // namespace rft::text
