// What a call has to say when it fails: an exception inside, a status and a thread's own line outside.
#pragma once

#include <exception>
#include <string>

#include "hsruntime.h"

namespace hsr {

struct Failure {
    hsr_status status;
    std::string message;
};

// Keeps the line for hsr_last_error.
hsr_status failed(hsr_status status, const char *message) noexcept;

// The border: no exception passes.
template <typename Call>
hsr_status guarded(Call &&call) noexcept {
    try {
        call();
        return HSR_OK;
    } catch (const Failure &failure) {
        return failed(failure.status, failure.message.c_str());
    } catch (const std::exception &error) {
        return failed(HSR_ERROR_INTERNAL, error.what());
    } catch (...) {
        return failed(HSR_ERROR_INTERNAL, "an exception of an unknown kind");
    }
}

}  // namespace hsr
