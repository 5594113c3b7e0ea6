// C's values as Python's and back. All of it with the GIL held; a failed conversion throws Failure(HSR_ERROR_INTERNAL).
#pragma once

#include <initializer_list>
#include <vector>

#include "errors.h"
#include "python_api.h"

namespace hsr {

// Throws what Python's error says.
[[noreturn]] void throw_python_error();

Ref checked(PyObject *owned);
Ref none();
Ref number(long long value);
Ref real(double value);
Ref truth(bool value);
Ref bytes(const char *text);  // None for NULL
Ref tuple(std::initializer_list<PyObject *> owned);
Ref byte_strings(const char *const *texts, size_t count, const char *name);
Ref seeds(const uint64_t *values, size_t count);
Ref file(const hsr_file &given, const char *name);  // a memoryview of the caller's bytes, or None

// Options by their names in hsruntime.options: pairs (name, value). What is zero or empty is not asked for.
class Options {
  public:
    Options &with(const char *name, Ref value);
    Ref pairs();

  private:
    std::vector<Ref> pairs_;
};

// (memoryview, shape), or None for NULL. Throws Failure(HSR_ERROR_ARGUMENT) for what is not float32 on the CPU.
Ref borrowed(const DLTensor *tensor, const char *name);

// Calls a function of hsruntime.embedded; what it answers. Throws Failure with the status and line that it tells.
Ref call_embedded(const char *function, Ref arguments);

// Takes the tensor out of a capsule; NULL for None.
DLManagedTensor *tensor_of(PyObject *capsule);

}  // namespace hsr
