#include "interpreter.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#include "ask.h"
#include "errors.h"
#include "python_api.h"

#ifndef HSR_PYTHON
#define HSR_PYTHON ""
#endif

namespace hsr {

PythonApi py;

namespace {

std::mutex starting;
bool started = false;

[[noreturn]] void no_python(const std::string &message) { throw Failure{HSR_ERROR_PYTHON, message}; }

bool resolve(void *library) {
#define HSR_LOOK_UP(result, name, arguments)                                             \
    py.name = reinterpret_cast<decltype(py.name)>(dlsym(library, #name));                \
    if (!py.name) return false;
    HSR_PYTHON_FUNCTIONS(HSR_LOOK_UP)
#undef HSR_LOOK_UP
    py.none = static_cast<PyObject *>(dlsym(library, "_Py_NoneStruct"));
    return py.none != nullptr;
}

int find_libpython(dl_phdr_info *info, size_t, void *found) {
    const char *slash = std::strrchr(info->dlpi_name, '/');
    const char *name = slash ? slash + 1 : info->dlpi_name;
    if (std::strncmp(name, "libpython3.", 11) != 0) return 0;
    *static_cast<std::string *>(found) = info->dlpi_name;
    return 1;
}

// Python that is in the process: the program itself, or a library, made visible to extension modules.
void *loaded_python() {
    if (dlsym(RTLD_DEFAULT, "Py_IsInitialized")) return RTLD_DEFAULT;
    std::string path;
    dl_iterate_phdr(find_libpython, &path);
    return path.empty() ? nullptr : dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}

std::string interpreter_path(const hsr_open_options &options) {
    if (options.python) return options.python;
    const char *named = std::getenv("HSRUNTIME_PYTHON");
    if (named && *named) return named;
    const std::string beside = interpreter_beside_library();
    return beside.empty() ? HSR_PYTHON : beside;
}

void *load_python(const hsr_open_options &options, const std::string &interpreter) {
    if (interpreter.empty() && !options.python_library)
        no_python("no Python is named; set HSRUNTIME_PYTHON to the interpreter that hsruntime is installed for");
    const std::string path = options.python_library ? options.python_library : libpython_of(interpreter);
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);  // extension modules look symbols up globally
    if (!library) no_python(std::string("libpython cannot be loaded: ") + dlerror());
    return library;
}

void initialise(const std::string &interpreter) {
    if (!interpreter.empty()) {
        // Kept: Python reads it again. From its name it finds the environment's packages, as that interpreter does.
        static const wchar_t *program = py.Py_DecodeLocale(interpreter.c_str(), nullptr);
        if (program) py.Py_SetProgramName(program);
    }
    py.Py_InitializeEx(0);
    py.PyEval_SaveThread();  // whoever calls takes the GIL for itself
}

}  // namespace

void start_python(const hsr_open_options &options) {
    const std::lock_guard<std::mutex> lock(starting);
    if (started) return;
    void *library = loaded_python();
    const bool ours = library == nullptr;
    std::string interpreter;
    if (ours) {
        interpreter = interpreter_path(options);
        library = load_python(options, interpreter);
    }
    if (!resolve(library)) no_python("this libpython lacks functions of the stable ABI; Python 3.11 or newer is needed");
    if (!py.Py_IsInitialized()) initialise(ours ? interpreter : interpreter_path(options));
    started = true;
}

}  // namespace hsr
