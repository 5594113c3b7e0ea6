// Versioned structs: what a caller of another version hands over, as this version knows it.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>

#include "errors.h"

namespace hsr {

// A copy in which fields that the caller's version lacks are zero. Throws Failure(HSR_ERROR_ARGUMENT) for a struct_size
// that no version has, and where a newer caller uses fields that are unknown here.
template <typename Struct>
Struct known_part(const Struct *given, const char *name) {
    if (!given) throw Failure{HSR_ERROR_ARGUMENT, std::string(name) + " is NULL"};
    const size_t size = given->struct_size;
    if (size < sizeof(size_t) || size % alignof(Struct) || size > 4096)
        throw Failure{HSR_ERROR_ARGUMENT, std::string(name) + "'s struct_size is " + std::to_string(size) +
                                              ", expected " + std::to_string(sizeof(Struct)) + "; set it to sizeof"};
    const char *bytes = reinterpret_cast<const char *>(given);
    if (size > sizeof(Struct) && std::any_of(bytes + sizeof(Struct), bytes + size, [](char byte) { return byte != 0; }))
        throw Failure{HSR_ERROR_ARGUMENT, std::string(name) + " uses fields that came after version " HSR_VERSION
                                              "; install a newer hsruntime"};
    Struct known = {};
    std::memcpy(&known, given, std::min(size, sizeof(Struct)));
    return known;
}

}  // namespace hsr
