#include "ask.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "errors.h"

extern char **environ;

namespace hsr {
namespace {

// -S: what follows needs no site packages, and starts in half the time.
const char *const kQuestion = R"(
import os, sys, sysconfig as s
soname = "libpython%d.%d%s.so.1.0" % (*sys.version_info[:2], sys.abiflags)
names = [n for n in (s.get_config_var("INSTSONAME"), s.get_config_var("LDLIBRARY"), soname) if n and ".so" in n]
places = [s.get_config_var("LIBDIR"), os.path.join(sys.base_prefix, "lib"), s.get_config_var("LIBPL")]
for place in places:
    for name in names:
        if place and os.path.exists(os.path.join(place, name)):
            sys.exit(print(os.path.join(place, name)))
)";

std::string output_of(char *const *words) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw Failure{HSR_ERROR_PYTHON, std::string("no pipe: ") + std::strerror(errno)};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    pid_t child = 0;
    const int error = posix_spawnp(&child, words[0], &actions, nullptr, words, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    std::string text;
    char chunk[512];
    for (ssize_t got; !error && ((got = read(ends[0], chunk, sizeof chunk)) > 0 || (got < 0 && errno == EINTR));)
        if (got > 0) text.append(chunk, static_cast<size_t>(got));
    close(ends[0]);
    if (error)
        throw Failure{HSR_ERROR_PYTHON, std::string("'") + words[0] + "' cannot be run: " + std::strerror(error) +
                                            "; name a Python interpreter in HSRUNTIME_PYTHON"};
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return text;
}

}  // namespace

std::string interpreter_beside_library() {
    Dl_info info;
    static const char here = 0;
    if (!dladdr(&here, &info) || !info.dli_fname) return "";
    const std::string path = info.dli_fname;
    const size_t packages = path.rfind("/site-packages/");
    if (packages == std::string::npos) return "";
    const size_t version = path.rfind('/', packages - 1);  // PREFIX/lib/python3.11/site-packages
    const size_t lib = version == std::string::npos ? version : path.rfind('/', version - 1);
    if (lib == std::string::npos) return "";
    const std::string interpreter = path.substr(0, lib) + "/bin/python3";
    return access(interpreter.c_str(), X_OK) == 0 ? interpreter : "";
}

std::string libpython_of(const std::string &interpreter) {
    std::string words[] = {interpreter, "-I", "-S", "-c", kQuestion};
    char *arguments[] = {&words[0][0], &words[1][0], &words[2][0], &words[3][0], &words[4][0], nullptr};
    std::string path = output_of(arguments);
    while (!path.empty() && path.back() == '\n') path.pop_back();
    if (path.empty())
        throw Failure{HSR_ERROR_PYTHON, "'" + interpreter + "' has no shared libpython; install it (on Debian " +
                                            "libpython3-dev) or name another interpreter in HSRUNTIME_PYTHON"};
    return path;
}

}  // namespace hsr
