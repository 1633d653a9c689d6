#!/usr/bin/env bash
# install.sh TARGET_DIR
#
# Makes TARGET_DIR/venv, a Python environment that can run wstest.py: the
# Autobahn|Testsuite 25.10.1 on the autobahn 0.10.9 it is pinned to. Both were
# written for Python 2; their published sources are checked by hash, then
# converted by port_to_py3.py.
#
# Needs Python 3.9 .. 3.13 with venv, pip and a package index. Compiles nothing,
# puts nothing outside TARGET_DIR, and does nothing when all is there already.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -eq 1 ] || { echo "usage: install.sh TARGET_DIR" >&2; exit 2; }
mkdir -p "$1"
target=$(cd "$1" && pwd)
venv=$target/venv
build=$target/build

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore

die() { echo "conformance suite: $*" >&2; exit 1; }

# Two test runs may start at once; the second waits here, then finds the work done.
exec 9>"$target/lock"
flock 9

python=
for candidate in "${PYTHON3:-}" python3 python3.13 python3.12 python3.11 python3.10 python3.9; do
    if [ -n "$candidate" ] && "$candidate" -c \
        'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
    then python=$candidate; break; fi
done
[ -n "$python" ] || die "needs Python 3.9 .. 3.13 with venv and pip:" \
    "apt-get install python3-venv python3-pip, or name an interpreter in PYTHON3"

stamp=$(cat "$here"/{install.sh,port_to_py3.py,requirements.txt,requirements-port.txt} \
    <("$python" -V) <(echo "$target") | sha256sum | cut -d' ' -f1)
if [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$stamp" ]; then exit 0; fi
rm -rf "$venv" "$build"
mkdir -p "$build"

"$python" -m venv "$build/venv"
"$build/venv/bin/pip" install -q --no-deps --only-binary :all: -r "$here/requirements-port.txt" \
    || die "pip could not install the porting tools (is a package index reachable?)"

# --no-build-isolation: the old setup.py files are run by the pinned setuptools.
fetch_source() { # name version sha256-of-sdist
    "$build/venv/bin/pip" download -q --no-deps --no-build-isolation --no-binary :all: \
        -d "$build" "$1==$2" 2>"$build/$1.log" || { cat "$build/$1.log" >&2; die "pip download $1==$2 failed"; }
    echo "$3  $build/$1-$2.tar.gz" | sha256sum -c --quiet - || die "$1-$2.tar.gz has the wrong hash"
    tar -xzf "$build/$1-$2.tar.gz" -C "$build"
}
fetch_source autobahntestsuite 25.10.1 b083d6e15330fc16f3e5f0975cce2b15f21bfa0c6db09547316b1852c6dbd6df
fetch_source autobahn 0.10.9 3fecc1e2a26a0421128ddcfb4e577f0bc669dd65d0e0fdad1c773965cbcef75a

"$python" -m venv "$venv"
"$venv/bin/pip" install -q --no-deps --only-binary :all: -r "$here/requirements.txt" \
    || die "pip could not install what the suite runs on"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp -r "$build/autobahntestsuite-25.10.1/autobahntestsuite" "$build/autobahn-0.10.9/autobahn" "$site/"
"$build/venv/bin/python" "$here/port_to_py3.py" "$site/autobahntestsuite" "$site/autobahn"

"$venv/bin/python" -c '
import autobahntestsuite.case as case
names = {k.__name__ for k in case.Cases}
assert len(names) == len(case.Cases) == 517, len(names)
import wsaccel.xormask, wsaccel.utf8validator' || die "the suite did not load its 517 cases"
"$venv/bin/python" "$here/wstest.py" -a >/dev/null || die "wstest does not start"

rm -rf "$build"
echo "$stamp" > "$venv/.stamp"
