// An open bundle, and the queue of those who call it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

#include "python_api.h"

struct hsr_session {
    hsr::PyObject *object = nullptr;  // a hsruntime.Session; owned
    std::string description;
    std::mutex guard;
    std::condition_variable moved;
    uint64_t next = 0;
    uint64_t serving = 0;
    std::thread::id caller;  // of the call under way
};

namespace hsr {

// A caller's turn: first come, first served, for a plain mutex promises no order. With the GIL held; waits without it.
class Turn {
  public:
    // Throws Failure(HSR_ERROR_ARGUMENT) in a session's own callback, which would wait for itself.
    explicit Turn(hsr_session &session);
    ~Turn();
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;

  private:
    hsr_session &session_;
};

}  // namespace hsr
