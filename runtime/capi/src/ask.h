// Which interpreter lies beside this library, and which libpython belongs to an interpreter.
#pragma once

#include <string>

namespace hsr {

// bin/python3 of the environment in whose packages this library lies; "" if it lies elsewhere.
std::string interpreter_beside_library();

// Asks the interpreter, in a process of its own. Throws Failure(HSR_ERROR_PYTHON).
std::string libpython_of(const std::string &interpreter);

}  // namespace hsr
