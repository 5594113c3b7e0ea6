# Sourced: `ensure_tools` sees to the compilers, checkers and the browser that tests of the C library, the C++ example and
# the server's page use. Where they cannot be installed, those tests are skipped and say so.

TOOL_PACKAGES="g++ cmake make pkg-config strace valgrind chromium libpng-dev"

missing_packages() {
    local package
    for package in $TOOL_PACKAGES; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
    done
}

ensure_tools() {
    command -v dpkg-query >/dev/null || return 0
    local missing
    missing=$(missing_packages | xargs)
    [ -z "$missing" ] && return
    if [ "$(id -u)" != 0 ]; then
        say "some tests will be skipped; for all of them: sudo apt-get install $missing"
        return
    fi
    say "installing $missing"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
        say "apt-get failed; some tests will be skipped"
}
