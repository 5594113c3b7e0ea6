// The functions of CPython's stable ABI (3.11) that this library calls, looked up when it runs: nothing is linked, no
// header of Python's is needed, and one build serves every interpreter.
#pragma once

#include <cstddef>

namespace hsr {

struct PyObject;  // opaque; all access is by function
struct PyThreadState;

struct PyMethodDef {
    const char *name;
    PyObject *(*call)(PyObject *self, PyObject *arguments);
    int flags;
    const char *doc;
};
constexpr int kMethVarargs = 1;
constexpr int kBufferRead = 0x100;

#define HSR_PYTHON_FUNCTIONS(F)                                              \
    F(int, Py_IsInitialized, ())                                             \
    F(void, Py_InitializeEx, (int signal_handlers))                          \
    F(void, Py_SetProgramName, (const wchar_t *))                            \
    F(wchar_t *, Py_DecodeLocale, (const char *, size_t *))                  \
    F(void, Py_IncRef, (PyObject *))                                         \
    F(void, Py_DecRef, (PyObject *))                                         \
    F(int, PyGILState_Ensure, ())                                            \
    F(void, PyGILState_Release, (int))                                       \
    F(PyThreadState *, PyEval_SaveThread, ())                                \
    F(void, PyEval_RestoreThread, (PyThreadState *))                         \
    F(PyObject *, PyImport_ImportModule, (const char *))                     \
    F(PyObject *, PyObject_GetAttrString, (PyObject *, const char *))        \
    F(PyObject *, PyObject_CallObject, (PyObject *, PyObject *))             \
    F(PyObject *, PyObject_Str, (PyObject *))                                \
    F(void, PyErr_Fetch, (PyObject **, PyObject **, PyObject **))            \
    F(void, PyErr_Clear, ())                                                 \
    F(PyObject *, PyTuple_New, (std::ptrdiff_t))                             \
    F(int, PyTuple_SetItem, (PyObject *, std::ptrdiff_t, PyObject *))        \
    F(PyObject *, PyTuple_GetItem, (PyObject *, std::ptrdiff_t))             \
    F(std::ptrdiff_t, PyTuple_Size, (PyObject *))                            \
    F(PyObject *, PyLong_FromLongLong, (long long))                          \
    F(PyObject *, PyLong_FromUnsignedLongLong, (unsigned long long))         \
    F(long, PyLong_AsLong, (PyObject *))                                     \
    F(PyObject *, PyBool_FromLong, (long))                                   \
    F(PyObject *, PyFloat_FromDouble, (double))                              \
    F(double, PyFloat_AsDouble, (PyObject *))                                \
    F(PyObject *, PyBytes_FromStringAndSize, (const char *, std::ptrdiff_t)) \
    F(char *, PyBytes_AsString, (PyObject *))                                \
    F(PyObject *, PyUnicode_AsUTF8String, (PyObject *))                      \
    F(PyObject *, PyMemoryView_FromMemory, (char *, std::ptrdiff_t, int))    \
    F(PyObject *, PyCFunction_NewEx, (PyMethodDef *, PyObject *, PyObject *)) \
    F(PyObject *, PyCapsule_New, (void *, const char *, void (*)(PyObject *))) \
    F(void *, PyCapsule_GetPointer, (PyObject *, const char *))              \
    F(int, PyCapsule_SetName, (PyObject *, const char *))

struct PythonApi {
#define HSR_FIELD(result, name, arguments) result(*name) arguments = nullptr;
    HSR_PYTHON_FUNCTIONS(HSR_FIELD)
#undef HSR_FIELD
    PyObject *none = nullptr;
};

// Filled by start_python.
extern PythonApi py;

// Owns one reference; only with the GIL held.
class Ref {
  public:
    Ref() = default;
    explicit Ref(PyObject *owned) : object_(owned) {}
    Ref(Ref &&other) noexcept : object_(other.release()) {}
    Ref &operator=(Ref &&other) noexcept {
        PyObject *before = object_;
        object_ = other.release();
        if (before) py.Py_DecRef(before);
        return *this;
    }
    ~Ref() {
        if (object_) py.Py_DecRef(object_);
    }
    PyObject *get() const { return object_; }
    PyObject *release() {
        PyObject *object = object_;
        object_ = nullptr;
        return object;
    }
    explicit operator bool() const { return object_ != nullptr; }

  private:
    PyObject *object_ = nullptr;
};

// The GIL while it lives, whether or not this thread holds it already.
class Gil {
  public:
    Gil() : state_(py.PyGILState_Ensure()) {}
    ~Gil() { py.PyGILState_Release(state_); }
    Gil(const Gil &) = delete;
    Gil &operator=(const Gil &) = delete;

  private:
    int state_;
};

// Others may have the GIL while it lives.
class WithoutGil {
  public:
    WithoutGil() : thread_(py.PyEval_SaveThread()) {}
    ~WithoutGil() { py.PyEval_RestoreThread(thread_); }
    WithoutGil(const WithoutGil &) = delete;
    WithoutGil &operator=(const WithoutGil &) = delete;

  private:
    PyThreadState *thread_;
};

}  // namespace hsr
