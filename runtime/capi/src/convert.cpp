#include "convert.h"

#include <climits>
#include <cstring>
#include <string>

namespace hsr {

void throw_python_error() {
    PyObject *kind = nullptr, *value = nullptr, *trace = nullptr;
    py.PyErr_Fetch(&kind, &value, &trace);
    const Ref owned_kind(kind), owned_value(value), owned_trace(trace);
    std::string message = "Python failed without an error";
    if (PyObject *about = value ? value : kind) {
        const Ref text(py.PyObject_Str(about));
        const Ref encoded(text ? py.PyUnicode_AsUTF8String(text.get()) : nullptr);
        if (encoded) message = py.PyBytes_AsString(encoded.get());
        py.PyErr_Clear();
    }
    throw Failure{HSR_ERROR_INTERNAL, message};
}

Ref checked(PyObject *owned) {
    if (!owned) throw_python_error();
    return Ref(owned);
}

Ref none() {
    py.Py_IncRef(py.none);
    return Ref(py.none);
}

Ref number(long long value) { return checked(py.PyLong_FromLongLong(value)); }
Ref real(double value) { return checked(py.PyFloat_FromDouble(value)); }
Ref truth(bool value) { return checked(py.PyBool_FromLong(value)); }

Ref bytes(const char *text) {
    if (!text) return none();
    return checked(py.PyBytes_FromStringAndSize(text, static_cast<std::ptrdiff_t>(std::strlen(text))));
}

Ref tuple(std::initializer_list<PyObject *> owned) {
    Ref result = checked(py.PyTuple_New(static_cast<std::ptrdiff_t>(owned.size())));
    std::ptrdiff_t place = 0;
    for (PyObject *item : owned) py.PyTuple_SetItem(result.get(), place++, item);
    return result;
}

namespace {

constexpr size_t kMostPictures = 65536;  // far beyond any bundle's batch, and an allocation that fails nowhere

void check_count(size_t count, const char *name) {
    if (count > kMostPictures)
        throw Failure{HSR_ERROR_ARGUMENT, std::string(name) + "'s count is " + std::to_string(count) + ", more than " +
                                              std::to_string(kMostPictures)};
}

}  // namespace

Ref byte_strings(const char *const *texts, size_t count, const char *name) {
    check_count(count, name);
    if (count && !texts) throw Failure{HSR_ERROR_ARGUMENT, std::string(name) + " is NULL, its count is not 0"};
    Ref result = checked(py.PyTuple_New(static_cast<std::ptrdiff_t>(count)));
    for (size_t i = 0; i < count; ++i) {
        if (!texts[i]) throw Failure{HSR_ERROR_ARGUMENT, std::string(name) + "[" + std::to_string(i) + "] is NULL"};
        py.PyTuple_SetItem(result.get(), static_cast<std::ptrdiff_t>(i), bytes(texts[i]).release());
    }
    return result;
}

Ref seeds(const uint64_t *values, size_t count) {
    check_count(count, "seeds");
    if (count && !values) throw Failure{HSR_ERROR_ARGUMENT, "seeds is NULL, its count is not 0"};
    Ref result = checked(py.PyTuple_New(static_cast<std::ptrdiff_t>(count)));
    for (size_t i = 0; i < count; ++i)
        py.PyTuple_SetItem(result.get(), static_cast<std::ptrdiff_t>(i),
                           checked(py.PyLong_FromUnsignedLongLong(values[i])).release());
    return result;
}

Ref file(const hsr_file &given, const char *name) {
    if (!given.data && !given.size) return none();
    if (!given.data || !given.size || given.size > PTRDIFF_MAX)
        throw Failure{HSR_ERROR_ARGUMENT, std::string(name) + " has " + std::to_string(given.size) + " bytes" +
                                              (given.data ? "" : ", and its data is NULL")};
    char *first = static_cast<char *>(const_cast<void *>(given.data));  // read alone, as the flag says
    return checked(py.PyMemoryView_FromMemory(first, static_cast<std::ptrdiff_t>(given.size), kBufferRead));
}

Options &Options::with(const char *name, Ref value) {
    Ref key = bytes(name);
    pairs_.push_back(tuple({key.release(), value.release()}));
    return *this;
}

Ref Options::pairs() {
    Ref all = checked(py.PyTuple_New(static_cast<std::ptrdiff_t>(pairs_.size())));
    std::ptrdiff_t place = 0;
    for (Ref &pair : pairs_) py.PyTuple_SetItem(all.get(), place++, pair.release());
    return all;
}

namespace {

// Numbers in it. Throws Failure for what is not contiguous.
int64_t contiguous_count(const DLTensor &tensor, const std::string &name) {
    int64_t count = 1;
    for (int32_t axis = tensor.ndim - 1; axis >= 0; --axis) {
        const int64_t extent = tensor.shape[axis];
        if (extent < 0 || (extent && count > INT64_MAX / 8 / extent))
            throw Failure{HSR_ERROR_ARGUMENT, name + "'s shape cannot be"};
        if (tensor.strides && extent > 1 && tensor.strides[axis] != count)
            throw Failure{HSR_ERROR_ARGUMENT, name + " is not contiguous; copy it first"};
        count *= extent;
    }
    return count;
}

}  // namespace

Ref borrowed(const DLTensor *tensor, const char *name) {
    if (!tensor) return none();
    if (tensor->device.device_type != kDLCPU)
        throw Failure{HSR_ERROR_ARGUMENT, std::string(name) + " does not lie on the CPU; copy it there first"};
    if (tensor->dtype.code != kDLFloat || tensor->dtype.bits != 32 || tensor->dtype.lanes != 1)
        throw Failure{HSR_ERROR_ARGUMENT, std::string(name) + " is not float32"};
    if (!tensor->data || !tensor->shape || tensor->ndim < 1 || tensor->ndim > 8)
        throw Failure{HSR_ERROR_ARGUMENT, std::string(name) + " has no data, no shape, or not 1 to 8 dimensions"};
    const int64_t count = contiguous_count(*tensor, name);
    Ref shape = checked(py.PyTuple_New(tensor->ndim));
    for (int32_t axis = 0; axis < tensor->ndim; ++axis)
        py.PyTuple_SetItem(shape.get(), axis, number(tensor->shape[axis]).release());
    char *first = static_cast<char *>(tensor->data) + tensor->byte_offset;
    Ref view = checked(py.PyMemoryView_FromMemory(first, static_cast<std::ptrdiff_t>(count * 4), kBufferRead));
    return tuple({view.release(), shape.release()});
}

Ref call_embedded(const char *function, Ref arguments) {
    const Ref module(py.PyImport_ImportModule("hsruntime.embedded"));
    if (!module) {
        try {
            throw_python_error();
        } catch (const Failure &failure) {
            throw Failure{HSR_ERROR_PYTHON, "this Python cannot import hsruntime: " + failure.message +
                                                "; set HSRUNTIME_PYTHON to the interpreter it is installed for"};
        }
    }
    const Ref callee = checked(py.PyObject_GetAttrString(module.get(), function));
    const Ref answer = checked(py.PyObject_CallObject(callee.get(), arguments.get()));
    const long status = py.PyLong_AsLong(py.PyTuple_GetItem(answer.get(), 0));
    if (status != HSR_OK) {
        const Ref line(py.PyUnicode_AsUTF8String(py.PyTuple_GetItem(answer.get(), 1)));
        py.PyErr_Clear();  // a message with a lone surrogate is no UTF-8
        const char *message = line ? py.PyBytes_AsString(line.get()) : "an error whose message is not text";
        throw Failure{static_cast<hsr_status>(status), message};
    }
    PyObject *value = py.PyTuple_GetItem(answer.get(), 2);
    py.Py_IncRef(value);
    return Ref(value);
}

DLManagedTensor *tensor_of(PyObject *capsule) {
    if (capsule == py.none) return nullptr;
    auto *tensor = static_cast<DLManagedTensor *>(py.PyCapsule_GetPointer(capsule, "dltensor"));
    if (!tensor) throw_python_error();
    py.PyCapsule_SetName(capsule, "used_dltensor");  // it is the caller's now; the capsule no longer frees it
    return tensor;
}

}  // namespace hsr
