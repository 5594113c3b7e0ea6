# Sourced from the repository's root: `ensure_environment` leaves a virtual environment in .venv with this checkout and
# everything that building, running and testing on a CPU needs, at the versions in requirements/cpu.txt.

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "found $(python3 --version 2>/dev/null || echo 'no python3'), expected Python 3.11 or newer; install it"
}

# What the environment was made from: a change of any of it means installing again.
environment_recipe() {
    echo "$PWD"
    cat pyproject.toml requirements/cpu.txt
}

# A checkout that was moved keeps an environment whose scripts name the interpreter at the old place.
environment_belongs_here() {
    local here
    here=$(pwd -P)/.venv/
    .venv/bin/python -m pip --version >/dev/null 2>&1 &&
        grep -qsF -e "!$here" -e " $here" -e "\"$here" .venv/bin/pip
}

make_environment() {
    local python
    python=$(find_python)
    say "virtual environment in .venv ($("$python" --version))"
    "$python" -m venv --clear .venv ||
        fail "no virtual environment could be made; on Debian and Ubuntu: apt-get install python3-venv"
}

ensure_environment() {
    environment_recipe | cmp -s - .venv/installed-from && return
    environment_belongs_here || make_environment
    say "installing (some hundred MB the first time)"
    .venv/bin/python -m pip install --constraint requirements/cpu.txt --editable '.[build,cpu,openvino,rtx,bench,serve,ray,dev,demo]' ||
        fail "the installation failed; pip's own words stand above"
    environment_recipe >.venv/installed-from
}
