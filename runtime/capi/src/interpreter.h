// The one interpreter: the process's own if it has one, else one that is started here and stays.
#pragma once

#include "hsruntime.h"

namespace hsr {

// Fills `py`. Throws Failure(HSR_ERROR_PYTHON). Not to be called with a lock held that a holder of the GIL may want.
void start_python(const hsr_open_options &options);

}  // namespace hsr
