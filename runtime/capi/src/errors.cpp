#include "errors.h"

#include <cstring>

namespace hsr {
namespace {
thread_local std::string last_error;
}

hsr_status failed(hsr_status status, const char *message) noexcept {
    try {
        last_error = message;
    } catch (...) {
        last_error.clear();  // no memory for the line; the status still tells
    }
    return status;
}

}  // namespace hsr

extern "C" {

const char *hsr_last_error(void) { return hsr::last_error.c_str(); }

uint32_t hsr_abi_version(void) { return HSR_ABI_VERSION; }

const char *hsr_version(void) { return HSR_VERSION; }

const char *hsr_status_name(hsr_status status) {
    static const char *const names[] = {
        "HSR_OK",           "HSR_ERROR_ARGUMENT", "HSR_ERROR_PYTHON", "HSR_ERROR_BUNDLE",
        "HSR_ERROR_REQUEST", "HSR_ERROR_BACKEND",  "HSR_ERROR_DEVICE", "HSR_ERROR_MEMORY",
        "HSR_CANCELLED",    "HSR_ERROR_OTHER",    "HSR_ERROR_INTERNAL",
    };
    const auto index = static_cast<size_t>(status);
    return index < sizeof names / sizeof *names ? names[index] : "unknown";
}
}
